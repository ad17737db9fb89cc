"""Jobs whose unique key is wanted again while they run: no request is lost, whatever the run comes to."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from monque import (
    Job,
    JobCompleteEvent,
    JobFailEvent,
    JobLostEvent,
    JobStatus,
    Monque,
    OnConflict,
    Polling,
    Retry,
    StaleRecoveredEvent,
    UniqueKeyConflictError,
)
from monque.testing import eventually

from .support import NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bson import ObjectId

    from .support import Bench, Document

LATER = datetime(2100, 1, 1, tzinfo=UTC)
CLAIM_FIELDS = {"claimedBy", "claimToken", "lockedAt", "lastHeartbeat", "heartbeatInterval"}
FOLLOW_UP = {"data": "new", "nextRunAt": LATER, "priority": 4}
# What becomes of the job if it is followed up, and if it is not.
ENDINGS: dict[str, tuple[Document, Document]] = {
    "completed": (
        {"status": "pending", "data": "new", "failCount": 0, "attempts": None, "failReason": None},
        {"status": "completed", "data": "old", "failCount": 0, "attempts": 1, "failReason": None},
    ),
    "failed for good": (
        {"status": "pending", "data": "new", "failCount": 0, "attempts": None, "failReason": "ValueError: no"},
        {"status": "failed", "data": "old", "failCount": 1, "attempts": 1, "failReason": "ValueError: no"},
    ),
    "failed": (
        {"status": "pending", "data": "old", "failCount": 1, "attempts": 1, "failReason": "ValueError: no"},
        {"status": "pending", "data": "old", "failCount": 1, "attempts": 1, "failReason": "ValueError: no"},
    ),
    "released": (
        {"status": "pending", "data": "old", "failCount": 0, "attempts": 0, "failReason": None},
        {"status": "pending", "data": "old", "failCount": 0, "attempts": 0, "failReason": None},
    ),
    "cancelled": (
        {"status": "cancelled", "data": "old", "failCount": 0, "attempts": 1, "failReason": None},
        {"status": "cancelled", "data": "old", "failCount": 0, "attempts": 1, "failReason": None},
    ),
    "settled by Node": (
        {"status": "completed", "data": "old", "failCount": 0, "attempts": 1, "failReason": None},
        {"status": "completed", "data": "old", "failCount": 0, "attempts": 1, "failReason": None},
    ),
}
WAITING = {"failed", "released", "settled by Node"}


async def ask(monque: Monque, mode: OnConflict) -> bool:
    """Ask for the key of a job that runs; whether it is followed up then."""
    try:
        job = await monque.enqueue("work", "new", run_at=LATER, priority=4, unique_key="k", on_conflict=mode)
    except UniqueKeyConflictError:
        return False
    return job.follow_up is not None


@pytest.mark.parametrize("before", [False, True], ids=["asked during the run", "asked before it"])
@pytest.mark.parametrize("mode", ["return", "raise", "replace", "run_after"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_run_comes_to_this(ending: str, mode: OnConflict, before: bool, bench: Bench) -> None:
    retry = Retry(max_retries=1) if ending == "failed for good" else Retry(base=1800)
    monque = bench.monque(retry=retry, shutdown_timeout=0)
    runs, record = Gate(), Record(monque)

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        await runs(job)
        if ending.startswith("failed"):
            raise ValueError("no")

    followed = mode in ("replace", "run_after")
    earlier = {"followUp": FOLLOW_UP} if before and followed else {}
    job = bench.insert("work", uniqueKey="k", data="old", **earlier)
    async with working(monque):
        await runs.reached()
        if not before:
            assert await ask(monque, mode) is followed
        if ending == "cancelled":
            await monque.jobs.cancel(job)
        elif ending == "settled by Node":
            settled = {"$set": {"status": "completed"}, "$unset": dict.fromkeys(CLAIM_FIELDS, "")}
            bench.jobs.update_one({"_id": job, "status": "processing"}, settled)
        elif ending != "released":
            runs.open()
            await eventually(lambda: bench.find(job)["status"] != "processing")

    (document,) = bench.jobs.find()
    expected = ENDINGS[ending][not followed]
    assert {name: document.get(name) for name in expected} == expected
    assert CLAIM_FIELDS.isdisjoint(document)
    assert document.get("followUp") == (FOLLOW_UP if followed and ending in WAITING else None)
    if expected["data"] == "new":
        assert (document["nextRunAt"], document["priority"], document["uniqueKey"]) == (LATER, 4, "k")
    # What is announced is the run that has ended, also when something follows.
    assert [event.job.data for event in record.of(JobCompleteEvent)] == ["old"] * (ending == "completed")
    failed = [(event.job.data, event.will_retry) for event in record.of(JobFailEvent)]
    assert failed == [("old", ending == "failed")] * ending.startswith("failed")


@pytest.mark.parametrize("mode", ["return", "raise", "replace", "run_after"])
@pytest.mark.parametrize("attempts", [1, 10])
async def test_a_lease_that_runs_out_comes_to_this(attempts: int, mode: OnConflict, bench: Bench) -> None:
    fields = {"uniqueKey": "k", "data": "old", "attempts": attempts, "priority": -1}
    job = bench.insert_claimed("work", age=31, **fields)
    monque = bench.monque()
    record = Record(monque)
    async with monque:
        followed = await ask(monque, mode)
        await monque.start()
        await eventually(record.has(StaleRecoveredEvent))
    document = bench.find(job)
    assert CLAIM_FIELDS.isdisjoint(document)
    last = attempts == 10
    taken_over = followed and last
    assert document["status"] == ("failed" if last and not followed else "pending")
    assert (document["data"], document["priority"]) == (("new", 4) if taken_over else ("old", -1))
    assert document.get("attempts") == (None if taken_over else attempts)
    assert ("failReason" in document) is last
    assert document.get("followUp") == (FOLLOW_UP if followed and not last else None)
    assert [event.will_retry for event in record.of(JobFailEvent)] == [False] * last


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("mode", ["replace", "run_after"])
async def test_an_update_that_arrives_while_the_job_runs_is_never_dropped(
    mode: OnConflict, fails: bool, bench: Bench
) -> None:
    monque = bench.monque(polling=NO_POLLS, retry=Retry(max_retries=1))
    runs = Gate()

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        await runs(job)
        if fails:
            raise ValueError("no")

    async with working(monque):
        job = await monque.enqueue("work", 0, unique_key="k")
        await runs.reached()
        for number in (1, 2, 3):
            await monque.enqueue("work", number, unique_key="k", on_conflict=mode)
        runs.open()
        await eventually(lambda: len(runs.ended) == 2)
    assert [run.data for run in runs.ended] == [0, 3]
    assert {run.id for run in runs.ended} == {job.id}
    assert [document["status"] for document in bench.jobs.find()] == ["failed" if fails else "completed"]


async def test_what_follows_starts_on_time(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    runs = Gate()
    monque.worker("work", runs)
    async with working(monque):
        await monque.enqueue("work", 0, unique_key="k")
        await runs.reached()
        await monque.enqueue("work", 1, delay=0.3, unique_key="k", on_conflict="run_after")
        runs.open()
        await runs.reached(2)
    followed = runs.started[1]
    assert followed.locked_at is not None
    # There is no poll in sight: it knew when.
    assert timedelta(0) <= followed.locked_at - followed.next_run_at < timedelta(seconds=5)


async def test_what_was_put_off_and_is_wanted_earlier_starts_on_time(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    runs = Gate()
    runs.open()
    monque.worker("work", runs)
    async with working(monque):
        for number in range(3):
            await monque.enqueue("work", number, delay=3600, unique_key="k", on_conflict="replace")
        assert bench.count() == 1
        await monque.enqueue("work", 3, unique_key="k", on_conflict="replace")
        await runs.reached()
    assert [run.data for run in runs.started] == [3]


async def test_a_follow_up_that_is_replaced_while_it_takes_over_is_the_later_one(bench: Bench) -> None:
    monque = bench.monque()
    runs = Gate()
    monque.worker("work", runs)
    async with working(monque):
        job = await monque.enqueue("work", 0, unique_key="k")
        await runs.reached()
        await monque.enqueue("work", 1, run_at=LATER, unique_key="k", on_conflict="run_after")
        flow = monque._connection().flow
        reread = flow.reread

        async def and_then_another(job: ObjectId, token: str, session: Any = None) -> Job[Any] | None:
            seen = await reread(job, token, session)
            await monque.enqueue("work", 2, run_at=LATER, unique_key="k", on_conflict="run_after")
            return seen

        flow.reread = and_then_another  # type: ignore[method-assign]
        runs.open()
        await eventually(lambda: bench.find(job)["status"] == "pending")
    assert bench.find(job)["data"] == 2


@pytest.mark.parametrize("schedule", [False, True], ids=["cancelled", "given a schedule"])
async def test_a_follow_up_that_goes_while_it_takes_over_is_gone(schedule: bool, bench: Bench) -> None:
    monque = bench.monque()
    runs, record = Gate(), Record(monque)
    monque.worker("work", runs)
    async with working(monque):
        job = await monque.enqueue("work", 0, unique_key="k")
        await runs.reached()
        await monque.enqueue("work", 1, unique_key="k", on_conflict="run_after")
        flow = monque._connection().flow
        reread = flow.reread

        async def and_then_no_more(job: ObjectId, token: str, session: Any = None) -> Job[Any] | None:
            seen = await reread(job, token, session)
            flow.reread = reread  # type: ignore[method-assign]
            if schedule:
                await monque.schedule("0 0 1 1 *", "work", 2, unique_key="k")
            else:
                await monque.jobs.cancel(job)
            return seen

        flow.reread = and_then_no_more  # type: ignore[method-assign]
        runs.open()
        await eventually(lambda: bench.find(job)["status"] != "processing")
        await eventually(record.has(JobCompleteEvent if schedule else JobLostEvent))
    document = bench.find(job)
    assert "followUp" not in document
    assert (document["status"], document["data"]) == (("pending", 2) if schedule else ("cancelled", 0))
    assert len(record.of(JobCompleteEvent)) == schedule


# --- many at the same time --------------------------------------------------------------------------------------------


class Log:
    """The runs of a key, and how many there were at a time."""

    def __init__(self) -> None:
        self.data: list[Any] = []
        self.now = self.most = 0

    async def __call__(self, job: Job[Any]) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(random.random() / 100)  # some runs are longer than others
        self.now -= 1
        self.data.append(job.data)
        if job.data["number"] % 7 == 0:
            raise ValueError


def _caller(monque: Monque, number: int, mode: OnConflict, kind: str) -> Callable[[], Awaitable[Job[Any]]]:
    async def call() -> Job[Any]:
        arguments: dict[str, Any] = {"unique_key": "k", "on_conflict": mode}
        data = {"number": number, "mode": mode}
        if kind == "plain":
            return await monque.enqueue("work", data, **arguments)
        if kind == "many":
            return (await monque.enqueue_many([{"name": "work", "data": data, **arguments}]))[0]
        async with monque._connection().client.start_session() as session:
            if kind == "session":
                return await monque.enqueue("work", data, session=session, **arguments)
            return await session.with_transaction(
                lambda session: monque.enqueue("work", data, session=session, **arguments)
            )

    return call


async def test_two_hundred_calls_of_mixed_kinds_while_workers_run(bench: Bench) -> None:
    modes: list[OnConflict] = ["return", "replace", "run_after", "raise"]
    retry = Retry(max_retries=2, base=0.001)
    monques = [bench.monque(retry=retry, polling=Polling(interval=0.05, safety=0.1)) for _ in range(2)]
    log = Log()
    for monque in monques:
        monque.worker("work", log)

    async def task(calls: list[Callable[[], Awaitable[Job[Any]]]]) -> None:
        for call in calls:
            with suppress(UniqueKeyConflictError):
                await call()

    async with working(*monques):
        kinds = ["plain", "many", "session", "transaction"]
        calls = [
            _caller(monques[number % 2], number, modes[number % 4], kinds[number // 4 % 4]) for number in range(200)
        ]
        await asyncio.gather(*(task(calls[start::10]) for start in range(10)))
        await monques[0].enqueue("work", {"number": 1000, "mode": "last"}, unique_key="k", on_conflict="replace")
        await eventually(lambda: not bench.count(status={"$in": ["pending", "processing"]}), timeout=30)

    # The index has kept two documents from being active at the same time, and nobody was told of a duplicate key.
    assert log.most == 1
    assert log.data[-1]["mode"] == "last"
    assert not bench.count(followUp={"$exists": True})
    assert {document["status"] for document in bench.jobs.find()} <= {JobStatus.COMPLETED, JobStatus.FAILED}
