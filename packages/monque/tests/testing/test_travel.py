from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import DatetimeMS

from monque import ConnectionError, InvalidArgumentError, Job, JobStatus, Monque, Options, Polling
from monque.testing import drain, eventually, expire_leases, travel

if TYPE_CHECKING:
    from pymongo.database import Database

HOUR = timedelta(hours=1)
THEN = datetime(2030, 1, 1, tzinfo=UTC)
# Every date there is in a job, and things that are none in their places.
FULL: dict[str, Any] = {
    **dict.fromkeys(
        ("nextRunAt", "createdAt", "updatedAt", "lockedAt", "lastHeartbeat", "startedAt", "expireAt"), THEN
    ),
    "followUp": {"data": {"nextRunAt": THEN}, "nextRunAt": THEN},
    "progress": {"fraction": 0.5, "at": THEN},
    "errors": [{"at": THEN, "attempt": 1}, {"attempt": 2}, "none"],
    "logs": [{"at": THEN, "message": "hello"}],
    "data": {"at": THEN},
}
BARE: dict[str, Any] = {"nextRunAt": None, "errors": "none", "logs": None, "followUp": [], "progress": 7}


async def test_every_date_moves_but_those_of_the_user(monque: Monque, monque_database: Database[Any]) -> None:
    jobs = monque_database.monque_jobs
    jobs.insert_many([{"_id": 1, **FULL}, {"_id": 2, **BARE}, {"_id": 3}])
    await travel(monque, hours=1, minutes=-0.0)
    earlier = THEN - HOUR
    assert jobs.find_one({"_id": 1}) == {
        "_id": 1,
        **dict.fromkeys(
            ("nextRunAt", "createdAt", "updatedAt", "lockedAt", "lastHeartbeat", "startedAt", "expireAt"), earlier
        ),
        "followUp": {"data": {"nextRunAt": THEN}, "nextRunAt": earlier},
        "progress": {"fraction": 0.5, "at": earlier},
        "errors": [{"at": earlier, "attempt": 1}, {"attempt": 2}, "none"],
        "logs": [{"at": earlier, "message": "hello"}],
        "data": {"at": THEN},
    }
    assert jobs.find_one({"_id": 2}) == {"_id": 2, **BARE}
    assert jobs.find_one({"_id": 3}) == {"_id": 3}


async def test_a_job_is_due_when_so_much_time_has_gone_by(monque: Monque) -> None:
    @monque.worker("remind")
    async def remind() -> None: ...

    await remind.with_(delay=timedelta(weeks=1, days=1, hours=1, minutes=1, seconds=1)).enqueue()
    await travel(monque, weeks=1, days=1, hours=1, minutes=1)
    assert not (await drain(monque)).runs
    await travel(monque, seconds=1)
    assert len((await drain(monque)).completed) == 1


async def test_an_instance_at_work_notices(monque_uri: str) -> None:
    ran = asyncio.Event()
    monque = Monque(monque_uri, Options(polling=Polling(interval=3600, safety=3600)))

    @monque.worker("remind")
    async def remind() -> None:
        ran.set()

    async with monque:
        await monque.start()
        await remind.with_(delay=3 * HOUR).enqueue()
        await travel(monque, hours=3)
        await asyncio.wait_for(ran.wait(), 60)


async def test_a_recurring_job_runs_once_for_all_that_it_missed(monque: Monque) -> None:
    times: list[datetime] = []

    @monque.worker("report")
    async def report(job: Job[Any]) -> None:
        times.append(job.next_run_at)

    scheduled = await report.schedule("0 * * * *", {})
    await travel(monque, hours=3)
    await drain(monque)
    assert times == [scheduled.next_run_at - 3 * HOUR]
    job = await monque.jobs.get(scheduled.id)
    assert job is not None
    assert (job.status, job.next_run_at.minute) == (JobStatus.PENDING, 0)
    for _ in range(3):
        await travel(monque, hours=1)
        await drain(monque)
    assert len(times) == 4


