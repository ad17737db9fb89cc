from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import DatetimeMS

from monque import (
    Cancel,
    ConnectionError,
    Fail,
    InvalidArgumentError,
    Job,
    JobDocumentError,
    JobErrorEvent,
    JobStatus,
    LeaseExpiredError,
    Monque,
    MonqueError,
    ResultError,
    Retention,
    RetryIn,
    Snooze,
)
from monque.testing import Drained, drain, eventually, expire_leases, travel

if TYPE_CHECKING:
    from pymongo.database import Database

DAY = timedelta(days=1)
SAYS: dict[str, Any] = {"snooze": Snooze(3600), "cancel": Cancel("no"), "retry": RetryIn(60), "fail": Fail("no")}


@pytest.fixture
def says(monque: Monque) -> None:
    """A worker whose handler returns what the job's data say."""

    @monque.worker("says")
    async def says(what: str) -> Any:
        return SAYS[what]


async def test_it_runs_what_is_due_and_what_that_enqueues_and_nothing_else(monque: Monque) -> None:
    ran: list[int] = []

    @monque.worker("count")
    async def count(to: int) -> None:
        ran.append(to)
        if to > 1:
            await count.enqueue(to - 1)

    await count.enqueue(3)
    later = await count.with_(delay=60).enqueue(1)
    foreign = await monque.enqueue("foreign")
    drained = await drain(monque)
    assert (ran, [job.data["to"] for job in drained.completed]) == ([3, 2, 1], [3, 2, 1])
    assert (await later.refresh()).status is JobStatus.PENDING
    assert (await monque.jobs.get(foreign.id)) == foreign
    assert str(await drain(monque)) == "0 runs"
    assert monque.is_healthy()


async def test_jobs_go_through_bson(monque: Monque) -> None:
    seen: list[Any] = []

    @monque.worker("see")
    async def see(job: Job[Any]) -> None:
        seen.append(job.data)

    await monque.enqueue("see", {"pair": (1, 2), "at": datetime(2030, 1, 1, 0, 0, 0, 1999, tzinfo=UTC)})
    await drain(monque)
    assert seen == [{"pair": [1, 2], "at": datetime(2030, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)}]


async def test_what_a_job_enqueues_in_a_transaction_is_run(monque: Monque) -> None:
    @monque.worker("first", transaction=True)
    async def first(job: Job[Any]) -> None:
        await monque.enqueue("second", session=job.session)

    @monque.worker("second")
    async def second() -> None: ...

    await monque.enqueue("first")
    assert [job.name for job in (await drain(monque)).completed] == ["first", "second"]


@pytest.mark.usefixtures("says")
async def test_each_run_has_an_outcome(monque: Monque) -> None:
    for what in SAYS:
        await monque.enqueue("says", {"what": what})
    drained = await drain(monque, raise_failures=False)
    named = {outcome: [job.data["what"] for job in getattr(drained, outcome)] for outcome in _OUTCOMES}
    assert named == {
        "completed": [],
        "failed": ["fail"],
        "retried": ["retry"],
        "snoozed": ["snooze"],
        "cancelled": ["cancel"],
    }
    assert [run.error for run in drained.runs if run.outcome == "failed"] == [SAYS["fail"]]
    assert str(drained).startswith("4 runs: ")


_OUTCOMES = ("completed", "failed", "retried", "snoozed", "cancelled")


async def test_a_job_that_is_cancelled_while_it_runs_is_lost(monque: Monque) -> None:
    @monque.worker("withdrawn")
    async def withdrawn(job: Job[Any]) -> None:
        await monque.jobs.cancel(job.id)
        await asyncio.sleep(600)

    await monque.enqueue("withdrawn")
    assert [run.outcome for run in (await drain(monque)).runs] == ["lost"]


async def test_only_jobs_of_names_that_are_given(monque: Monque) -> None:
    @monque.worker("one", aliases=["uno"])
    async def one() -> None: ...

    @monque.worker("other")
    async def other() -> None: ...

    for names in ("one", one, ["uno"], [one]):
        await monque.enqueue_many([("one", {}), ("uno", {}), ("other", {})])
        drained = await drain(monque, names=names)
        assert sorted(job.name for job in drained.completed) == ["one", "uno"]
    assert str(await drain(monque)) == "4 runs: 4 completed"


# --- failures -------------------------------------------------------------------------------------------------------


async def test_a_failure_is_raised_and_says_where_it_comes_from(monque: Monque) -> None:
    failure = ValueError("no")

    @monque.worker("bad")
    async def bad() -> None:
        raise failure

    handle = await bad.enqueue()
    with pytest.raises(ValueError, match="no") as caught:
        await drain(monque)
    assert caught.value is failure
    assert caught.value.__notes__ == [
        f"raised while bad {handle.id} was drained; drain(…, raise_failures=False) goes on"
    ]
    assert (await handle.refresh()).fail_count == 1


