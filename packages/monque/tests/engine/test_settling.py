"""Settling: fenced by the token, repeated until it is known, announced only if it took effect."""

from __future__ import annotations

import gc
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from monque import Job, JobCompleteEvent, JobDocumentError, JobErrorEvent, JobFailEvent, JobLostEvent, Lease, Retry
from monque import _claims as claims_module
from monque import _settler as settler_module
from monque._runs import Run
from monque.testing import eventually

from .support import NO_POLLS, Gate, Record, our_tasks, working

if TYPE_CHECKING:
    from .support import Bench, Lab


@pytest.mark.parametrize("fails", [False, True])
async def test_an_outcome_whose_claim_is_gone_is_not_written_and_not_announced(bench: Bench, fails: bool) -> None:
    monque = bench.monque()
    record = Record(monque)
    runs = Gate()

    @monque.worker("slow")
    async def slow(job: Job[Any]) -> None:
        await runs(job)
        if fails:
            raise ValueError

    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        bench.jobs.update_one({"_id": job.id}, {"$set": {"claimToken": "other", "claimedBy": "other"}})
        runs.open()
        await eventually(record.has(JobLostEvent))
    document = bench.find(job)
    assert (document["status"], document["claimToken"], document["failCount"]) == ("processing", "other", 0)
    assert not record.of(JobCompleteEvent)
    assert not record.of(JobFailEvent)


async def test_a_job_that_was_deleted_while_it_ran_is_lost(bench: Bench) -> None:
    monque = bench.monque()
    record = Record(monque)
    runs = Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        bench.jobs.delete_one({"_id": job.id})
        runs.open()
        await eventually(record.has(JobLostEvent))
    assert not record.of(JobCompleteEvent)


async def test_what_ends_together_is_written_together_and_one_lost_job_does_not_hurt_the_others(bench: Bench) -> None:
    monque = bench.monque()
    record = Record(monque)
    runs = Gate()
    monque.worker("slow", runs, concurrency=20)
    async with working(monque):
        jobs = await monque.enqueue_many([("slow", None)] * 20)
        await runs.reached(20)
        bench.jobs.update_one({"_id": jobs[7].id}, {"$set": {"claimToken": "other"}})
        runs.open()
        await eventually(lambda: len(record.of(JobCompleteEvent)) == 19)
        await eventually(record.has(JobLostEvent))
    assert [event.job.id for event in record.of(JobLostEvent)] == [jobs[7].id]
    assert bench.statuses() == {"completed": 19, "processing": 1}


async def test_a_run_whose_job_is_claimed_again_before_its_outcome_is_written_is_lost(lab: Lab) -> None:
    monque = lab.monque(polling=NO_POLLS)
    record = Record(monque)
    gates = {"first": Gate(), "second": Gate(), "other": Gate()}
    monque.worker("other", gates["other"])

    @monque.worker("slow", concurrency=2)
    async def slow(job: Job[Any]) -> None:
        await gates["first" if job.attempts == 1 else "second"](job)

    async with working(monque):
        await monque.enqueue("other")
        job = await monque.enqueue("slow")
        await gates["other"].reached()
        await gates["first"].reached()
        with lab.failing("update", times=1, blockConnection=True, blockTimeMS=1500):
            # The outcome of the one is under way for a while, those of the other wait for it, both.
            gates["other"].open()
            await eventually(lambda: lab.is_doing("update"))
            gates["first"].open()
            await eventually(lambda: gates["first"].ended)
            lab.steal(job)
            await gates["second"].reached()
            gates["second"].open()
            await eventually(lambda: len(record.of(JobCompleteEvent)) == 2)
    tokens = [event.job.claim_token for event in record.of(JobCompleteEvent) if event.job.id == job.id]
    assert tokens == [gates["second"].started[0].claim_token]
    assert [event.job.claim_token for event in record.of(JobLostEvent)] == [gates["first"].started[0].claim_token]


async def test_a_run_whose_job_is_claimed_again_while_its_outcome_is_on_its_way_is_lost(lab: Lab) -> None:
    monque = lab.monque(polling=NO_POLLS)
    record = Record(monque)
    first, second = Gate(), Gate()

    @monque.worker("slow", concurrency=2)
    async def slow(job: Job[Any]) -> None:
        await (first if job.attempts == 1 else second)(job)

    async with working(monque):
        job = await monque.enqueue("slow")
        await first.reached()
        with lab.failing("update", times=1, blockConnection=True, blockTimeMS=1500):
            first.open()
            await eventually(lambda: lab.is_doing("update"))
            lab.steal(job)
            await second.reached()
        await eventually(record.has(JobLostEvent))
        assert lab.find(job)["claimToken"] == second.started[0].claim_token
        second.open()
        await eventually(record.has(JobCompleteEvent))
    assert [event.job.claim_token for event in record.of(JobLostEvent)] == [first.started[0].claim_token]
    assert [event.job.claim_token for event in record.of(JobCompleteEvent)] == [second.started[0].claim_token]


