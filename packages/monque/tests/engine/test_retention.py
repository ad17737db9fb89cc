"""Jobs that have ended go away some time after, and no others do."""

from __future__ import annotations

import os
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from monque import (
    Cancel,
    ConfigurationError,
    Fail,
    Job,
    JobFilter,
    Monque,
    Options,
    Retention,
    Retry,
    WorkerRegistrationError,
)
from monque._store import indexes
from monque.embedded import EmbeddedMongoDB
from monque.testing import eventually
from monque.testing.plugin import TEST_URI_VARIABLE

from .support import Bench, working

if TYPE_CHECKING:
    from collections.abc import Generator

DAY, WEEK, YEAR = timedelta(days=1), timedelta(days=7), timedelta(days=365)
RETENTION = Retention(completed=DAY, failed=WEEK, cancelled=YEAR)
OUTCOMES: dict[str, Any] = {"completed": None, "failed": Fail("no"), "cancelled": Cancel("no")}


async def end(job: Job[Any]) -> Any:
    if job.data.get("is"):
        return OUTCOMES[job.data["is"]]
    raise ValueError


def lifetime(document: dict[str, Any]) -> timedelta | None:
    """How long the job is kept from its end on, to the hour."""
    expiry = document.get("expireAt")
    return None if expiry is None else timedelta(hours=round((expiry - document["updatedAt"]) / timedelta(hours=1)))


@pytest.fixture
def often() -> Generator[Bench]:
    """A bench whose server looks for what has expired every second; told so later, it would first end its minute."""
    with ExitStack() as stack:
        quick = EmbeddedMongoDB(ephemeral=True, parameters={"ttlMonitorSleepSecs": "1"})
        bench = Bench(os.environ.get(TEST_URI_VARIABLE) or stack.enter_context(quick).uri)
        stack.callback(bench.close)
        admin = bench.client.admin
        usual = admin.command("setParameter", 1, ttlMonitorSleepSecs=1)["was"]
        stack.callback(admin.command, "setParameter", 1, ttlMonitorSleepSecs=usual)
        yield bench


async def test_jobs_are_kept_as_long_as_the_retention_for_what_became_of_them_says(bench: Bench) -> None:
    monque = bench.monque(retention=RETENTION)
    monque.worker("end", end)
    async with working(monque):
        jobs = {outcome: await monque.enqueue("end", {"is": outcome}) for outcome in OUTCOMES}
        await eventually(lambda: bench.statuses() == dict.fromkeys(OUTCOMES, 1))
    assert {outcome: lifetime(bench.find(job)) for outcome, job in jobs.items()} == {
        "completed": DAY,
        "failed": WEEK,
        "cancelled": YEAR,
    }


async def test_a_worker_has_a_retention_of_its_own(bench: Bench) -> None:
    monque = bench.monque(retention=RETENTION, retry=Retry(max_retries=1))
    monque.worker("end", end, retention=Retention(failed=DAY))
    async with working(monque):
        completed = await monque.enqueue("end", {"is": "completed"})
        failed = await monque.enqueue("end")
        await eventually(lambda: bench.statuses() == {"completed": 1, "failed": 1})
    assert [lifetime(bench.find(job)) for job in (completed, failed)] == [None, DAY]


async def test_without_a_retention_nothing_says_when_jobs_go_and_there_is_no_index_for_it(bench: Bench) -> None:
    monque = bench.monque()
    monque.worker("end", end)
    async with working(monque):
        jobs = [await monque.enqueue("end", {"is": outcome}) for outcome in OUTCOMES]
        await eventually(lambda: bench.statuses() == dict.fromkeys(OUTCOMES, 1))
    assert not any("expireAt" in bench.find(job) for job in jobs)
    assert indexes.EXPIRY not in bench.jobs.index_information()


@pytest.mark.parametrize("own", [False, True], ids=["of all", "of one worker"])
async def test_the_index_is_there_when_the_work_begins(bench: Bench, own: bool) -> None:
    monque = bench.monque(**({} if own else {"retention": RETENTION}))
    async with monque:
        monque.worker("end", end, retention=RETENTION if own else None)
        await monque.start()
        index = bench.jobs.index_information()[indexes.EXPIRY]
        await monque.stop()
        await monque.start()
    assert index["expireAfterSeconds"] == 0
    assert index["partialFilterExpression"]["status"] == {"$in": ["completed", "failed", "cancelled"]}


async def test_without_leave_to_create_indexes_none_is(bench: Bench) -> None:
    async with bench.monque(retention=RETENTION, create_indexes=False):
        assert indexes.EXPIRY not in bench.jobs.index_information()


async def test_what_people_cancel_goes_too_and_what_they_revive_stays(bench: Bench) -> None:
    async with bench.monque(retention=RETENTION) as monque:
        one, other = await monque.enqueue_many([("end", {}), ("end", {})])
        await monque.jobs.cancel(one.id)
        await monque.jobs.cancel_many(JobFilter(name="end"))
        assert [lifetime(bench.find(job)) for job in (one, other)] == [YEAR, YEAR]
        await monque.jobs.retry(one.id)
        await monque.jobs.retry_many(JobFilter(name="end"))
    assert not any("expireAt" in bench.find(job) for job in (one, other))


async def test_a_recurring_job_stays(bench: Bench) -> None:
    monque = bench.monque(retention=RETENTION)
    monque.worker("end", end)
    async with working(monque):
        job = await monque.schedule("* * * * * *", "end", {"is": "completed"})
        await eventually(lambda: bench.find(job)["nextRunAt"] > job.next_run_at)
    assert "expireAt" not in bench.find(job)


async def test_the_server_deletes_what_has_expired_and_nothing_else(often: Bench) -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    async with often.monque(retention=RETENTION):
        gone = often.insert("end", status="completed", expireAt=long_ago)
        stays = often.insert("end", status="pending", expireAt=long_ago, nextRunAt=datetime(2999, 1, 1, tzinfo=UTC))
        await eventually(lambda: often.jobs.find_one({"_id": gone}) is None, timeout=100, poll=0.2)
    assert often.jobs.find_one({"_id": stays})


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"retention\.failed"):
        Retention(failed=0)
    with pytest.raises(ConfigurationError, match="retention"):
        Options(retention=DAY)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(WorkerRegistrationError, match="retention"):
        Monque().worker("end", end, retention=DAY)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