async def test_a_failure_lets_others_finish(monque: Monque) -> None:
    begun, failed = asyncio.Event(), asyncio.Event()
    monque.on("job:fail", lambda _: failed.set())

    @monque.worker("slow")
    async def slow() -> None:
        begun.set()
        await failed.wait()

    @monque.worker("bad")
    async def bad() -> None:
        await begun.wait()
        raise ValueError("no")

    handle = await slow.enqueue()
    await bad.enqueue()
    with pytest.raises(ValueError, match="no"):
        await drain(monque)
    assert (await handle.refresh()).status is JobStatus.COMPLETED


async def test_a_failure_that_is_followed_is_raised_if_it_is_for_good(monque: Monque) -> None:
    attempts: list[int] = []

    @monque.worker("flaky")
    async def flaky(job: Job[dict[str, int]]) -> None:
        attempts.append(job.attempts)
        if job.attempts < job.data["good"]:
            raise ValueError(f"attempt {job.attempts}")

    await flaky.enqueue({"good": 3})
    assert str(await drain(monque, with_retries=True)) == "3 runs: 2 retried, 1 completed"
    await flaky.enqueue({"good": 4})
    with pytest.raises(ValueError, match="attempt 3"):
        await drain(monque, with_retries=True)
    assert attempts == [1, 2, 3] * 2


async def test_what_is_wrong_with_a_job_beside_its_handler_is_raised(
    monque: Monque, monque_database: Database[Any]
) -> None:
    @monque.worker("result", store_result=True)
    async def result() -> Any:
        return object()

    await result.enqueue()
    with pytest.raises(ResultError):
        await drain(monque)
    job = await monque.enqueue("result")
    monque_database.monque_jobs.update_one({"_id": job.id}, {"$set": {"uniqueKey": 7}})
    with pytest.raises(JobDocumentError, match="uniqueKey") as caught:
        await drain(monque)
    assert caught.value.__notes__ == ["raised while a job was drained; drain(…, raise_failures=False) goes on"]


async def test_what_is_wrong_with_the_instance_is_not_the_tests_affair(monque: Monque) -> None:
    @monque.worker("troubled")
    async def troubled() -> None:
        monque._events.emit(JobErrorEvent, MonqueError("a hiccup"))

    await troubled.enqueue()
    assert str(await drain(monque)) == "1 run: 1 completed"


async def test_a_job_whose_last_lease_ran_out_has_failed(monque: Monque, monque_database: Database[Any]) -> None:
    @monque.worker("deadly")
    async def deadly() -> None: ...

    claim = {"status": "processing", "claimedBy": "dead", "claimToken": "x", "attempts": 3}
    job = await monque.enqueue("deadly")
    monque_database.monque_jobs.update_one({"_id": job.id}, {"$set": claim})
    await expire_leases(monque)
    with pytest.raises(LeaseExpiredError):
        await drain(monque)
    monque_database.monque_jobs.update_one({"_id": job.id}, {"$set": claim})
    assert [job.id for job in (await drain(monque, raise_failures=False)).failed] == [job.id]


# --- what is due later ----------------------------------------------------------------------------------------------


async def test_what_is_scheduled_runs_in_the_order_of_its_times(monque: Monque) -> None:
    ran: list[str] = []

    @monque.worker("step")
    async def step(what: str) -> None:
        ran.append(what)
        if what == "in an hour":
            # Reckoned from then on, this is after the other one.
            await step.with_(delay=90 * 60).enqueue("in two and a half")

    await step.with_(delay=2 * 3600).enqueue("in two hours")
    await step.with_(delay=3600).enqueue("in an hour")
    await drain(monque, with_scheduled=True)
    assert ran == ["in an hour", "in two hours", "in two and a half"]


@pytest.mark.usefixtures("says")
async def test_retries_alone_are_followed_without_what_is_scheduled(monque: Monque) -> None:
    await monque.enqueue("says", {"what": "retry"})
    snoozed = await monque.enqueue("says", {"what": "snooze"}, delay=365 * DAY)
    drained = await drain(monque, with_retries=True, raise_failures=False)
    assert str(drained) == "3 runs: 2 retried, 1 failed"
    job = await monque.jobs.get(snoozed.id)
    assert job is not None
    assert job.next_run_at - job.created_at == 365 * DAY


async def test_a_recurring_job_is_travelled_to_once(monque: Monque) -> None:
    @monque.worker("report")
    async def report() -> None: ...

    await report.schedule("@yearly")
    assert str(await drain(monque, with_scheduled=True)) == "1 run: 1 completed"
    assert str(await drain(monque, with_scheduled=True)) == "1 run: 1 completed"


