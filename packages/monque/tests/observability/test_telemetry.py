"""Traces and metrics: their names by the published conventions, and one trace for all that follows from a request."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics.export import Gauge, Histogram, Sum
from opentelemetry.trace import SpanKind, StatusCode

from monque import Cancel, Fail, InvalidArgumentError, Job, Monque, NewJob, Retry, RetryIn, Snooze
from monque.sync import Monque as SyncMonque
from monque.telemetry import instrument
from monque.testing import eventually

from .support import attributes_of, context_of, working

if TYPE_CHECKING:
    from .support import Telemetry

Jobs = Any
ONCE = Retry(max_retries=1)
IN_ORDER = ["process resize", "send notify", "process notify"]
PROGRAM = Path(__file__).parent / "traced_program.py"

# --- what is published: semantic conventions 1.44, docs/messaging/messaging-spans.md and messaging-metrics.md --------

SPAN_REQUIRED = {
    "messaging.operation.name",
    "messaging.system",
    "messaging.operation.type",
    "messaging.destination.name",
}
SPAN_KNOWN = SPAN_REQUIRED | {
    "error.type",
    "messaging.batch.message_count",
    "messaging.client.id",
    "messaging.consumer.group.name",
    "messaging.destination.anonymous",
    "messaging.destination.partition.id",
    "messaging.destination.subscription.name",
    "messaging.destination.template",
    "messaging.destination.temporary",
    "messaging.message.body.size",
    "messaging.message.conversation_id",
    "messaging.message.envelope.size",
    "messaging.message.id",
    "network.peer.address",
    "network.peer.port",
    "server.address",
    "server.port",
}
OPERATION_TYPES = {"create", "send", "receive", "process", "settle"}
METRIC_REQUIRED = {"messaging.operation.name", "messaging.system", "messaging.destination.name"}
METRIC_KNOWN = METRIC_REQUIRED | {
    "error.type",
    "messaging.consumer.group.name",
    "messaging.destination.partition.id",
    "messaging.destination.subscription.name",
    "messaging.destination.template",
    "server.address",
    "server.port",
}
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
METRICS: dict[str, tuple[type, str, set[str]]] = {
    "messaging.client.sent.messages": (Sum, "{message}", METRIC_KNOWN),
    "messaging.client.consumed.messages": (Sum, "{message}", METRIC_KNOWN),
    "messaging.client.operation.duration": (Histogram, "s", METRIC_KNOWN | {"messaging.operation.type"}),
    "messaging.process.duration": (Histogram, "s", METRIC_KNOWN),
}
# Attributes and metrics of a messaging system's own are in a namespace that bears its name.
OWN = "messaging.monque."
OWN_METRICS: dict[str, tuple[type, str]] = {
    "messaging.monque.jobs": (Gauge, "{job}"),
    "messaging.monque.lag": (Gauge, "s"),
    "messaging.monque.lost": (Sum, "{job}"),
    "messaging.monque.recovered": (Sum, "{job}"),
}


async def run(monque: Monque, jobs: Jobs, *names: str, **settings: Any) -> list[Job[Any]]:
    """Enqueue jobs of these names, and wait until all of them have ended."""
    async with working(monque):
        enqueued = [await monque.enqueue(name, **settings) for name in names]
        await eventually(lambda: not jobs.count_documents({"status": {"$in": ["pending", "processing"]}}), timeout=30)
    return enqueued


async def test_spans_are_named_and_attributed_as_published(
    monque_uri: str, monque_database: Jobs, telemetry: Telemetry
) -> None:
    monque = telemetry.monque(monque_uri)

    @monque.worker("resize", retry=ONCE)
    async def resize(job: Job[Any]) -> None:
        if job.data:
            raise KeyError(job.data)

    async with working(monque):
        job = await monque.enqueue("resize")
        batch = await monque.enqueue_many([("resize", {"page": 1}), ("resize", {})])
        await eventually(lambda: len(telemetry.spans("process resize")) == 3)
        instance = monque.instance_id
    sent, many = telemetry.spans("send resize")
    ran = {attributes_of(span)["messaging.message.id"]: span for span in telemetry.spans("process resize")}
    assert set(ran) == {str(one.id) for one in (job, *batch)}
    for span in telemetry.spans():
        attributes = attributes_of(span)
        assert attributes.keys() >= SPAN_REQUIRED
        assert {name for name in attributes if not name.startswith(OWN)} <= SPAN_KNOWN
        assert attributes["messaging.operation.type"] in OPERATION_TYPES
        assert span.name == f"{attributes['messaging.operation.name']} {attributes['messaging.destination.name']}"
        assert span.kind is (SpanKind.PRODUCER if span.name.startswith("send") else SpanKind.CONSUMER)
        assert (attributes["messaging.system"], attributes["messaging.client.id"]) == ("monque", instance)
        assert attributes["server.address"]
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
    assert attributes_of(sent)["messaging.message.id"] == str(job.id)
    assert "messaging.batch.message_count" not in attributes_of(sent)
    assert attributes_of(many)["messaging.batch.message_count"] == 2
    assert "messaging.message.id" not in attributes_of(many)
    failed = ran[str(batch[0].id)]
    assert attributes_of(failed)["error.type"] == "KeyError"
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "KeyError: {'page': 1}")
    assert [event.name for event in failed.events] == ["exception"]
    for span in (sent, many, ran[str(job.id)], ran[str(batch[1].id)]):
        assert "error.type" not in attributes_of(span)
        assert span.status.status_code is StatusCode.UNSET


async def test_metrics_are_named_and_attributed_as_published(
    monque_uri: str, monque_database: Jobs, telemetry: Telemetry
) -> None:
    monque = telemetry.monque(monque_uri)

    @monque.worker("resize", retry=ONCE)
    async def resize(job: Job[Any]) -> None:
        if job.data:
            raise KeyError(job.data)

    await run(monque, monque_database.monque_jobs, "resize")
    await run(monque, monque_database.monque_jobs, "resize", data={"page": 1})
    metrics = telemetry.metrics()
    assert metrics.keys() - OWN_METRICS.keys() == METRICS.keys()
    for name, (kind, unit, known) in METRICS.items():
        metric = metrics[name]
        assert (type(metric.data), metric.unit) == (kind, unit)
        for point in metric.data.data_points:
            attributes = dict(point.attributes or {})
            assert METRIC_REQUIRED <= attributes.keys() <= known
            if kind is Histogram:
                assert tuple(getattr(point, "explicit_bounds", ())) == BUCKETS
    counts = {
        name: {attributes.get("error.type"): value for attributes, value in telemetry.points(name)} for name in METRICS
    }
    assert counts == {
        "messaging.client.sent.messages": {None: 2},
        "messaging.client.consumed.messages": {None: 2},
        "messaging.client.operation.duration": {None: 2},
        "messaging.process.duration": {None: 1, "KeyError": 1},
    }


async def test_a_duration_is_that_of_its_span(monque_uri: str, monque_database: Jobs, telemetry: Telemetry) -> None:
    monque = telemetry.monque(monque_uri)
    monque.worker("resize", lambda _: None)
    await run(monque, monque_database.monque_jobs, "resize")
    metrics = telemetry.metrics()
    for span, name in (
        ("send resize", "messaging.client.operation.duration"),
        ("process resize", "messaging.process.duration"),
    ):
        ended = telemetry.span(span)
        point: Any = metrics[name].data.data_points[0]
        assert point.sum == ((ended.end_time or 0) - (ended.start_time or 0)) / 1e9


async def test_jobs_of_several_names_are_sent_by_one_span_and_counted_apart(
    monque_uri: str, telemetry: Telemetry
) -> None:
    async with telemetry.monque(monque_uri) as monque:
        await monque.enqueue_many([("a", {}), ("b", {}), ("a", {})])
    span = telemetry.span("send")
    assert "messaging.destination.name" not in attributes_of(span)
    sent = telemetry.points("messaging.client.sent.messages")
    assert {attributes["messaging.destination.name"]: count for attributes, count in sent} == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("server", "told"),
    [
        (("db", 27017), {"server.address": "db", "server.port": 27017}),
        (("/run/mongod.sock", None), {"server.address": "/run/mongod.sock"}),
        (None, {}),
    ],
)
async def test_the_server_is_told_as_far_as_it_is_known(
    server: object, told: dict[str, Any], monque_uri: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Monque, "server", server)
    async with telemetry.monque(monque_uri) as monque:
        await monque.enqueue("a")
    attributes = attributes_of(telemetry.span("send a"))
    assert {name: value for name, value in attributes.items() if name.startswith("server.")} == told


async def test_a_key_that_is_taken_makes_no_message_of_that_id(monque_uri: str, telemetry: Telemetry) -> None:
    async with telemetry.monque(monque_uri) as monque:
        await monque.enqueue("a", unique_key="k")
    assert "messaging.message.id" not in attributes_of(telemetry.span("send a"))


async def test_a_write_that_fails_is_an_error(monque_uri: str, telemetry: Telemetry) -> None:
    async with telemetry.monque(monque_uri) as monque, monque._connection().client.start_session() as session:
        await session.end_session()
        with pytest.raises(Exception, match="ended session"):
            await monque.enqueue("a", session=session)
    span = telemetry.span("send a")
    assert attributes_of(span)["error.type"] == "pymongo.errors.InvalidOperation"
    assert span.status.status_code is StatusCode.ERROR
    for name in ("messaging.client.sent.messages", "messaging.client.operation.duration"):
        ((attributes, count),) = telemetry.points(name)
        assert (attributes["error.type"], count) == ("pymongo.errors.InvalidOperation", 1)


# --- one trace ------------------------------------------------------------------------------------------------------


async def test_a_trace_crosses_two_processes(monque_uri: str, telemetry: Telemetry) -> None:
    async with telemetry.monque(monque_uri) as monque:
        with telemetry.tracer.start_as_current_span("request") as request:
            await monque.enqueue("resize")
    worker = await asyncio.create_subprocess_exec(
        sys.executable,
        PROGRAM,
        env={**os.environ, "MONQUE_URI": monque_uri},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await worker.communicate()
    assert worker.returncode == 0, errors.decode()
    spans = sorted(json.loads(output), key=lambda span: (IN_ORDER.index(span["name"]), not span["error"]))
    first, second, sent, third = spans
    sending = telemetry.span("send resize")
    # request → send → process, twice → send → process: all of one trace, each the child of the one before.
    assert sending.parent == request.get_span_context()
    assert {span["trace"] for span in spans} == {f"{context_of(sending).trace_id:032x}"}
    parent = f"{context_of(sending).span_id:016x}"
    assert (first["parent"], first["links"], first["error"]) == (parent, [parent], "ValueError")
    assert (second["parent"], second["links"], second["error"]) == (parent, [parent], None)
    assert (sent["parent"], sent["links"]) == (second["span"], [])
    assert (third["parent"], third["links"]) == (sent["span"], [sent["span"]])


@pytest.mark.parametrize("place", ["loop", "thread", "process"])
async def test_handlers_are_in_the_trace_wherever_they_run(
    place: Any, monque_uri: str, telemetry: Telemetry, handlers: Any
) -> None:
    monque = telemetry.monque(monque_uri)

    async def where(job: Job[Any]) -> Any:
        return handlers.where(job)

    monque.worker("where", where if place == "loop" else handlers.where, run_in=place, store_result=True)
    async with working(monque):
        with telemetry.tracer.start_as_current_span("request") as request:
            token = context.attach(baggage.set_baggage("tenant", "acme"))
            job = await monque.enqueue("where")
            context.detach(token)
        seen = await monque.jobs.result(job.id)
        await eventually(lambda: telemetry.spans("process where"))
    process = context_of(telemetry.span("process where"))
    assert seen == {"trace": f"{process.trace_id:032x}", "span": f"{process.span_id:016x}", "tenant": "acme"}
    assert process.trace_id == request.get_span_context().trace_id


async def test_runs_at_the_same_time_do_not_mix_their_traces(
    monque_uri: str, monque_database: Jobs, telemetry: Telemetry
) -> None:
    together, there = 8, list[int]()
    all_there = asyncio.Event()
    monque = telemetry.monque(monque_uri)
    own: dict[str, int] = {}

    @monque.worker("first", concurrency=together)
    async def first(job: Job[Any]) -> None:
        there.append(1)
        if len(there) == together:
            all_there.set()
        await all_there.wait()
        own[job.data["request"]] = trace.get_current_span().get_span_context().trace_id
        await asyncio.gather(*(monque.enqueue("second", job.data) for _ in range(2)))

    @monque.worker("second", concurrency=together)
    async def second(job: Job[Any]) -> None:
        assert trace.get_current_span().get_span_context().trace_id == own[job.data["request"]]

    async def request(number: int) -> tuple[str, int]:
        with telemetry.tracer.start_as_current_span("request") as span:
            await monque.enqueue("first", {"request": str(number)})
            return str(number), span.get_span_context().trace_id

    with telemetry.tracer.start_as_current_span("start"):
        # What is current where an instance is started is none of its runs' business.
        await monque.initialize()
        await monque.start()
    async with monque:
        requests = dict(await asyncio.gather(*(request(number) for number in range(together))))
        await eventually(lambda: monque_database.monque_jobs.count_documents({"status": "completed"}) == 3 * together)
    assert own == requests
    assert Counter(context_of(span).trace_id for span in telemetry.spans("process second")) == dict.fromkeys(
        requests.values(), 2
    )
    assert trace.get_current_span().get_span_context().is_valid is False


async def test_a_job_without_a_trace_begins_one_of_its_own(
    monque_uri: str, monque_database: Jobs, telemetry: Telemetry
) -> None:
    monque = telemetry.monque(monque_uri)
    monque.worker("tick", lambda _: None)
    async with working(monque):
        with telemetry.tracer.start_as_current_span("declare"):
            job = await monque.schedule("* * * * * *", "tick")
        await eventually(lambda: len(telemetry.spans("process tick")) >= 2)
    one, other = telemetry.spans("process tick")[:2]
    assert (one.parent, other.parent, one.links) == (None, None, ())
    assert len({context_of(span).trace_id for span in (one, other, telemetry.span("declare"))}) == 3
    assert job.headers == {}


async def test_a_trace_that_a_job_brings_is_left_alone_and_linked_to(monque_uri: str, telemetry: Telemetry) -> None:
    own = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    async with telemetry.monque(monque_uri) as monque:
        job, other = await monque.enqueue_many([NewJob(name="a", headers=own), NewJob(name="a", headers={"x": "y"})])
    assert job.headers == own
    assert other.headers.keys() == {"x", "traceparent"}
    (link,) = telemetry.span("send a").links
    assert f"{link.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"


async def test_without_an_event_loop(monque_uri: str, telemetry: Telemetry) -> None:
    def enqueue() -> Job[Any]:
        with SyncMonque(monque_uri) as monque:
            telemetry.instrument(monque)
            with telemetry.tracer.start_as_current_span("request"):
                return monque.enqueue("a")

    job = await asyncio.to_thread(enqueue)
    span = telemetry.span("send a")
    assert span.parent == telemetry.span("request").get_span_context()
    assert f"{context_of(span).trace_id:032x}" in job.headers["traceparent"]


# --- outcomes -------------------------------------------------------------------------------------------------------

NO = ValueError("no")
ENDINGS: dict[str, tuple[Any, str, str | None]] = {
    "returns": (None, "completed", None),
    "raises": (NO, "failed", "ValueError"),
    "raises Fail": (Fail("no"), "failed", "monque.outcome.Fail"),
    "raises RetryIn": (RetryIn(3600, NO), "failed", "ValueError"),
    "raises Snooze": (Snooze(3600), "snoozed", None),
    "raises Cancel": (Cancel("no"), "cancelled", None),
}


@pytest.mark.parametrize("way", ["raised", "returned"])
@pytest.mark.parametrize(("ending", "outcome", "error"), ENDINGS.values(), ids=ENDINGS.keys())
async def test_what_a_run_meant_is_told(
    ending: Any, outcome: str, error: str | None, way: str, monque_uri: str, telemetry: Telemetry
) -> None:
    monque = telemetry.monque(monque_uri, retry=ONCE)

    @monque.worker("a")
    async def handler(_: Job[Any]) -> object:
        if ending is not None and (way == "raised" or ending is NO):
            raise ending
        return ending

    async with working(monque):
        await monque.enqueue("a")
        await eventually(lambda: telemetry.spans("process a"))
    attributes = attributes_of(telemetry.span("process a"))
    assert attributes["messaging.monque.outcome"] == outcome
    assert attributes["messaging.monque.attempt"] == 1
    assert attributes.get("error.type") == error


async def test_a_run_that_takes_too_long_has_failed(monque_uri: str, telemetry: Telemetry) -> None:
    monque = telemetry.monque(monque_uri, retry=ONCE)

    @monque.worker("a")
    async def handler(_: Job[Any]) -> None:
        await asyncio.Event().wait()

    async with working(monque):
        await monque.enqueue("a", timeout=0.05)
        await eventually(lambda: telemetry.spans("process a"))
    assert attributes_of(telemetry.span("process a"))["error.type"] == "monque.errors.JobTimeoutError"


async def test_a_run_that_a_stop_cuts_short_is_no_failure(monque_uri: str, telemetry: Telemetry) -> None:
    monque = telemetry.monque(monque_uri)
    has_begun = asyncio.Event()

    @monque.worker("a")
    async def handler(_: Job[Any]) -> None:
        has_begun.set()
        await asyncio.Event().wait()

    async with working(monque):
        await monque.enqueue("a")
        await has_begun.wait()
        await monque.stop(hurry=True)
    span = telemetry.span("process a")
    assert attributes_of(span)["messaging.monque.outcome"] == "released"
    assert "error.type" not in attributes_of(span)
    assert span.status.status_code is StatusCode.UNSET


# --- what waits -----------------------------------------------------------------------------------------------------


async def test_what_waits_is_observed(monque_uri: str, monque_database: Jobs, telemetry: Telemetry) -> None:
    monque = telemetry.monque(monque_uri)
    assert telemetry.points("messaging.monque.jobs") == []
    async with monque:
        await monque.enqueue_many([NewJob(name="a"), NewJob(name="a", delay=3600), NewJob(name="b", delay=3600)])
        jobs = await asyncio.to_thread(telemetry.points, "messaging.monque.jobs")
        counts = {(one["messaging.destination.name"], one["messaging.monque.status"]): count for one, count in jobs}
        assert counts == {
            ("a", "pending"): 2,
            ("a", "due"): 1,
            ("a", "processing"): 0,
            ("b", "pending"): 1,
            ("b", "due"): 0,
            ("b", "processing"): 0,
        }
        lags = {one["messaging.destination.name"]: lag for one, lag in telemetry.points("messaging.monque.lag")}
        assert (lags["a"] > 0, lags["b"]) == (True, 0)
    metrics = telemetry.metrics()
    for name, (kind, unit) in OWN_METRICS.items():
        if name in metrics:
            assert (type(metrics[name].data), metrics[name].unit) == (kind, unit)
    # It is told from memory, and there is nobody to ask any more.
    assert len(telemetry.points("messaging.monque.jobs")) == 6


async def test_losses_and_recoveries_are_counted(monque_uri: str, monque_database: Jobs, telemetry: Telemetry) -> None:
    monque = telemetry.monque(monque_uri)
    has_begun = asyncio.Event()

    @monque.worker("a")
    async def handler(_: Job[Any]) -> None:
        has_begun.set()
        await asyncio.Event().wait()

    async with monque:
        job = await monque.enqueue("a")
        (stale,) = await monque.enqueue_many([NewJob(name="elsewhere")])
        monque_database.monque_jobs.update_one(
            {"_id": stale.id},
            {"$set": {"status": "processing", "claimToken": "t", "lastHeartbeat": stale.created_at.replace(year=2020)}},
        )
        await monque.start()
        await has_begun.wait()
        await monque.jobs.cancel(job.id)
        await eventually(lambda: telemetry.points("messaging.monque.lost"))
        await eventually(lambda: telemetry.points("messaging.monque.recovered"))
    assert telemetry.points("messaging.monque.lost") == [
        ({"messaging.system": "monque", "messaging.destination.name": "a"}, 1)
    ]
    assert telemetry.points("messaging.monque.recovered") == [({"messaging.system": "monque"}, 1)]


# --- without ---------------------------------------------------------------------------------------------------------


async def test_without_an_sdk_nothing_happens(monque_uri: str, monque_database: Jobs) -> None:
    monque = Monque(monque_uri)
    instrument(monque)
    monque.worker("a", lambda _: None)
    (job,) = await run(monque, monque_database.monque_jobs, "a")
    assert job.headers == {}


@pytest.mark.parametrize("monque", [None, "monque", Monque], ids=repr)
def test_what_is_no_monque_is_refused(monque: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"monque: expected a Monque, or a monque\.sync\.Monque"):
        instrument(monque)
