"""Recovery: whoever finds a job whose lease ran out takes it back."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bson import DatetimeMS

from monque import Concurrency, Job, JobCompleteEvent, JobFailEvent, Lease, Polling, Retry, StaleRecoveredEvent
from monque.testing import Program, eventually

from .support import NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    from .support import Bench, Lab


def _open_gate() -> Gate:
    gate = Gate()
    gate.open()
    return gate


async def test_it_begins_with_the_start(bench: Bench) -> None:
    jobs = bench.insert_many([{"name": "greet"} for _ in range(3)])
    then = bench.now() - timedelta(seconds=31)
    claim = {"status": "processing", "claimedBy": "dead", "lockedAt": then, "lastHeartbeat": then, "attempts": 1}
    bench.jobs.update_many({}, {"$set": {**claim, "heartbeatInterval": 10_000}})
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await runs.reached(3)
    assert [event.count for event in record.of(StaleRecoveredEvent)] == [3]
    assert {job.id for job in runs.started} == set(jobs)
    assert {job.attempts for job in runs.started} == {2}


async def test_a_lease_is_taken_when_it_runs_out_and_not_before(bench: Bench) -> None:
    job = bench.insert_claimed("greet", age=28)
    expiry = bench.find(job)["lastHeartbeat"] + timedelta(seconds=30)
    monque = bench.monque(polling=NO_POLLS)
    runs = _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await runs.reached()
    assert runs.started[0].locked_at is not None
    # There is no poll in sight: it knew when.
    assert timedelta(0) <= runs.started[0].locked_at - expiry < timedelta(seconds=3)


async def test_it_takes_back_jobs_of_names_that_it_does_not_run(bench: Bench) -> None:
    job = bench.insert_claimed("foreign", age=31)
    monque = bench.monque()
    record = Record(monque)
    async with working(monque):
        await eventually(record.has(StaleRecoveredEvent))
    document = bench.find(job)
    assert document["status"] == "pending"
    assert not {"claimedBy", "claimToken", "lockedAt", "lastHeartbeat", "heartbeatInterval"} & document.keys()


async def test_an_instance_without_a_free_slot_takes_jobs_back_too(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS, concurrency=Concurrency(per_instance=1))
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs)
    job = bench.insert_claimed("slow", age=28)
    bench.insert("slow")
    async with working(monque):
        await runs.reached()
        await eventually(record.has(StaleRecoveredEvent))
        assert (bench.find(job)["status"], len(runs.started)) == ("pending", 1)
        runs.open()


async def test_the_lease_of_another_instance_is_as_long_as_that_one_says(bench: Bench) -> None:
    short = bench.insert_claimed("greet", age=2, heartbeatInterval=500)
    long = bench.insert_claimed("greet", age=100, heartbeatInterval=60_000)
    monque = bench.monque()
    runs = _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await runs.reached()
    assert runs.started[0].id == short
    assert bench.find(long)["claimedBy"] == "dead"


async def test_claims_of_the_other_implementation_are_taken_back_by_their_lock(bench: Bench) -> None:
    job = bench.insert("greet", status="processing", claimedBy="node", lockedAt=bench.now() - timedelta(minutes=1))
    monque = bench.monque()
    runs = _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await runs.reached()
    assert runs.started[0].id == job


async def test_a_claim_without_any_time_is_taken_back(bench: Bench) -> None:
    bench.insert("greet", status="processing", lockedAt="yesterday", attempts="some")
    bench.insert("greet", status="processing", lastHeartbeat=DatetimeMS(10**15))
    monque = bench.monque()
    record = Record(monque)
    monque.worker("greet", _open_gate())
    async with working(monque):
        await eventually(lambda: sum(event.count for event in record.of(StaleRecoveredEvent)) == 2)


async def test_more_dead_leases_than_one_look_shows_are_all_taken_back(bench: Bench) -> None:
    then = bench.now() - timedelta(seconds=31)
    claim = {"status": "processing", "claimedBy": "dead", "lastHeartbeat": then, "attempts": 1}
    bench.insert_many([{"name": "greet", "heartbeatInterval": 10_000, **claim} for _ in range(250)])
    monque = bench.monque(polling=NO_POLLS)
    record = Record(monque)
    async with working(monque):
        await eventually(lambda: bench.statuses() == {"pending": 250})
    assert sum(event.count for event in record.of(StaleRecoveredEvent)) == 250


async def test_several_instances_take_a_job_back_once(bench: Bench) -> None:
    bench.insert_claimed("greet", age=29.5)
    monques = [bench.monque(polling=NO_POLLS) for _ in range(3)]
    records, runs = [Record(monque) for monque in monques], _open_gate()
    for monque in monques:
        monque.worker("greet", runs)
    async with working(*monques):
        await runs.reached()
        await eventually(lambda: any(record.of(JobCompleteEvent) for record in records))
    assert sum(event.count for record in records for event in record.of(StaleRecoveredEvent)) == 1
    assert len(runs.started) == 1


async def test_a_recurring_job_without_attempts_left_goes_on_with_its_next_occurrence(bench: Bench) -> None:
    job = bench.insert_claimed("report", age=31, attempts=3, repeatInterval="0 0 1 1 *")
    odd = bench.insert_claimed("report", age=31, attempts=3, repeatInterval="whenever")
    monque = bench.monque(retry=Retry(max_retries=3))
    record = Record(monque)
    async with working(monque):
        await eventually(lambda: len(record.of(JobFailEvent)) == 2)
    document = bench.find(job)
    assert (document["status"], document["failCount"]) == ("pending", 0)
    assert document["nextRunAt"] > bench.now()
    assert "attempts" not in document
    assert bench.find(odd)["status"] == "failed"


async def test_an_instance_does_not_keep_alive_what_a_dead_one_of_the_same_name_held(bench: Bench) -> None:
    held = {"claimedBy": "web-1:dead", "heartbeatInterval": 1_000}
    jobs = [bench.insert_claimed("slow", age=0, **held), bench.insert_claimed("slow", age=0, **held)]
    bench.jobs.update_one({"_id": jobs[1]}, {"$set": {"claimedBy": "web-1"}})
    monque = bench.monque(instance_id="web-1", lease=Lease(timeout=0.6), polling=NO_POLLS)
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs)
    async with working(monque):
        own = await monque.enqueue("slow")
        # While it renews the lease of its own job all the time.
        await runs.reached(3)
        runs.open()
    assert {run.id for run in runs.started} == {own.id, *jobs}
    assert sum(event.count for event in record.of(StaleRecoveredEvent)) == 2


async def test_it_can_be_switched_off(bench: Bench) -> None:
    job = bench.insert_claimed("greet", age=3600)
    monque = bench.monque(recover=False, polling=Polling(interval=0.05, safety=0.05))
    runs = _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await monque.enqueue("greet", delay=0.3)
        await runs.reached()
    assert bench.find(job)["status"] == "processing"


async def test_an_instance_leaves_alone_what_it_holds_itself(lab: Lab) -> None:
    monque = lab.monque(polling=Polling(interval=0.05, safety=0.05))
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        lab.jobs.update_one({"_id": job.id}, {"$set": {"lastHeartbeat": lab.now() - timedelta(hours=1)}})
        await asyncio.sleep(0.5)
        runs.open()
        await eventually(record.has(JobCompleteEvent))
    assert not record.of(StaleRecoveredEvent)


async def test_a_job_that_somebody_else_took_back_in_between_is_not_counted(lab: Lab) -> None:
    job = lab.insert_claimed("greet", age=31, attempts=3)
    monque = lab.monque(polling=NO_POLLS, retry=Retry(max_retries=3))
    record = Record(monque)
    with lab.failing("findAndModify", times=1, blockConnection=True, blockTimeMS=700):
        async with working(monque):
            await eventually(lambda: lab.is_doing("findAndModify"))
            lab.jobs.update_one({"_id": job}, {"$set": {"lastHeartbeat": lab.now()}})
            await eventually(lambda: not lab.is_doing("findAndModify"))
            await monque.stop()
    assert not record.of(StaleRecoveredEvent)
    assert not record.of(JobFailEvent)
    assert lab.find(job)["status"] == "processing"


_DIES = """
import asyncio, sys
from monque import Lease, Monque, Options
monque = Monque(sys.argv[1], Options(lease=Lease(timeout=0.9)))

@monque.worker("slow")
async def slow(job):
    print("started", flush=True)
    await asyncio.sleep(600)

asyncio.run(monque.run())
"""


async def test_a_job_of_a_killed_process_runs_again_after_its_lease(bench: Bench) -> None:
    job = bench.insert("slow")
    monque = bench.monque(polling=Polling(interval=0.2, safety=0.2))
    runs = _open_gate()
    with Program("-c", _DIES, bench.uri) as process:
        await eventually(lambda: process.has_said("started"), timeout=60)
        monque.worker("slow", runs)
        async with working(monque):
            killed = bench.now()
            process.kill()
            await runs.reached()
    again: Job[Any] = runs.started[0]
    assert (again.id, again.attempts) == (job, 2)
    assert again.locked_at is not None
    assert again.locked_at - killed < timedelta(seconds=5)
