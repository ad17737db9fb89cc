"""Whether an instance is well, and why not: by what it knows itself."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from monque import BlockedEventLoopError, Concurrency, Health, Job, JobErrorEvent, Lease, Monque, Polling
from monque import _engine as engine_module
from monque.testing import eventually

from .support import NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    import pytest

    from .support import Bench, Lab


def reason(monque: Monque, *words: str) -> bool:
    """Whether it is unwell for a reason in these words."""
    health = monque.health()
    assert health.healthy is (not health.reasons)
    return any(all(word in said for word in words) for said in health.reasons)


async def test_one_that_is_not_at_work_is_well_while_connected(bench: Bench) -> None:
    monque = bench.monque()
    assert reason(monque, "not connected", "initialize()")
    assert not monque.is_healthy()
    assert not monque.health().connected
    async with monque:
        assert monque.is_healthy()
        assert monque.health() == Health(
            healthy=True,
            connected=True,
            working=False,
            last_claim=None,
            last_settle=None,
            loop_lag=0,
            lease_age=None,
            running=0,
            reasons=(),
        )
    assert not monque.is_healthy()


async def test_it_proves_that_there_is_progress(bench: Bench) -> None:
    monque, runs = bench.monque(lease=Lease(timeout=0.9)), Gate()
    monque.worker("greet", runs)
    async with working(monque):
        health = monque.health()
        assert (health.healthy, health.working, health.running) == (True, True, 0)
        assert (health.last_claim, health.last_settle, health.lease_age) == (None, None, None)
        before = bench.now()
        await monque.enqueue("greet")
        await runs.reached(1)
        health = monque.health()
        claimed, settled = health.last_claim, health.last_settle
        assert claimed is not None
        assert settled is None
        assert health.running == 1
        assert health.lease_age is not None
        await eventually(lambda: (monque.health().lease_age or 1) < 0.3)
        runs.open()
        await eventually(lambda: bench.statuses() == {"completed": 1} and monque.health().last_settle)
        health = monque.health()
        assert health.last_settle is not None
        # The server's time is cut to milliseconds, and reckoned.
        assert before.timestamp() - 1 <= claimed.timestamp() <= health.last_settle.timestamp()
        assert health.last_settle.timestamp() <= bench.now().timestamp() + 1
        assert health.lease_age is None
        assert health.reasons == ()


async def test_it_says_that_the_database_does_not_answer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_PATIENCE", 0.3)
    monque = lab.monque(polling=Polling(interval=0.1, safety=0.1), concurrency=Concurrency(per_worker=1))
    monque.worker("greet", Gate())
    async with working(monque):
        with lab.failing("find", times=1, blockConnection=True, blockTimeMS=1500):
            await eventually(lambda: reason(monque, "the database has not answered a question"))
        await eventually(monque.is_healthy)


async def test_it_says_that_looking_for_jobs_does_not_succeed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_PATIENCE", 0.3)
    monque = lab.monque(polling=Polling(interval=0.1, safety=0.1))
    monque.worker("greet", Gate())
    async with working(monque):
        with lab.failing("find", errorCode=2):
            await eventually(lambda: reason(monque, "no look for jobs has succeeded"))
        await eventually(monque.is_healthy, timeout=20)


async def test_it_says_that_leases_are_not_renewed(lab: Lab) -> None:
    monque, runs = lab.monque(lease=Lease(timeout=0.6)), Gate()
    monque.worker("slow", runs)
    async with working(monque):
        await monque.enqueue("slow")
        await runs.reached(1)
        with lab.failing("update", errorCode=2):
            await eventually(lambda: reason(monque, "leases are not being renewed", "s ago"))
        await eventually(monque.is_healthy)
        runs.open()


async def test_it_says_that_its_thread_has_ended(bench: Bench) -> None:
    monque = bench.monque()
    async with working(monque):
        threads = await eventually(lambda: [t for t in threading.enumerate() if t.name == "monque-lease"])
        engine = monque._connection().engine
        assert engine is not None
        engine._keeper._leaving.set()
        await asyncio.to_thread(threads[0].join)
        assert reason(monque, "the thread that renews leases has ended")


async def test_a_blocked_event_loop_is_seen_from_other_threads(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_PATIENCE", 0.3)
    monque = bench.monque(polling=NO_POLLS)
    record, seen = Record(monque), list[Health]()
    watching = threading.Event()

    def watch() -> None:
        while not watching.is_set():
            health = monque.health()
            if any("event loop is blocked" in said for said in health.reasons):
                seen.append(health)
                watching.set()

    @monque.worker("blocks")
    async def blocks(_: Job[Any]) -> None:
        threading.Thread(target=watch).start()
        deadline = time.monotonic() + 20
        while not (watching.is_set() and time.monotonic() > deadline - 18.5) and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251  what is tested

    async with working(monque):
        await monque.enqueue("blocks")
        await eventually(record.has(JobErrorEvent), timeout=30)
        await eventually(monque.is_healthy)
    assert isinstance(record.of(JobErrorEvent)[0].error, BlockedEventLoopError)
    assert seen[0].loop_lag >= 0.3


async def test_work_that_has_ended_by_itself_is_told(bench: Bench) -> None:
    monque = bench.monque()
    async with working(monque):
        engine = monque._connection().engine
        work = monque._connection().work
        assert engine is not None
        assert work is not None
        assert monque.health().working
        engine.stop()
        await asyncio.wait([work])
        assert reason(monque, "the work has ended")
        assert not monque.health().working


async def test_without_a_server_that_takes_writes_it_is_not_connected(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monque = bench.monque()
    async with monque:
        topology = type(monque._connection().client.topology_description)

        def has_none(_: object) -> bool:
            return False

        monkeypatch.setattr(topology, "has_writable_server", has_none)
        assert reason(monque, "no server that takes writes")
        await monque.start()
        assert reason(monque, "no server that takes writes")
        assert not monque.health().connected
