from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from pymongo import AsyncMongoClient

from monque import (
    Cancel,
    Concurrency,
    ConnectionError,
    Fail,
    InvalidArgumentError,
    InvalidJobIdentifierError,
    Job,
    JobCancelledError,
    JobCompleteEvent,
    JobDocumentError,
    JobErrorEvent,
    JobFailedError,
    JobFilter,
    JobHandle,
    JobMissingError,
    JobStatus,
    Monque,
    ResultError,
    ResultTimeoutError,
)
from monque import _results as results
from monque.testing import eventually

from .support import NO_POLLS, Commands, Gate, Proxy, Record, working

if TYPE_CHECKING:
    from .support import Bench, Lab

# What a test fails by that waits for ever.
LONG = 60


@dataclass
class Sum:
    """A result with a type of its own."""

    total: Decimal
    at: datetime


def waiting(monque: Monque) -> results.Waiting:
    assert monque._connected is not None
    return monque._connected.waiting


async def joined(monque: Monque, number: int = 1) -> None:
    """So many wait, and have been looked for."""
    waits = waiting(monque)._waits
    await eventually(lambda: sum(len(w.futures) for w in waits.values() if w.status) == number, timeout=20)


async def test_a_result_comes_back_as_the_function_returned_it(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    moment = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)

    @monque.worker("sum", store_result=True)
    async def add(prices: list[Decimal]) -> Sum:
        return Sum(sum(prices, Decimal()), moment)

    async with working(monque):
        handle = await add.enqueue([Decimal("0.1"), Decimal("0.2")])
        assert await handle.result(timeout=LONG) == Sum(Decimal("0.3"), moment)
        assert (await handle.refresh()).status is JobStatus.COMPLETED
        stored = await monque.jobs.get(handle.id)
    assert stored is not None
    assert handle.job == stored
    assert stored.result.keys() == {"total", "at"}
    assert repr(handle) == f"<JobHandle 'sum' {handle.id}>"


@pytest.mark.parametrize("place", ["thread", "loop"])
async def test_results_of_plain_and_untyped_functions(bench: Bench, place: str) -> None:
    monque = bench.monque(polling=NO_POLLS)

    def count(job: Job[Any]) -> Any:
        return {"rows": len(job.data)}

    async def count_too(job: Job[Any]) -> Any:
        return count(job)

    worker = monque.worker("count", count if place == "thread" else count_too, store_result=True)
    async with working(monque):
        handle = await worker.enqueue([1, 2])
        assert await handle.result(LONG) == {"rows": 2}
        assert await monque.jobs.result(str(handle.id), LONG) == {"rows": 2}


async def test_a_result_is_none_if_none_is_stored(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)

    @monque.worker("count")
    async def count(_: Job[Any]) -> int:
        return 1

    async with working(monque):
        handle = await count.enqueue({})
        assert await handle.result(LONG) is None
    assert "result" not in bench.find(handle.id)


async def test_none_is_a_result_too(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)

    @monque.worker("count", store_result=True)
    async def count(_: Job[Any]) -> None: ...

    async with working(monque):
        handle = await count.enqueue({})
        assert await handle.result(LONG) is None
    assert bench.find(handle.id)["result"] is None


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ("x" * 1000, "result: expected at most 1,000 bytes of BSON, got 1,018"),
        (object(), r"InvalidPayloadError: result: expected a value BSON can hold .*object object"),
        ({"deep": {1: object()}}, "InvalidPayloadError: result"),
        (2**64, "InvalidPayloadError: result"),
    ],
    ids=["too large", "no value", "no value inside", "too large a number"],
)
async def test_what_cannot_be_stored_leaves_a_reason_and_the_job_completed(
    bench: Bench, returned: object, problem: str
) -> None:
    monque = bench.monque(polling=NO_POLLS, max_result_bytes=1000)
    record = Record(monque)

    @monque.worker("work", store_result=True)
    async def work(_: Job[Any]) -> Any:
        return returned

    async with working(monque):
        handle = await work.enqueue({})
        with pytest.raises(ResultError, match=problem) as refusal:
            await handle.result(LONG)
        await eventually(record.has(JobErrorEvent))
    document = bench.find(handle.id)
    assert document["status"] == "completed"
    assert document["resultError"] == refusal.value.problem
    assert refusal.value.job_id == handle.id
    assert "result" not in document
    (trouble,) = record.of(JobErrorEvent)
    assert isinstance(trouble.error, ResultError)
    assert trouble.job is not None
    assert trouble.job.id == handle.id
    assert len(record.of(JobCompleteEvent)) == 1


