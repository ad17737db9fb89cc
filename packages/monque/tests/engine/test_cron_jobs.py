"""Recurring jobs in the engine: one document, one run per occurrence, for ever."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from monque import InvalidCronError, Job, JobCompleteEvent, JobFailEvent, Retry
from monque.testing import eventually

from .support import NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    from .support import Bench


def _open_gate() -> Gate:
    gate = Gate()
    gate.open()
    return gate


async def test_each_occurrence_runs_once_however_many_instances_there_are(bench: Bench) -> None:
    monques = [bench.monque(polling=NO_POLLS) for _ in range(2)]
    runs = _open_gate()
    for monque in monques:
        monque.worker("tick", runs)
    async with working(*monques):
        await monques[0].schedule("* * * * * *", "tick")
        await runs.reached(4)
    times = [job.next_run_at for job in runs.started]
    assert len(set(times)) == len(times)
    assert all(time.microsecond == 0 for time in times)
    assert bench.count() == 1
    assert {job.attempts for job in runs.started} == {1}


async def test_missed_occurrences_are_made_up_for_once(bench: Bench) -> None:
    job = bench.insert("hourly", repeatInterval="0 * * * *", nextRunAt=bench.now() - timedelta(hours=10))
    monque = bench.monque()
    record, runs = Record(monque), _open_gate()
    monque.worker("hourly", runs)
    async with working(monque):
        await eventually(record.has(JobCompleteEvent))
    assert len(runs.started) == 1
    document = bench.find(job)
    assert bench.now() < document["nextRunAt"] <= bench.now() + timedelta(hours=1)
    assert document["nextRunAt"].minute == 0


async def test_a_long_run_is_followed_by_the_occurrence_that_came_while_it_lasted(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    runs = Gate()
    monque.worker("tick", runs)
    async with working(monque):
        await monque.schedule("* * * * * *", "tick")
        await runs.reached(1)
        begun = runs.started[0].locked_at
        assert begun is not None
        await eventually(lambda: bench.now() > begun + timedelta(seconds=3))
        runs.open()
        await runs.reached(2)
    # The next after it began, not the next after it ended; those in between are made up for by that one run.
    assert runs.started[1].next_run_at == begun.replace(microsecond=0) + timedelta(seconds=1)


async def test_a_failed_run_is_retried_before_the_next_occurrence(bench: Bench) -> None:
    monque = bench.monque(retry=Retry(base=0.1))
    record = Record(monque)
    runs: list[Job[Any]] = []

    @monque.worker("report")
    async def report(job: Job[Any]) -> None:
        runs.append(job)
        if len(runs) == 1:
            raise ValueError("not yet")

    job = bench.insert("report", repeatInterval="0 0 1 1 *")
    async with working(monque):
        await eventually(record.has(JobCompleteEvent))
    assert [event.will_retry for event in record.of(JobFailEvent)] == [True]
    document = bench.find(job)
    assert (document["status"], document["failCount"]) == ("pending", 0)
    assert not {"failReason", "attempts"} & document.keys()
    assert document["nextRunAt"].month == 1


async def test_a_schedule_changed_while_the_job_runs_is_what_it_goes_on_with(bench: Bench) -> None:
    monque = bench.monque()
    record, runs = Record(monque), Gate()
    monque.worker("report", runs)
    job = bench.insert("report", repeatInterval="0 0 1 1 *", uniqueKey="report")
    async with working(monque):
        await runs.reached()
        changed = await monque.schedule("0 0 1 7 *", "report", {"new": True}, unique_key="report")
        assert changed.id == job
        runs.open()
        await eventually(record.has(JobCompleteEvent))
    document = bench.find(job)
    assert (document["status"], document["repeatInterval"]) == ("pending", "0 0 1 7 *")
    assert (document["nextRunAt"].month, document["data"]) == (7, {"new": True})


async def test_a_recurring_job_that_is_lost_while_it_runs_is_not_written(bench: Bench) -> None:
    monque = bench.monque()
    record, runs = Record(monque), Gate()
    monque.worker("report", runs)
    job = bench.insert("report", repeatInterval="0 0 1 1 *")
    async with working(monque):
        await runs.reached()
        bench.jobs.update_one({"_id": job}, {"$set": {"claimToken": "other"}})
        runs.open()
        await eventually(lambda: "JobLostEvent" in {type(event).__name__ for event in record.events})
    assert bench.find(job)["claimToken"] == "other"
    assert not record.of(JobCompleteEvent)


async def test_a_schedule_that_nobody_can_read_fails_with_a_reason(bench: Bench) -> None:
    monque = bench.monque()
    record = Record(monque)
    monque.worker("report", _open_gate())
    job = bench.insert("report", repeatInterval="whenever")
    async with working(monque):
        await eventually(record.has(JobFailEvent))
    (failure,) = record.of(JobFailEvent)
    assert isinstance(failure.error, InvalidCronError)
    assert bench.find(job)["status"] == "failed"
    assert "whenever" in bench.find(job)["failReason"]


async def test_a_recurring_job_that_is_cut_short_by_a_stop_keeps_its_time(bench: Bench) -> None:
    monque = bench.monque(shutdown_timeout=0)
    runs = Gate()
    monque.worker("report", runs)
    job = bench.insert("report", repeatInterval="0 0 1 1 *")
    planned = bench.find(job)["nextRunAt"]
    async with working(monque):
        await runs.reached()
    document = bench.find(job)
    assert (document["status"], document["nextRunAt"], document["attempts"]) == ("pending", planned, 0)


async def test_the_zone_is_kept_and_followed(bench: Bench) -> None:
    async with bench.monque() as monque:
        berlin = await monque.schedule("0 9 1 7 *", "report", timezone="Europe/Berlin", unique_key="report")
        assert (berlin.next_run_at.hour, bench.find(berlin)["timezone"]) == (7, "Europe/Berlin")
        utc = await monque.schedule("0 9 1 7 *", "report", unique_key="report")
        assert (utc.id, utc.next_run_at.hour) == (berlin.id, 9)
        assert "timezone" not in bench.find(berlin)


async def test_concurrent_declarations_of_different_schedules_end_with_one_of_them(bench: Bench) -> None:
    expressions = [f"{minute} 0 1 1 *" for minute in range(5)]
    async with bench.monque() as monque:
        await asyncio.gather(*(monque.schedule(expression, "report", unique_key="k") for expression in expressions))
    (document,) = bench.jobs.find()
    assert document["repeatInterval"] in expressions
    assert document["nextRunAt"].minute == int(document["repeatInterval"].split()[0])


async def test_a_bad_expression_is_refused_before_anything_is_written(bench: Bench) -> None:
    async with bench.monque() as monque:
        with pytest.raises(InvalidCronError):
            await monque.schedule("0 9 * * 8-9", "report")
    assert bench.count() == 0
