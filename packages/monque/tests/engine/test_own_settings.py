"""Time limits, retry policies, tags and headers that a job has of its own."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from monque import (
    InvalidArgumentError,
    Job,
    JobFailEvent,
    Monque,
    NewJob,
    Retry,
    Snooze,
    StaleRecoveredEvent,
)
from monque.testing import eventually

from .support import Record, working

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .support import Bench

GIVEN = Retry(max_retries=3, base=0.5, cap=timedelta(minutes=1), jitter=0.25)
# What becomes of it on the way through the database.
OWN = Retry(max_retries=3, base=0.5, cap=60.0, jitter=0.25)
HEADERS = {"tenant": "acme", "X-Request_1": "…"}
STORED: dict[str, Any] = {
    "timeout": 1500,
    "retry": {"maxRetries": 3, "base": 0.5, "cap": 60.0, "jitter": 0.25},
    "tags": ["eu", "blue"],
    "headers": HEADERS,
}
SETTINGS: dict[str, Any] = {
    "timeout": timedelta(seconds=1.5),
    "retry": GIVEN,
    "tags": ["eu", "blue", "eu"],
    "headers": HEADERS,
}


async def by_name(monque: Monque, **settings: Any) -> Job[Any]:
    return await monque.enqueue("greet", {"to": "ada"}, **settings)


async def as_value(monque: Monque, **settings: Any) -> Job[Any]:
    return await monque.enqueue(NewJob(name="greet", data={"to": "ada"}, **settings))


async def as_mapping(monque: Monque, **settings: Any) -> Job[Any]:
    return (await monque.enqueue_many([{"name": "greet", "data": {"to": "ada"}, **settings}]))[0]


async def in_a_stream(monque: Monque, **settings: Any) -> Job[Any]:
    jobs = (NewJob(name="greet", data={"to": "ada"}, **settings) for _ in range(1))
    (stored,) = [job async for batch in monque.enqueue_stream(jobs) for job in batch]
    return stored


async def by_worker(monque: Monque, **settings: Any) -> Job[Any]:
    async def greet(to: str) -> None: ...

    return (await monque.worker("greet", greet, replace=True).with_(**settings).enqueue(to="ada")).job


async def on_a_schedule(monque: Monque, **settings: Any) -> Job[Any]:
    return await monque.schedule("0 9 * * *", "greet", {"to": "ada"}, **settings)


async def on_a_schedule_by_worker(monque: Monque, **settings: Any) -> Job[Any]:
    async def greet(to: str) -> None: ...

    return await monque.worker("greet", greet, replace=True).with_(**settings).schedule("0 9 * * *", to="ada")


WAYS = [by_name, as_value, as_mapping, in_a_stream, by_worker, on_a_schedule, on_a_schedule_by_worker]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@every_way
async def test_they_are_stored_with_the_job(way: Callable[..., Awaitable[Job[Any]]], bench: Bench) -> None:
    async with bench.monque() as monque:
        job = await way(monque, **SETTINGS)
        assert (job.timeout, job.retry, job.tags, job.headers) == (1.5, OWN, ("eu", "blue"), HEADERS)
        assert await monque.jobs.get(job.id) == job
    document = bench.find(job)
    assert {name: document.get(name) for name in STORED} == STORED


@every_way
async def test_a_job_without_them_has_no_such_fields(way: Callable[..., Awaitable[Job[Any]]], bench: Bench) -> None:
    async with bench.monque() as monque:
        job = await way(monque)
    assert (job.timeout, job.retry, job.tags, job.headers) == (None, None, (), {})
    assert not STORED.keys() & bench.find(job).keys()


LENGTH = "a timedelta or a number of seconds, at least 0.001, at most 1,000 years"
BAD_TIMEOUTS: list[Any] = [0, -1, 0.0009, timedelta(0), timedelta(-1), "30", True, float("nan"), float("inf"), 1e12]
NAMES = "headers: expected names of 1 to 255 letters, digits, hyphens and underscores, got "
BAD_HEADERS: list[tuple[Any, str]] = [
    (["tenant"], r"headers: expected a mapping of names to texts, got \['tenant'\]"),
    *(({name: "x"}, NAMES) for name in ("", "a b", "a.b", "$a", "ü", "a\n", "a" * 256, 1)),
    *(
        ({"a": text}, r"headers\['a'\]: expected a text that UTF-8 can hold, got ")
        for text in (1, None, b"x", "\ud800")
    ),
    ({"a": "ü" * 4096}, "headers: expected at most 8,192 bytes of names and texts in all; .* got '8,193 bytes'"),
]
BAD_RETRIES: list[Any] = [3, "never", {}, Retry]


@every_way
async def test_what_makes_no_sense_is_refused_before_anything_is_written(
    way: Callable[..., Awaitable[Job[Any]]], bench: Bench
) -> None:
    async with bench.monque() as monque:
        for argument, values in {"timeout": BAD_TIMEOUTS, "retry": BAD_RETRIES}.items():
            for value in values:
                with pytest.raises(InvalidArgumentError) as caught:
                    await way(monque, **{argument: value})
                assert caught.value.argument == argument
                assert caught.value.value is value
                assert f"{argument}: expected {LENGTH if argument == 'timeout' else 'a Retry'}, got" in str(
                    caught.value
                )
        with pytest.raises(
            InvalidArgumentError, match="retry: expected a Retry without `on`, since functions cannot be"
        ):
            await way(monque, retry=Retry(on={ValueError: Snooze}))
        with pytest.raises(InvalidArgumentError, match=r"retry: expected a Retry with max_retries below 2\^53, got"):
            await way(monque, retry=Retry(max_retries=2**53))
        for headers, message in BAD_HEADERS:
            with pytest.raises(InvalidArgumentError, match=message):
                await way(monque, headers=headers)
    assert bench.count() == 0


async def test_beside_a_new_job_they_are_refused(bench: Bench) -> None:
    async with bench.monque() as monque:
        settings: dict[str, Any]
        for settings in ({"timeout": 1}, {"retry": OWN}, {"headers": HEADERS}):
            with pytest.raises(InvalidArgumentError, match="nothing beside a NewJob, which has it as a field"):
                await monque.enqueue(NewJob(name="greet"), **settings)
    assert bench.count() == 0


@pytest.mark.parametrize(
    ("timeout", "kept"), [(30, 30.0), (0.001, 0.001), (0.0019999, 0.001), (timedelta(microseconds=1999), 0.001)]
)
async def test_a_time_limit_is_cut_to_milliseconds(timeout: Any, kept: float, bench: Bench) -> None:
    async with bench.monque() as monque:
        job = await monque.enqueue("greet", timeout=timeout)
        assert job.timeout == kept
        assert await monque.jobs.get(job.id) == job


async def test_a_schedule_that_is_declared_again_gets_the_new_ones(bench: Bench) -> None:
    async with bench.monque() as monque:
        first = await monque.schedule("@daily", "greet", unique_key="k", **SETTINGS)
        assert await monque.schedule("@daily", "greet", unique_key="k", **SETTINGS) == first
        longer = await monque.schedule("@daily", "greet", unique_key="k", timeout=60)
        assert (longer.id, longer.timeout, longer.retry, longer.headers) == (first.id, 60.0, None, {})
        plain = await monque.schedule("@daily", "greet", unique_key="k")
        assert (plain.id, plain.timeout, plain.retry) == (first.id, None, None)
    assert not STORED.keys() & bench.find(first).keys()


async def test_a_job_that_is_replaced_has_those_of_the_new_one(bench: Bench) -> None:
    async with bench.monque() as monque:
        await monque.enqueue("greet", unique_key="k", timeout=60)
        job = await monque.enqueue("greet", unique_key="k", on_conflict="replace", **SETTINGS)
        assert (job.timeout, job.retry, job.headers) == (1.5, OWN, HEADERS)
        job = await monque.enqueue("greet", unique_key="k", on_conflict="replace")
        assert (job.timeout, job.retry, job.headers) == (None, None, {})


async def test_a_follow_up_runs_with_its_own(bench: Bench) -> None:
    monque = bench.monque()
    seen: list[tuple[object, ...]] = []
    leave = asyncio.Event()

    @monque.worker("greet")
    async def greet(job: Job[Any]) -> None:
        seen.append((job.timeout, job.retry, job.headers))
        await leave.wait()

    async with working(monque):
        job = await monque.enqueue("greet", unique_key="k", timeout=60, headers={"a": "b"})
        await eventually(lambda: seen)
        held = await monque.enqueue("greet", unique_key="k", on_conflict="run_after", **SETTINGS)
        assert held.follow_up is not None
        assert (held.timeout, held.follow_up.timeout, held.follow_up.retry) == (60.0, 1.5, OWN)
        leave.set()
        await eventually(lambda: bench.find(job)["status"] == "completed" and len(seen) == 2)
    assert seen == [(60.0, None, {"a": "b"}), (1.5, OWN, HEADERS)]


# --- at work --------------------------------------------------------------------------------------------------------


async def test_a_job_is_retried_as_it_says_itself(bench: Bench) -> None:
    monque = bench.monque(retry=Retry(max_retries=10, base=0.01))
    record = Record(monque)

    @monque.worker("greet", retry=Retry(max_retries=5, base=0.01, on={KeyError: lambda _: Snooze(3600)}))
    async def greet(job: Job[Any]) -> None:
        raise ValueError("no") if job.data == {} else KeyError("later")

    async with working(monque):
        own = await monque.enqueue("greet", retry=Retry(max_retries=2, base=0.01))
        workers = await monque.enqueue("greet")
        snoozed = await monque.enqueue("greet", {"later": True}, retry=Retry(max_retries=1))
        await eventually(lambda: len([event for event in record.of(JobFailEvent) if not event.will_retry]) == 2)
        # What the worker says about types of exceptions holds all the same.
        await eventually(lambda: bench.find(snoozed)["status"] == "pending" and bench.find(snoozed)["attempts"] == 0)
    assert [(bench.find(job)["status"], bench.find(job)["failCount"]) for job in (own, workers)] == [
        ("failed", 2),
        ("failed", 5),
    ]
    assert len(bench.find(workers)["errors"]) == 5


async def test_a_run_takes_no_longer_than_its_job_says(bench: Bench) -> None:
    monque = bench.monque(retry=Retry(max_retries=1))

    @monque.worker("greet", timeout=3600)
    async def greet(_: Job[Any]) -> None:
        await asyncio.Event().wait()

    async with working(monque):
        job = await monque.enqueue("greet", timeout=0.05)
        await eventually(lambda: bench.find(job)["status"] == "failed")
    document = bench.find(job)
    assert document["failReason"] == f"JobTimeoutError: the run of job {job.id} took longer than 0.05 s"
    (failure,) = document["errors"]
    assert "in greet" in failure["traceback"]
    assert failure["traceback"].endswith(f"JobTimeoutError: the run of job {job.id} took longer than 0.05 s\n")


# --- recovery -------------------------------------------------------------------------------------------------------

DEAD: dict[str, Any] = {"age": 31, "attempts": 2}
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "the instance's": ("plain", {}, "pending"),
    "the worker's": ("strict", {}, "failed"),
    "its own": ("plain", {"retry": {**STORED["retry"], "maxRetries": 2}}, "failed"),
    "its own before the worker's": ("strict", {"retry": STORED["retry"]}, "pending"),
    "none that can be read": ("plain", {"retry": "never"}, "pending"),
    "none that can be read, of a worker": ("strict", {"retry": {"maxRetries": 0}}, "failed"),
    "of a name nobody runs here": ("elsewhere", {"retry": {**STORED["retry"], "maxRetries": 2}}, "failed"),
    "of an odd name": ("odd", {"name": ["odd"]}, "pending"),
}


@pytest.mark.parametrize(("name", "fields", "status"), CASES.values(), ids=CASES.keys())
async def test_a_job_whose_lease_ran_out_has_as_many_attempts_as_its_policy_says(
    name: str, fields: dict[str, Any], status: str, bench: Bench
) -> None:
    job = bench.insert_claimed(name, **DEAD)
    bench.jobs.update_one({"_id": job}, {"$set": {**fields, "nextRunAt": bench.now() + timedelta(days=1)}})
    monque = bench.monque(retry=Retry(max_retries=3))
    record = Record(monque)

    async def handler(_: Job[Any]) -> None: ...

    monque.worker("plain", handler)
    monque.worker("strict", handler, retry=Retry(max_retries=2))
    async with working(monque):
        await eventually(lambda: bench.find(job)["status"] != "processing")
        if status == "pending":
            await eventually(record.has(StaleRecoveredEvent))
    assert bench.find(job)["status"] == status