async def test_a_result_of_another_type_than_it_says_is_not_stored(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)

    @monque.worker("work", store_result=True)
    async def work(_: Job[Any]) -> int:
        return "many"  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

    async with working(monque):
        handle = await work.enqueue({})
        with pytest.raises(ResultError, match=r"InvalidPayloadError: result: expected .*integer.*'many'"):
            await handle.result(LONG)


async def test_a_result_that_the_document_has_no_room_for_is_left_out(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS, max_result_bytes=16_000_000)

    @monque.worker("work", store_result=True)
    async def work(job: Job[Any]) -> Any:
        return job.data

    async with working(monque):
        handle = await work.enqueue("x" * 9_000_000)
        with pytest.raises(ResultError, match=r"could not be stored: the server refuses .*BSONObj size[^{}]*$"):
            await handle.result(LONG)
    assert bench.count(status="completed") == 1


async def test_a_later_result_takes_the_place_of_a_problem(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    returns: list[Any] = [object(), 7]

    @monque.worker("work", store_result=True)
    async def work(_: Job[Any]) -> Any:
        return returns.pop(0)

    def has_run(left: int) -> bool:
        return len(returns) < left and bench.find(job)["status"] == "pending"

    async with working(monque):
        job = await monque.schedule("0 0 1 1 *", "work")
        for _ in range(2):
            left = len(returns)
            await monque.jobs.reschedule(job.id, datetime.now(UTC))
            await eventually(partial(has_run, left))
    assert bench.find(job)["result"] == 7
    assert "resultError" not in bench.find(job)


# --- the ends of waiting --------------------------------------------------------------------------------------------


async def test_a_failed_job_is_an_error(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)

    @monque.worker("work")
    async def work(_: Job[Any]) -> None:
        raise Fail("no such address")

    async with working(monque):
        handle = await work.enqueue({})
        with pytest.raises(JobFailedError, match="no such address") as failure:
            await handle.result(LONG)
    assert failure.value.job.id == handle.id
    assert failure.value.job.status is JobStatus.FAILED


async def test_a_failure_that_is_followed_by_another_run_is_no_end(bench: Bench) -> None:
    from monque import Retry

    monque = bench.monque(polling=NO_POLLS, retry=Retry(base=0.01))

    @monque.worker("work", store_result=True)
    async def work(job: Job[Any]) -> int:
        if job.attempts < 3:
            raise ValueError
        return job.attempts

    async with working(monque):
        assert await (await work.enqueue({})).result(LONG) == 3


@pytest.mark.parametrize("by", ["its handler", "hand", "hand, with others"])
async def test_a_cancelled_job_is_an_error(bench: Bench, by: str) -> None:
    monque = bench.monque(polling=NO_POLLS)

    @monque.worker("work")
    async def work(_: Job[Any]) -> None:
        raise Cancel("not wanted")

    async with working(monque):
        handle = await work.with_(delay=0 if by == "its handler" else 3600).enqueue({})
        result = asyncio.create_task(handle.result(LONG))
        if by == "hand":
            await joined(monque)
            await monque.jobs.cancel(handle.id)
        elif by == "hand, with others":
            await joined(monque)
            await monque.jobs.cancel_many(JobFilter(name="work"))
        with pytest.raises(
            JobCancelledError, match="was cancelled: not wanted" if by == "its handler" else "cancelled$"
        ):
            await result


@pytest.mark.parametrize("many", [False, True])
async def test_a_job_that_goes_away_is_an_error(bench: Bench, many: bool) -> None:
    async with bench.monque() as monque:
        job = await monque.enqueue("work")
        result = asyncio.create_task(monque.jobs.result(job.id, LONG))
        await joined(monque)
        if many:
            await monque.jobs.delete_many(JobFilter(name="work"))
        else:
            await monque.jobs.delete(job.id)
        with pytest.raises(JobMissingError, match=str(job.id)) as missing:
            await result
        assert missing.value.job_id == job.id


async def test_a_job_that_never_was_is_an_error_at_once(bench: Bench) -> None:
    async with bench.monque() as monque:
        with pytest.raises(JobMissingError):
            await monque.jobs.result(ObjectId(), LONG)
        handle = JobHandle[None](await monque.enqueue("work"), monque.jobs, lambda value: value)
        await monque.jobs.delete(handle.id)
        with pytest.raises(JobMissingError):
            await handle.refresh()


async def test_time_runs_out_and_says_what_the_job_is(bench: Bench) -> None:
    async with bench.monque() as monque:
        job = await monque.enqueue("work")
        with pytest.raises(ResultTimeoutError, match="it is pending") as late:
            await monque.jobs.result(job.id, timedelta(seconds=0.3))
        with pytest.raises(TimeoutError, match="status is not known"):
            await monque.jobs.result(job.id, 0)
        await eventually(lambda: waiting(monque)._task is None, timeout=20)
    assert (late.value.job_id, late.value.timeout, late.value.status) == (job.id, 0.3, "pending")


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon", None, True], ids=repr)
async def test_what_is_no_time_is_refused(bench: Bench, timeout: Any) -> None:
    async with bench.monque() as monque:
        with pytest.raises(InvalidArgumentError, match="timeout"):
            await monque.jobs.result(ObjectId(), timeout)
        with pytest.raises(InvalidJobIdentifierError):
            await monque.jobs.result("nothing")


async def test_a_job_that_cannot_be_read_is_an_error_for_those_alone_who_wait_for_it(bench: Bench) -> None:
    async with bench.monque() as monque:
        broken = bench.insert("work", status="completed", failCount="many")
        other = bench.insert("work", status="completed", result=7)
        ends = await asyncio.gather(*(monque.jobs.result(job, LONG) for job in (broken, other)), return_exceptions=True)
    assert isinstance(ends[0], JobDocumentError)
    assert ends[1] == 7


async def test_closing_lets_nobody_wait(bench: Bench) -> None:
    async with bench.monque() as monque:
        job = await monque.enqueue("work")
        result = asyncio.create_task(monque.jobs.result(job.id, LONG))
        await joined(monque)
    with pytest.raises(ConnectionError, match="closed while a result was waited for"):
        await result


async def test_an_outage_ends_no_waiting_before_its_time(lab: Lab) -> None:
    async with lab.monque() as monque:
        job = await monque.enqueue("work")
        with lab.failing("find", errorCode=8000):
            patient = asyncio.create_task(monque.jobs.result(job.id, LONG))
            with pytest.raises(ResultTimeoutError, match="not known") as late:
                await monque.jobs.result(job.id, 0.5)
            assert late.value.__cause__ is not None
        await monque.jobs.cancel(job.id)
        with pytest.raises(JobCancelledError):
            await patient


async def test_a_silent_server_keeps_nobody_longer_than_said(bench: Bench, monque_server: str) -> None:
    async with Proxy(monque_server).serving() as proxy:
        monque = Monque(proxy.uri(bench))
        await monque.initialize()
        job = await monque.enqueue("work")
        proxy.fall_silent()
        with pytest.raises(ResultTimeoutError, match="not known"):
            await monque.jobs.result(job.id, 0.3)
        proxy.speak()
        await monque.close()


# --- many, elsewhere and inside -------------------------------------------------------------------------------------


async def test_a_result_of_another_instance_is_waited_for(bench: Bench) -> None:
    here, there = bench.monque(), bench.monque(polling=NO_POLLS)
    gate = Gate()

    @there.worker("work", store_result=True)
    async def work(job: Job[Any]) -> int:
        await gate(job)
        return 42

    async with here, working(there):
        job = await here.enqueue("work")
        result = asyncio.create_task(here.jobs.result(job.id, LONG))
        await joined(here)
        gate.open()
        assert await result == 42


async def test_those_who_wait_cost_one_command_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_SHORTEST", 1.0)
    commands = Commands()
    async with (
        AsyncMongoClient[dict[str, Any]](bench.uri, event_listeners=[commands], tz_aware=True) as client,
        Monque(client[bench.database_name]) as monque,
    ):
        jobs = await monque.enqueue_many([("work", None)] * 1000)
        before = len(commands.names)
        waits = [asyncio.create_task(monque.jobs.result(job.id, LONG)) for job in jobs]
        await joined(monque, 1000)
        assert commands.names[before:] == ["find"]
        bench.jobs.update_many({}, {"$set": {"status": "completed", "result": 1}})
        assert await asyncio.gather(*waits) == [1] * 1000
        assert commands.names[before:] == ["find", "find"]


async def test_looks_become_rare_and_go_on_while_somebody_waits(bench: Bench) -> None:
    async with bench.monque() as monque:
        job = await monque.enqueue("work")
        result = asyncio.create_task(monque.jobs.result(job.id, LONG))
        await joined(monque)
        (wait,) = waiting(monque)._waits.values()
        await eventually(lambda: wait.pause == results._LONGEST, timeout=30)
        # Whoever comes later is looked for soon, and takes the others along.
        later = asyncio.create_task(monque.jobs.result(job.id, LONG))
        await joined(monque, 2)
        assert wait.pause < results._LONGEST
        bench.jobs.update_one({"_id": job.id}, {"$set": {"status": "completed", "result": 1}})
        assert [await result, await later] == [1, 1]


async def test_who_ends_here_is_not_waited_for_any_longer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_SHORTEST", 3600.0)
    monque = bench.monque(polling=NO_POLLS)
    gate = Gate()
    monque.worker("work", gate)
    async with working(monque):
        job, other = await monque.enqueue("work"), await monque.enqueue("other", delay=3600)
        waits = [asyncio.create_task(monque.jobs.result(each.id, LONG)) for each in (job, other)]
        await joined(monque, 2)
        gate.open()
        assert await waits[0] is None
        assert waiting(monque)._waits.keys() == {other.id}
        await monque.jobs.cancel(other.id)
        with pytest.raises(JobCancelledError):
            await waits[1]


async def test_news_that_comes_during_a_look_is_followed_by_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "_SHORTEST", 3600.0)
    async with bench.monque() as monque:
        job = await monque.enqueue("work")
        assert monque._connected is not None
        look, looks = monque._connected.flow.endings, 0

        async def look_and_hear(jobs: list[ObjectId]) -> Any:
            nonlocal looks
            looks += 1
            found = await look(jobs)
            if looks == 1:
                await monque.jobs.cancel(job.id)
            return found

        monkeypatch.setattr(waiting(monque), "_look", look_and_hear)
        with pytest.raises(JobCancelledError):
            await monque.jobs.result(job.id, LONG)
    assert looks == 2


