"""Health and metrics over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from http.client import HTTPConnection, RemoteDisconnected
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from monque import InvalidArgumentError, Job, JobErrorEvent, Monque, NewJob, Retry
from monque.probes import asgi, serve
from monque.prometheus import instrument
from monque.sync import Monque as SyncMonque
from monque.testing import eventually

from .support import working

Answer = tuple[int, str, str]


def fetch(port: int, path: str, method: str = "GET", host: str = "127.0.0.1", **headers: str) -> Answer:
    connection = HTTPConnection(host, port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read().decode()
    finally:
        connection.close()


async def get(port: int, path: str, *more: Any, **headers: str) -> Answer:
    return await asyncio.to_thread(fetch, port, path, *more, **headers)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def values(metrics: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in metrics.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines if "_created" not in name and "_bucket" not in name}


async def test_an_instance_says_how_it_is(monque_uri: str) -> None:
    monque = Monque(monque_uri)
    with serve(monque, port=0) as port:
        status, kind, body = await get(port, "/readyz")
        assert (status, kind, json.loads(body)["connected"]) == (503, "application/json", False)
        assert json.loads(body)["reasons"] == list(monque.health().reasons)
        assert await get(port, "/livez") == (200, "text/plain; charset=utf-8", "ok\n")
        async with working(monque):
            for path in ("/readyz", "/health", "/health?verbose=1"):
                status, kind, body = await get(port, path)
                assert (status, kind, json.loads(body)["healthy"]) == (200, "application/json", True)
            assert (await get(port, "/livez"))[0] == 200
        assert (await get(port, "/readyz"))[0] == 503


async def test_an_instance_that_makes_no_progress_is_to_be_restarted(
    monque_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monque = Monque(monque_uri)
    async with working(monque):
        with serve(monque, port=0) as port:
            assert (await get(port, "/livez"))[0] == 200
            stuck = replace(monque.health(), healthy=False, reasons=("no look for jobs", "the event loop is blocked"))
            monkeypatch.setattr(monque, "health", lambda: stuck)
            status, _, body = await get(port, "/livez")
            assert (status, body) == (503, "no look for jobs\nthe event loop is blocked\n")
            assert (await get(port, "/readyz"))[0] == 503


async def test_it_answers_while_the_event_loop_is_blocked(monque_uri: str) -> None:
    async with Monque(monque_uri) as monque:
        with serve(monque, port=0) as port:
            answers = list[Answer]()
            thread = threading.Thread(target=lambda: answers.append(fetch(port, "/health")))
            thread.start()
            thread.join(30)
            assert [status for status, *_ in answers] == [200]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
async def test_it_listens_where_it_is_told_to_and_no_longer_than_that(host: str) -> None:
    with serve(Monque(), host=host, port=0) as port:
        assert (await get(port, "/livez", "GET", host))[0] == 200
        with pytest.raises(OSError, match="in use"), serve(Monque(), host=host, port=port):
            raise AssertionError
    with pytest.raises(OSError, match="refused"):
        await get(port, "/livez", "GET", host)
    assert "monque-probes" not in [thread.name for thread in threading.enumerate()]


async def test_other_paths_and_methods(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="monque")
    with serve(Monque(), port=0) as port:
        assert await get(port, "/") == (404, "text/plain; charset=utf-8", "/livez, /readyz, /health, /metrics\n")
        assert await get(port, "/livez", "HEAD") == (200, "text/plain; charset=utf-8", "")
        assert (await get(port, "/livez", "POST"))[0] == 501
    assert 'probes: "GET / HTTP/1.1" 404 -' in caplog.messages


async def test_what_is_wrong_inside_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, logger="monque")
    monque = Monque()
    for error, level in ((ValueError("odd"), "ERROR"), (BrokenPipeError(), "DEBUG")):

        def fail(error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(monque, "health", fail)
        with serve(monque, port=0) as port, pytest.raises(RemoteDisconnected):
            await get(port, "/livez")
        (record,) = [record for record in caplog.records if record.message == "probes: a client was not answered"]
        assert (record.levelname, record.exc_info and record.exc_info[1]) == (level, error)
        caplog.clear()
    assert capsys.readouterr() == ("", "")


async def test_a_client_that_says_nothing_keeps_nobody_waiting() -> None:
    with serve(Monque(), port=0) as port, socket.create_connection(("127.0.0.1", port)):
        assert (await get(port, "/livez"))[0] == 200


# --- metrics --------------------------------------------------------------------------------------------------------


async def test_metrics_are_served_beside_it(monque_uri: str, registry: CollectorRegistry) -> None:
    monque = Monque(monque_uri)
    instrument(monque, registry)
    sent = asyncio.Event()

    @monque.worker("mail", retry=Retry(max_retries=2, base=0.01))
    async def mail(job: Job[Any]) -> None:
        if job.data:
            raise ValueError

    @monque.worker("slow")
    async def slow(_: Job[Any]) -> None:
        sent.set()
        await asyncio.Event().wait()

    with serve(monque, port=0, registry=registry) as port:
        async with working(monque):
            await monque.enqueue_many([NewJob(name="mail"), NewJob(name="mail", data=1)])
            job = await monque.enqueue("slow")
            (stale,) = await monque.enqueue_many([NewJob(name="elsewhere")])
            claim = {"status": "processing", "claimToken": "t", "lastHeartbeat": datetime(2020, 1, 1, tzinfo=UTC)}
            await monque._connection().collection.update_one({"_id": stale.id}, {"$set": claim})
            monque._events.emit(JobErrorEvent, ValueError("odd"))
            await sent.wait()
            await monque.jobs.cancel(job.id)
            wanted = {
                'monque_runs_total{name="mail",outcome="completed"}': 1,
                'monque_runs_total{name="mail",outcome="retried"}': 1,
                'monque_runs_total{name="mail",outcome="failed"}': 1,
                'monque_run_duration_seconds_count{name="mail"}': 1,
                'monque_lost_total{name="slow"}': 1,
                "monque_recovered_total": 1,
                "monque_errors_total": 1,
                "monque_healthy": 1,
                "monque_running": 0,
            }
            await eventually(lambda: values_of(registry).items() >= wanted.items(), timeout=40)
            known = values_of(registry)
            assert 0 <= known["monque_loop_lag_seconds"] < 30
            assert 0 <= monque._connection().clock.now().timestamp() - known["monque_last_claim_timestamp_seconds"] < 60
            assert (
                0 <= monque._connection().clock.now().timestamp() - known["monque_last_settle_timestamp_seconds"] < 60
            )
            assert "monque_lease_age_seconds" not in known
        status, kind, body = await get(port, "/metrics")
        assert (status, kind.split(";")[0]) == (200, "text/plain")
        assert values(body).items() >= {**wanted, "monque_healthy": 0}.items()
        _, kind, _ = await get(port, "/metrics", Accept="application/openmetrics-text")
        assert kind.startswith("application/openmetrics-text")


def values_of(registry: CollectorRegistry) -> dict[str, float]:
    samples = (sample for metric in registry.collect() for sample in metric.samples)
    return {_shown(sample.name, sample.labels): sample.value for sample in samples}


def _shown(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f'{label}="{value}"' for label, value in labels.items())
    return f"{name}{{{inner}}}" if inner else name


async def test_what_waits_is_asked_for_once_in_a_while(
    monque_uri: str, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Monque(monque_uri) as monque:
        instrument(monque, registry)
        await monque.enqueue("mail")
        asked = list[object]()
        ask = monque.ask_for_backlog

        def counting() -> Any:
            asked.append(ask())
            return asked[-1]

        monkeypatch.setattr(monque, "ask_for_backlog", counting)
        metrics = [await asyncio.to_thread(values_of, registry) for _ in range(5)][-1]
        assert (
            metrics.items()
            >= {
                'monque_jobs{name="mail",status="pending"}': 1,
                'monque_jobs{name="mail",status="due"}': 1,
                'monque_jobs{name="mail",status="processing"}': 0,
            }.items()
        )
        assert 'monque_lag_seconds{name="mail"}' in metrics
        assert len(asked) == 1
        monkeypatch.setattr("monque._observed._FRESH", 0)
        await asyncio.to_thread(values_of, registry)
        assert len(asked) == 2


async def test_where_an_event_loop_runs_nobody_waits(monque_uri: str, registry: CollectorRegistry) -> None:
    async with Monque(monque_uri) as monque:
        instrument(monque, registry)
        await monque.enqueue("mail")
        assert "monque_jobs" not in " ".join(values_of(registry))
        await eventually(lambda: 'monque_jobs{name="mail",status="due"}' in values_of(registry))


async def test_what_was_known_last_is_told_when_the_database_does_not_answer(
    monque_uri: str, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monque._observed._FRESH", 0)
    async with Monque(monque_uri) as monque:
        instrument(monque, registry)
        await monque.enqueue("mail")
        before = await asyncio.to_thread(values_of, registry)
        await monque._connection().collection.drop_indexes()
        after = await asyncio.to_thread(values_of, registry)
    assert before == {**after, 'monque_lag_seconds{name="mail"}': before['monque_lag_seconds{name="mail"}']}


def test_an_event_loop_that_is_gone_is_not_asked(monque_uri: str, registry: CollectorRegistry) -> None:
    monque = Monque(monque_uri)
    instrument(monque, registry)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(monque.initialize())
    loop.run_until_complete(monque.close())
    assert "monque_jobs" not in " ".join(values_of(registry))
    loop.close()


def test_without_an_event_loop(monque_uri: str, registry: CollectorRegistry) -> None:
    with SyncMonque(monque_uri) as monque:
        instrument(monque, registry)
        monque.enqueue("mail")
        assert values_of(registry)['monque_jobs{name="mail",status="due"}'] == 1
        assert [one.name for one in monque.jobs.backlog()] == ["mail"]
        with serve(monque, port=0, registry=registry) as port:
            assert fetch(port, "/readyz")[0] == 200


async def test_without_prometheus_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monque.prometheus", None)
    monkeypatch.delattr("monque.prometheus")
    with serve(Monque(), port=0) as port:
        status, _, body = await get(port, "/metrics")
        assert (status, "monque[prometheus]" in body) == (404, True)
        assert (await get(port, "/livez"))[0] == 200


# --- ASGI -----------------------------------------------------------------------------------------------------------


async def call(app: Any, path: str, root: str = "", **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
    messages = list[dict[str, Any]]()

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    await app({"type": "http", "path": path, "root_path": root, "headers": given}, None, send)
    start, body = messages
    return start["status"], dict(start["headers"]), body["body"]


async def test_the_same_as_an_application(monque_uri: str, registry: CollectorRegistry) -> None:
    async with Monque(monque_uri) as monque:
        instrument(monque, registry)
        app = asgi(monque, registry)
        status, headers, body = await call(app, "/health")
        assert (status, headers[b"content-type"], json.loads(body)["healthy"]) == (200, b"application/json", True)
        assert (await call(app, "/monque/livez", root="/monque"))[0] == 200
        assert (await call(app, "/livez", root="/monque"))[0] == 200
        assert (await call(app, "/nothing"))[0] == 404
        _, headers, body = await call(app, "/metrics", accept="application/openmetrics-text")
        assert headers[b"content-type"].startswith(b"application/openmetrics-text")
        assert b"monque_healthy 1.0" in body


def test_what_is_no_monque_is_refused() -> None:
    nothing: Any = "monque"
    for make in (lambda: asgi(nothing), lambda: instrument(nothing), lambda: serve(nothing).__enter__()):
        with pytest.raises(InvalidArgumentError, match="monque: expected a Monque"):
            make()