async def test_the_retry_of_a_recurring_job_is_followed(monque: Monque) -> None:
    @monque.worker("report")
    async def report(job: Job[Any]) -> None:
        if job.attempts == 1:
            raise ValueError

    await report.schedule("@yearly", {})
    assert str(await drain(monque, with_scheduled=True)) == "2 runs: 1 retried, 1 completed"


async def test_times_beyond_the_calendar_are_not_travelled_to(monque: Monque, monque_database: Database[Any]) -> None:
    @monque.worker("never")
    async def never() -> None: ...

    job = (await never.enqueue()).job
    monque_database.monque_jobs.update_one({"_id": job.id}, {"$set": {"nextRunAt": DatetimeMS(10**15)}})
    assert (await drain(monque, with_scheduled=True)) == Drained(())


# --- an instance at work --------------------------------------------------------------------------------------------


async def test_an_instance_at_work_is_waited_for_and_goes_on(monque: Monque) -> None:
    @monque.worker("count")
    async def count(to: int) -> None:
        if to > 1:
            await count.enqueue(to - 1)

    await monque.start()
    await count.enqueue(3)
    assert len((await drain(monque)).completed) == 3
    handle = await count.enqueue(1)

    async def is_completed() -> bool:
        return (await handle.refresh()).status is JobStatus.COMPLETED

    await eventually(is_completed)


async def test_what_other_programs_enqueue_behind_its_back_is_found(
    monque: Monque, monque_database: Database[Any]
) -> None:
    @monque.worker("greet")
    async def greet() -> None: ...

    await monque.start()
    job = await monque.enqueue("greet", delay=3600)
    monque_database.monque_jobs.update_one({"_id": job.id}, {"$set": {"nextRunAt": job.created_at}})
    assert [job.id for job in (await drain(monque)).completed] == [job.id]


# --- limits ---------------------------------------------------------------------------------------------------------


async def test_a_job_that_enqueues_itself_for_ever_is_ended(monque: Monque) -> None:
    @monque.worker("ping")
    async def ping() -> None:
        await ping.enqueue()

    await ping.enqueue()
    with pytest.raises(AssertionError, match=r"drained more than 20 runs: \d+ of 'ping'; does a job enqueue itself"):
        await drain(monque, max_runs=20)


async def test_a_handler_that_hangs_is_named(monque: Monque) -> None:
    begun = asyncio.Event()

    @monque.worker("hang")
    async def hang() -> None:
        begun.set()
        await asyncio.sleep(600)

    handle = await hang.enqueue()
    await monque.start()
    await begun.wait()
    with pytest.raises(AssertionError, match=rf"after 0 runs; handlers at work: hang {handle.id}\. If"):
        await drain(monque, timeout=0)
    await monque.stop(hurry=True)


async def test_what_still_runs_when_a_drain_is_given_up_goes_back(monque: Monque) -> None:
    begun = asyncio.Event()

    @monque.worker("hang")
    async def hang() -> None:
        begun.set()
        await asyncio.sleep(600)

    handle = await hang.enqueue()
    draining = asyncio.create_task(drain(monque))
    await begun.wait()
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    job = await handle.refresh()
    assert (job.status, job.attempts) == (JobStatus.PENDING, 0)


async def test_time_may_be_up_with_nothing_at_work(monque: Monque) -> None:
    @monque.worker("greet")
    async def greet() -> None: ...

    with pytest.raises(AssertionError, match="after 0 runs; handlers at work: none"):
        await drain(monque, timeout=0)


async def test_an_instance_that_is_stopped_cannot_be_drained_on(monque: Monque) -> None:
    @monque.worker("stop")
    async def stop() -> None:
        await monque.stop()

    await stop.enqueue()
    with pytest.raises(MonqueError, match="stopped while it was drained"):
        await drain(monque)


async def test_a_retention_holds(monque: Monque) -> None:
    @monque.worker("greet", retention=Retention(completed=DAY))
    async def greet() -> None: ...

    handle = await greet.enqueue()
    await drain(monque)
    await travel(monque, days=1)
    assert await monque.jobs.get(handle.id) is None


@pytest.mark.parametrize(
    ("argument", "value"),
    [("timeout", "soon"), ("max_runs", 0), ("max_runs", True), ("max_runs", 2.5), ("names", "other"), ("names", [7])],
)
async def test_arguments_that_make_no_sense_are_refused(monque: Monque, argument: str, value: Any) -> None:
    @monque.worker("greet")
    async def greet() -> None: ...

    with pytest.raises(InvalidArgumentError, match=argument):
        await drain(monque, **{argument: value})


async def test_without_workers_or_a_connection_there_is_nothing_to_drain(monque: Monque) -> None:
    with pytest.raises(MonqueError, match="no workers"):
        await drain(monque)
    with pytest.raises(ConnectionError, match="not connected"):
        await drain(Monque())
