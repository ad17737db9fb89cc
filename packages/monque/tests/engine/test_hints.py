"""Hints are hints: what they say too often, too early or about nothing changes no run, and polls do without them."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from monque import ChangeStreamConnectedEvent, ChangeStreamFallbackEvent, Job, Polling
from monque import _wakeup as wakeup_module
from monque.testing import eventually

from .support import FOREVER, NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    import pytest

    from .support import Bench, Lab


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


async def test_a_later_job_does_not_put_off_an_earlier_one(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        jobs = [await monque.enqueue("greet", delay=delay) for delay in (2, FOREVER)]
        jobs += [await monque.enqueue("greet", delay=delay) for delay in (1, FOREVER)]
        await runs.reached(2)
    assert [run.id for run in runs.started] == [jobs[2].id, jobs[0].id]


async def test_after_its_stream_has_ended_it_polls_fast_until_there_is_another(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup_module, "watch", functools.partial(wakeup_module.watch, first_pause=FOREVER))
    monque = lab.monque(polling=Polling(interval=0.1, safety=FOREVER))
    record, runs = Record(monque), Gate()
    runs.open()
    monque.worker("greet", runs)
    async with lab.monque() as producer, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        (stream,) = await eventually(lab.streams)
        lab.database.command("killCursors", "monque_jobs", cursors=[stream["cursor"]["cursorId"]])
        # A stream that waits for something to happen finds out when something happens.
        lab.database.other.insert_one({})
        await eventually(record.has(ChangeStreamFallbackEvent))
        for number in range(1, 4):
            await producer.enqueue("greet")
            await runs.reached(number)
    assert len(record.of(ChangeStreamConnectedEvent)) == 1