async def test_a_job_that_runs_here_keeps_its_lease(monque: Monque) -> None:
    begun, go_on, jobs = asyncio.Event(), asyncio.Event(), list[Job[Any]]()

    @monque.worker("slow")
    async def slow(job: Job[Any]) -> None:
        jobs.append(job)
        begun.set()
        await go_on.wait()

    await monque.start()
    handle = await slow.enqueue({})
    await begun.wait()
    await travel(monque, days=1)
    assert await expire_leases(monque) == 0
    go_on.set()
    await drain(monque)
    assert ((await handle.refresh()).status, len(jobs)) == (JobStatus.COMPLETED, 1)


async def test_leases_of_others_run_out(monque: Monque, monque_database: Database[Any]) -> None:
    @monque.worker("slow")
    async def slow() -> None: ...

    handles = [await slow.enqueue() for _ in range(2)]
    now = datetime.now(UTC) + HOUR  # whatever the server thinks the time is
    claim = {"status": "processing", "claimedBy": "dead", "lastHeartbeat": now, "heartbeatInterval": 10_000}
    monque_database.monque_jobs.update_many({}, {"$set": claim})
    assert not (await drain(monque)).runs
    await travel(monque, hours=2)
    assert len((await drain(monque)).completed) == 2
    assert [(await handle.refresh()).attempts for handle in handles] == [1, 1]


async def test_leases_can_run_out_for_one_name(monque: Monque, monque_database: Database[Any]) -> None:
    @monque.worker("one")
    async def one() -> None: ...

    await monque.enqueue_many([("one", {}), ("other", {})])
    claim = {"status": "processing", "claimedBy": "dead", "lockedAt": datetime.now(UTC), "lastHeartbeat": None}
    monque_database.monque_jobs.update_many({}, {"$set": claim})
    await monque.start()
    assert await expire_leases(monque, "one") == 1
    await eventually(lambda: monque_database.monque_jobs.find_one({"name": "one", "status": "completed"}))
    assert await expire_leases(monque) == 1


async def test_a_pause_ends(monque: Monque) -> None:
    @monque.worker("greet")
    async def greet() -> None: ...

    await monque.fleet.pause("greet", HOUR)
    await greet.enqueue()
    assert not (await drain(monque)).runs
    await travel(monque, minutes=59)
    assert not (await drain(monque)).runs
    await travel(monque, minutes=1)
    assert len((await drain(monque)).completed) == 1


async def test_a_pause_ends_for_an_instance_at_work(monque_uri: str) -> None:
    ran = asyncio.Event()
    monque = Monque(monque_uri, Options(polling=Polling(interval=3600, safety=3600)))

    @monque.worker("greet")
    async def greet() -> None:
        ran.set()

    async with monque:
        await monque.start()
        await monque.fleet.pause("greet", HOUR)
        await drain(monque)
        await greet.enqueue()
        assert not (await drain(monque)).runs
        await travel(monque, hours=1)
        await asyncio.wait_for(ran.wait(), 60)


async def test_only_what_has_ended_expires(monque: Monque, monque_database: Database[Any]) -> None:
    jobs = monque_database.monque_jobs
    soon = datetime.now(UTC) + HOUR
    statuses = [status.value for status in JobStatus]
    jobs.insert_many([{"_id": status, "status": status, "expireAt": soon} for status in statuses])
    jobs.insert_one({"_id": "never", "status": "completed", "expireAt": DatetimeMS(10**15)})
    await travel(monque, hours=2)
    assert {row["_id"] for row in jobs.find({}, {"_id": 1})} == {"pending", "processing", "never"}


@pytest.mark.parametrize(
    "units", [{"hours": -1}, {"days": True}, {"seconds": "1"}, {"minutes": timedelta(1)}, {"weeks": 60_000}]
)
async def test_lengths_of_time_that_make_no_sense_are_refused(monque: Monque, units: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"time goes forward only|no more than 1,000 years"):
        await travel(monque, **units)


async def test_it_has_to_be_connected() -> None:
    with pytest.raises(ConnectionError, match="not connected"):
        await travel(Monque(), hours=1)
