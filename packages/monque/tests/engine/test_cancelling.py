"""Cancelling jobs that are at work: their handlers are ended soon, and nothing more is written of them."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from monque import Concurrency, Job, JobErrorEvent, JobFilter, JobLostEvent, Lease, StuckHandlerError
from monque._shutdown import Shutdown
from monque.testing import eventually

from .support import NO_POLLS, Gate, Record, working
from .test_runs import PATIENCE, is_alive, lines

if TYPE_CHECKING:
    from pathlib import Path

    from monque import Monque

    from .support import Bench, Lab

# No beat comes by itself while a test waits.
NO_BEATS = Lease(timeout=3600)


def quiet(bench: Bench, **options: Any) -> Monque:
    """An instance that looks for nothing unless it is told to."""
    return bench.monque(polling=NO_POLLS, lease=NO_BEATS, **options)


async def has_lost(record: Record, job: Job[Any]) -> None:
    await eventually(lambda: [event.job.id for event in record.of(JobLostEvent)] == [job.id], timeout=20)


def told(job: Job[Any], seen: list[Job[Any]]) -> None:
    """A plain handler that runs until it is told to stop."""
    seen.append(job)
    while not job.should_stop:
        threading.Event().wait(0.01)
    seen.append(job)


@pytest.mark.parametrize("here", [True, False], ids=["same-instance", "other-instance"])
async def test_a_cancelled_async_run_is_ended(bench: Bench, here: bool) -> None:
    monque, other = quiet(bench), bench.monque()
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs)
    async with working(monque), other:
        job = await monque.enqueue("slow")
        await runs.reached()
        await (monque if here else other).jobs.cancel(job.id)
        await has_lost(record, job)
        await eventually(lambda: runs.cancelled)
        written = bench.find(job)
    assert written["status"] == "cancelled"
    assert bench.find(job) == written
    assert not record.of(JobErrorEvent)


async def test_many_jobs_cancelled_at_once_are_ended(bench: Bench) -> None:
    monque = quiet(bench)
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs, concurrency=10)
    async with working(monque):
        await monque.enqueue_many([("slow", None)] * 10)
        await runs.reached(10)
        await monque.jobs.cancel_many(JobFilter(name="slow"))
        await eventually(lambda: len(record.of(JobLostEvent)) == 10, timeout=20)
        await eventually(lambda: len(runs.cancelled) == 10)
    assert bench.statuses() == {"cancelled": 10}


async def test_a_cancelled_thread_is_told(bench: Bench) -> None:
    monque = quiet(bench)
    record, seen = Record(monque), list[Job[Any]]()
    monque.worker("plain", lambda job: told(job, seen))
    async with working(monque):
        job = await monque.enqueue("plain")
        await eventually(lambda: len(seen) == 1)
        await monque.jobs.cancel(job.id)
        await has_lost(record, job)
        await eventually(lambda: len(seen) == 2)
    assert bench.find(job)["status"] == "cancelled"


async def test_the_process_of_a_cancelled_job_is_killed(bench: Bench, handlers: Any, tmp_path: Path) -> None:
    monque, other = quiet(bench), bench.monque()
    record = Record(monque)
    monque.worker("far", handlers.ignore, run_in="process")
    async with working(monque), other:
        job = await monque.enqueue("far", {"at": str(tmp_path / "at")})
        (pid,) = await lines(tmp_path / "at")
        await other.jobs.cancel(job.id)
        await has_lost(record, job)
        await eventually(lambda: not is_alive(int(pid)), timeout=PATIENCE)
        written = bench.find(job)
    assert written["status"] == "cancelled"
    assert bench.find(job) == written
    assert not record.of(JobErrorEvent)


async def test_without_a_change_stream_the_next_beat_finds_out(lab: Lab) -> None:
    monque, other = lab.monque(lease=Lease(timeout=1)), lab.monque()
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs)
    with lab.failing("aggregate", errorCode=40573):
        async with working(monque), other:
            job = await monque.enqueue("slow")
            await runs.reached()
            await other.jobs.cancel(job.id)
            await has_lost(record, job)
            await eventually(lambda: runs.cancelled)
    assert lab.find(job)["status"] == "cancelled"


async def test_a_busy_instance_finds_out_too(bench: Bench) -> None:
    monque, other = bench.monque(concurrency=Concurrency(per_worker=1)), bench.monque()
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs, concurrency=1)
    ended = 0

    @monque.worker("quick", concurrency=50)
    async def quick(job: Job[Any]) -> None:
        nonlocal ended
        ended += 1
        await asyncio.sleep(0)

    async with working(monque), other:
        job = await monque.enqueue("slow")
        await runs.reached()
        # With more to do than it can, an instance does not read its change stream.
        await monque.enqueue_many([("quick", None)] * 3000)
        await eventually(lambda: ended > 50)
        await other.jobs.cancel(job.id)
        await has_lost(record, job)
        await eventually(lambda: runs.cancelled)
        await monque.jobs.cancel_many(JobFilter(name="quick"))
    assert bench.find(job)["status"] == "cancelled"


async def test_a_job_cancelled_and_retried_at_once_is_run_anew_undisturbed(bench: Bench) -> None:
    monque = quiet(bench)
    record, runs = Record(monque), Gate(stubborn=True)
    monque.worker("slow", runs, concurrency=2)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        await monque.jobs.cancel(job.id)
        await monque.jobs.retry(job.id)
        await runs.reached(2)
        await has_lost(record, job)
        runs.open()
        await eventually(lambda: bench.find(job)["status"] == "completed")
        await eventually(lambda: len(runs.ended) == 2)
    assert [each.id for each in runs.cancelled] == [job.id]
    assert len(record.of(JobLostEvent)) == 1


async def test_a_cancelled_run_that_does_not_end_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shutdown, "clean_up", 0.1)
    monque = quiet(bench)
    record, runs = Record(monque), Gate(stubborn=True)
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        await monque.jobs.cancel(job.id)
        (event,) = await eventually(lambda: record.of(JobErrorEvent))
        written = bench.find(job)
        runs.open()
        await eventually(lambda: runs.ended)
    assert isinstance(event.error, StuckHandlerError)
    assert written["status"] == "cancelled"
    assert bench.find(job) == written