async def test_an_outcome_that_the_server_refuses_for_good_is_reported_with_its_job(lab: Lab) -> None:
    lab.insert("other")
    lab.database.command("collMod", "monque_jobs", validator={"status": {"$ne": "completed"}})
    monque = lab.monque(polling=NO_POLLS)
    record = Record(monque)
    runs = Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        job = await monque.enqueue("greet")
        await eventually(record.has(JobErrorEvent))
    (event,) = record.of(JobErrorEvent)
    assert event.job is not None
    assert event.job.id == job.id
    assert not record.of(JobCompleteEvent)
    # Its lease runs out, and then it is another attempt.
    assert lab.find(job)["status"] == "processing"


async def test_nothing_new_is_started_while_too_many_outcomes_wait(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "_MOST_UNSETTLED", 1)
    monkeypatch.setattr(settler_module, "_LARGEST_SETTLE", 1)
    lab.insert_many([{"name": "greet"} for _ in range(30)])
    monque = lab.monque(polling=NO_POLLS)
    runs = Gate()
    runs.open()
    monque.worker("greet", runs, concurrency=3)
    async with working(monque):
        await eventually(lambda: lab.statuses() == {"completed": 30}, timeout=30)
    assert len(runs.started) == 30


async def test_nothing_waits_once_all_outcomes_are_written(bench: Bench) -> None:
    monque = bench.monque()
    runs = Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        await monque.enqueue("greet")
        await eventually(lambda: bench.statuses() == {"completed": 1})
        await eventually(lambda: "Batcher._run" not in our_tasks())


async def test_an_outcome_that_cannot_be_written_for_longer_than_a_lease_is_written_in_the_end(lab: Lab) -> None:
    monque = lab.monque(polling=NO_POLLS, lease=Lease(timeout=0.6))
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        with lab.failing("update", errorCode=2):
            runs.open()
            # Nor can the lease be renewed. Nobody takes the job back, so it is still the one to settle.
            await eventually(lambda: lab.now() > lab.find(job)["lastHeartbeat"] + timedelta(seconds=1.5))
        await eventually(record.has(JobCompleteEvent), timeout=30)
    assert (len(runs.started), lab.find(job)["status"]) == (1, "completed")
    assert not record.of(JobFailEvent)
    assert not record.of(JobLostEvent)


async def test_a_stop_waits_until_outcomes_are_written_however_slowly(lab: Lab) -> None:
    monque = lab.monque()
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        with lab.failing("update", times=1, blockConnection=True, blockTimeMS=1500):
            runs.open()
            await monque.stop()
            assert lab.find(job)["status"] == "completed"
    assert record.of(JobCompleteEvent)


async def test_jobs_that_have_ended_are_not_kept_in_memory(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    # What is logged is kept, by pytest.
    caplog.set_level(logging.CRITICAL, "monque")
    bench.insert_many([{"name": "forgotten"} for _ in range(300)])
    monque = bench.monque(retry=Retry(max_retries=1))
    ended: list[str] = []

    @monque.worker("forgotten")
    async def forgotten(job: Job[Any]) -> None:
        if len(ended) % 3 == 0:
            raise ValueError

    monque.on("job:complete", lambda event: ended.append(event.name))
    monque.on("job:fail", lambda event: ended.append(event.name))
    async with working(monque):
        await eventually(lambda: len(ended) >= 300, timeout=30)
        await eventually(lambda: not _jobs_in_memory("forgotten"))


async def test_what_has_run_well_is_gone_before_python_looks_for_cycles(bench: Bench) -> None:
    monque, ended = bench.monque(), list[str]()
    monque.worker("gone", do_nothing)
    monque.on("job:complete", lambda event: ended.append(event.name))
    gc.collect()
    gc.disable()
    try:
        async with working(monque):
            bench.insert_many([{"name": "gone"} for _ in range(300)])
            await eventually(lambda: len(ended) == 300, timeout=30)
            await eventually(lambda: not any(type(it) is Run and it.job.name == "gone" for it in gc.get_objects()))
    finally:
        gc.enable()


async def do_nothing(job: Job[Any]) -> None: ...


def _jobs_in_memory(name: str) -> int:
    gc.collect()
    return sum(type(it) is Job and it.name == name for it in gc.get_objects())


@pytest.mark.parametrize("field", ["repeatInterval", "followUp"])
async def test_a_job_that_becomes_unreadable_while_it_runs_does_not_keep_others_from_being_settled(
    field: str, bench: Bench
) -> None:
    monque = bench.monque()
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs)
    async with working(monque):
        jobs = await monque.enqueue_many([("slow", None)] * 3)
        await runs.reached(3)
        bench.jobs.update_one({"_id": jobs[0].id}, {"$set": {field: 5}})
        runs.open()
        await eventually(lambda: len(record.of(JobCompleteEvent)) == 2)
        (failure,) = await eventually(record.has(JobErrorEvent))
        assert isinstance(failure.error, JobDocumentError)
        assert failure.job is not None
        assert (failure.error.field, failure.job.id) == (field, jobs[0].id)
        # Its lease is not renewed any more, so that it is recovered some day, and fails then with that reason.
        assert not monque._connection().engine._held  # type: ignore[union-attr]
    assert bench.statuses() == {"completed": 2, "processing": 1}