async def test_who_waits_no_more_is_forgotten(bench: Bench) -> None:
    async with bench.monque() as monque:
        job = await monque.enqueue("work")
        first, second = (asyncio.create_task(monque.jobs.result(job.id, LONG)) for _ in range(2))
        await joined(monque, 2)
        first.cancel()
        await asyncio.wait([first])
        assert waiting(monque)._task is not None
        second.cancel()
        await asyncio.wait([second])
        assert not waiting(monque)._waits
        await eventually(lambda: waiting(monque)._task is None, timeout=20)
        assert not any(monque._events._listeners.get(name) for name in ("job:complete", "jobs:cancelled"))


async def test_a_handler_waits_for_the_results_of_others(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS, concurrency=Concurrency(per_worker=3))

    @monque.worker("square", store_result=True)
    async def square(number: int) -> int:
        return number * number

    @monque.worker("squares", store_result=True)
    async def squares(upto: int) -> int:
        handles = [await square.enqueue(number) for number in range(upto)]
        return sum([await handle.result(LONG) for handle in handles])

    async with working(monque):
        assert await (await squares.enqueue(5)).result(LONG) == 30


async def test_a_handle_leads_to_the_job_that_has_the_key(bench: Bench) -> None:
    monque = bench.monque()

    @monque.worker("work")
    async def work(number: int) -> None: ...

    async with monque:
        first = await work.with_(unique_key="k").enqueue(1)
        second = await work.with_(unique_key="k").enqueue(2)
    assert first.job == second.job
    assert second.job.data == {"number": 1}
