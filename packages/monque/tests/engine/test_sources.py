from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient

from monque import ConfigurationError, Lease, Monque
from monque.errors import ConnectionError
from monque.testing import eventually

from .support import Gate, working

if TYPE_CHECKING:
    from .support import Bench


async def _stores_in(monque: Monque, bench: Bench) -> bool:
    async with monque:
        job = await monque.enqueue("greet")
    return bench.count(_id=job.id) == 1


async def test_a_uri_is_a_source(bench: Bench) -> None:
    assert await _stores_in(Monque(bench.uri), bench)


async def test_no_connection_that_was_opened_for_a_uri_is_left_open(bench: Bench) -> None:
    monque = bench.monque(lease=Lease(timeout=0.3))
    runs = Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        # Leases are renewed over a connection of their own.
        await eventually(lambda: bench.find(job)["lastHeartbeat"] > bench.find(job)["lockedAt"])
        assert _connections(bench) >= 2
        runs.open()
    await eventually(lambda: _connections(bench) == 0)


def _connections(bench: Bench) -> int:
    """How many the server has from this test's instances."""
    everything = bench.client.admin.aggregate([{"$currentOp": {"idleConnections": True, "localOps": True}}])
    # The server may take its time to notice that nobody waits for a stream any more; that one has been ended.
    return sum(each.get("appName") == bench.app and not each.get("killPending") for each in everything)


async def test_a_database_is_a_source_and_its_client_stays_open(bench: Bench) -> None:
    async with AsyncMongoClient[dict[str, Any]](bench.uri) as client:
        assert await _stores_in(Monque(client[bench.database_name]), bench)
        assert await client.admin.command("ping")


async def test_a_client_is_a_source_and_stays_open(bench: Bench) -> None:
    async with AsyncMongoClient[dict[str, Any]](bench.uri) as client:
        assert await _stores_in(Monque(client), bench)
        assert await client.admin.command("ping")


async def test_without_a_source_the_uri_comes_from_the_environment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONQUE_URI", bench.uri)
    assert await _stores_in(Monque(), bench)


@pytest.mark.parametrize("source", ["http://127.0.0.1", 5, object()])
def test_what_is_no_source_is_refused_at_once(source: Any) -> None:
    with pytest.raises(ConfigurationError, match="source"):
        Monque(source)


def test_what_are_no_options_is_refused_at_once(bench: Bench) -> None:
    options: Any = {"collection": "jobs"}
    with pytest.raises(ConfigurationError, match="options"):
        Monque(bench.uri, options)


async def test_the_settings_of_a_uri_win_over_those_of_monque(bench: Bench) -> None:
    async with Monque(f"{bench.uri}&serverSelectionTimeoutMS=1234") as monque:
        options = monque._connection().client.options
    assert (options.pool_options.appname, options.server_selection_timeout) == (bench.app, 1.234)


async def test_an_unreachable_server_is_told_early_and_without_the_password() -> None:
    monque = Monque("mongodb://ada:secret@127.0.0.1:1/?serverSelectionTimeoutMS=100")
    with pytest.raises(ConnectionError) as raised:
        await monque.initialize()
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is not None
    assert not monque.is_healthy()
    await monque.close()
