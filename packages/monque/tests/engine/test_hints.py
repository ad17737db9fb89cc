"""Hints are hints: what they say too often, too early or about nothing changes no run."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from monque import ChangeStreamConnectedEvent, Job
from monque.testing import eventually

from .support import NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    from .support import Bench


async def test_a_job_that_is_hinted_at_a_hundred_times_runs_once(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), Gate()
    monque.worker("busy", runs, concurrency=1)
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        running, waiting = bench.insert_many([{"name": "busy"}, {"name": "busy"}])
        await runs.reached(1)
        other = waiting if runs.started[0].id == running else running
        for _ in range(100):
            bench.jobs.update_one({"_id": other}, {"$set": {"nextRunAt": bench.now()}})
        runs.open()
        # Hints come in order: once this one was acted on, so were those before it.
        last = bench.insert("busy")
        await runs.reached(3)
    assert [run.id for run in runs.started] == [runs.started[0].id, other, last]


async def test_a_hint_at_a_job_that_is_gone_or_taken_starts_nothing(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        soon = bench.now() + timedelta(seconds=1)
        gone, taken, real = bench.insert_many([{"name": "greet", "nextRunAt": soon} for _ in range(3)])
        bench.jobs.delete_one({"_id": gone})
        claim = {"status": "processing", "claimedBy": "other", "lastHeartbeat": bench.now()}
        bench.jobs.update_one({"_id": taken}, {"$set": claim})
        await runs.reached(1)
        assert bench.find(taken)["claimedBy"] == "other"
    assert [run.id for run in runs.started] == [real]


async def test_a_job_that_is_put_off_after_it_was_hinted_at_runs_at_its_later_time(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), list[Job[Any]]()

    @monque.worker("greet")
    async def greet(job: Job[Any]) -> None:
        runs.append(job)

    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        begun = bench.now()
        job = bench.insert("greet", nextRunAt=begun + timedelta(seconds=0.5))
        later = begun + timedelta(seconds=2)
        bench.jobs.update_one({"_id": job}, {"$set": {"nextRunAt": later}})
        await eventually(lambda: runs)
    (run,) = runs
    assert run.locked_at is not None
    assert run.locked_at >= run.next_run_at == later
