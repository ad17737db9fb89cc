"""Leases: renewed from a thread of their own, whatever the event loop does, and given up when they are lost."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from monque import (
    BlockedEventLoopError,
    Job,
    JobCompleteEvent,
    JobErrorEvent,
    JobLostEvent,
    Lease,
    Polling,
    StaleRecoveredEvent,
)
from monque._runs import Run
from monque.testing import eventually

from .support import NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    import pytest

    from .support import Bench, Lab


async def test_a_lease_is_renewed_every_third_of_it_without_touching_the_rest(bench: Bench) -> None:
    monque = bench.monque(lease=Lease(timeout=0.6))
    runs = Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        before = bench.find(job)
        await eventually(lambda: bench.find(job)["lastHeartbeat"] > before["lastHeartbeat"] + timedelta(seconds=1))
        after = bench.find(job)
        runs.open()
    assert {**after, "lastHeartbeat": None} == {**before, "lastHeartbeat": None}
    assert after["heartbeatInterval"] == 200


async def test_all_leases_of_an_instance_are_renewed_in_one_write(lab: Lab) -> None:
    monque = lab.monque(lease=Lease(timeout=0.6))
    runs = Gate()
    monque.worker("slow", runs, concurrency=20)
    async with working(monque):
        await monque.enqueue_many([("slow", None)] * 20)
        await runs.reached(20)
        lab.database.command("profile", 2)
        beats = {"op": "update", "appName": lab.app, "ns": f"{lab.database_name}.monque_jobs"}
        await eventually(lambda: lab.database.system.profile.count_documents(beats) >= 3)
        lab.database.command("profile", 0)
        matched = lab.database.system.profile.distinct("nMatched", beats)
        runs.open()
    assert matched == [20]


async def test_a_blocked_event_loop_keeps_its_lease_and_is_reported_by_name(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    monque = bench.monque(lease=Lease(timeout=0.9))
    record = Record(monque)
    logged: list[str] = []

    @monque.worker("blocks")
    async def blocks(job: Job[Any]) -> None:
        time.sleep(1.5)  # noqa: ASYNC251  that is the point
        logged.extend(caplog.messages)
        assert bench.find(job)["lastHeartbeat"] > job.last_heartbeat

    async with working(monque):
        # Another instance, on a loop of its own, would take the job back if its lease ran out.
        recoverer = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(_recover_for(bench, 3))))
        job = await monque.enqueue("blocks")
        await eventually(record.has(JobCompleteEvent), timeout=20)
        await eventually(record.has(JobErrorEvent))
        assert await recoverer == []
    errors = [event.error for event in record.of(JobErrorEvent) if isinstance(event.error, BlockedEventLoopError)]
    assert errors[0].job is not None
    assert errors[0].job.id == job.id
    assert errors[0].seconds >= 1
    # The line was there while the loop was blocked, and shows where.
    assert any(f"job blocks {job.id} has blocked" in line and "time.sleep(1.5)" in line for line in logged)
    assert bench.find(job)["attempts"] == 1


async def _recover_for(bench: Bench, seconds: float) -> list[StaleRecoveredEvent]:
    monque = bench.monque(polling=Polling(interval=0.2, safety=0.2))
    record = Record(monque)
    async with working(monque):
        await asyncio.sleep(seconds)
    return record.of(StaleRecoveredEvent)


async def test_something_else_that_blocks_the_event_loop_is_reported_without_a_name(bench: Bench) -> None:
    monque = bench.monque(lease=Lease(timeout=0.9))
    record = Record(monque)
    async with working(monque):
        await asyncio.sleep(0.5)
        time.sleep(1.5)  # noqa: ASYNC251
        await eventually(record.has(JobErrorEvent))
    error = record.of(JobErrorEvent)[0].error
    assert isinstance(error, BlockedEventLoopError)
    assert error.job is None


async def test_a_lost_lease_is_noticed_at_the_next_beat_and_its_handler_is_cancelled(bench: Bench) -> None:
    monque = bench.monque(lease=Lease(timeout=0.6))
    record = Record(monque)
    lost, kept = Gate(), Gate()
    monque.worker("lost", lost)
    monque.worker("kept", kept)
    async with working(monque):
        job = await monque.enqueue("lost")
        other = await monque.enqueue("kept")
        await lost.reached()
        await kept.reached()
        bench.jobs.update_one({"_id": job.id}, {"$set": {"claimToken": "other", "claimedBy": "other"}})
        await eventually(record.has(JobLostEvent))
        await eventually(lambda: lost.cancelled)
        kept.open()
        await eventually(lambda: bench.find(other)["status"] == "completed")
        assert monque.is_healthy()
    assert [event.job.id for event in record.of(JobLostEvent)] == [job.id]
    assert bench.find(job)["claimToken"] == "other"


async def test_a_loss_that_is_heard_of_twice_is_told_once(bench: Bench) -> None:
    monque = bench.monque()
    record, runs = Record(monque), Gate(stubborn=True)
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        bench.steal(job, status="completed")
        assert monque._connected is not None
        assert monque._connected.engine is not None
        for _ in range(2):
            monque._connected.engine._runs.lose({job.id: str(runs.started[0].claim_token)})
        await eventually(lambda: runs.cancelled)
        runs.open()
    assert len(record.of(JobLostEvent)) == len(runs.cancelled) == 1


def test_a_run_that_has_not_begun_can_be_cut_short() -> None:
    job: Any = None
    worker: Any = SimpleNamespace(keep_logs=0)
    run = Run(job, "token", worker)
    run.end()
    assert run.task is None


async def test_beats_that_fail_are_reported_and_repeated_before_the_lease_runs_out(lab: Lab) -> None:
    monque = lab.monque(lease=Lease(timeout=1.2))
    record = Record(monque)
    runs = Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        with lab.failing("update", times=2, errorCode=2):
            await eventually(lambda: len(record.of(JobErrorEvent)) == 2)
        begun = lab.now()
        await eventually(lambda: lab.find(job)["lastHeartbeat"] > begun)
        runs.open()
    assert not record.of(JobLostEvent)
    assert lab.find(job)["status"] == "completed"


async def test_an_instance_without_jobs_renews_no_leases(lab: Lab) -> None:
    monque = lab.monque(lease=Lease(timeout=0.3))
    monque.worker("greet", Gate())
    lab.database.command("profile", 2)
    async with working(monque):
        await asyncio.sleep(0.5)
        assert monque.is_healthy()
    lab.database.command("profile", 0)
    beats = {"op": "update", "appName": lab.app, "ns": f"{lab.database_name}.monque_jobs"}
    assert not lab.database.system.profile.count_documents(beats)


async def test_an_instance_whose_leases_nobody_renews_is_not_healthy(bench: Bench) -> None:
    monque = bench.monque()
    async with working(monque):
        threads = await eventually(lambda: [t for t in threading.enumerate() if t.name == "monque-lease"])
        assert monque.is_healthy()
        assert monque._connected is not None
        assert monque._connected.engine is not None
        monque._connected.engine._keeper._leaving.set()
        await asyncio.to_thread(threads[0].join)
        assert not monque.is_healthy()


async def test_leases_that_cannot_be_renewed_make_the_instance_unhealthy(lab: Lab) -> None:
    monque = lab.monque(lease=Lease(timeout=0.6))
    runs = Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        assert monque.is_healthy()
        with lab.failing("update", errorCode=2):
            await eventually(lambda: not monque.is_healthy())
        await eventually(monque.is_healthy)
        runs.open()
    assert lab.find(job)["status"] == "completed"


async def test_nothing_is_claimed_while_leases_cannot_be_renewed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        assert monque._connected is not None
        assert monque._connected.engine is not None
        with monkeypatch.context() as patch:
            patch.setattr(monque._connected.engine._keeper, "is_healthy", lambda: False)
            await monque.enqueue("greet")
            await eventually(record.has(JobErrorEvent))
            assert not runs.started
        await runs.reached(1)
    assert "leases cannot be renewed" in str(record.of(JobErrorEvent)[0].error)
