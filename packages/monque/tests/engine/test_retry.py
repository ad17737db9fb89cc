"""Retrying: when, how often, and what is kept of it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from monque import Job, JobFailEvent, Retry
from monque.testing import eventually

from .support import NO_POLLS, Record, working

if TYPE_CHECKING:
    from monque import Monque

    from .support import Bench


def _fails(monque: Monque, reason: str = "no luck") -> None:
    @monque.worker("fails", concurrency=1)
    async def fails(job: Job[Any]) -> None:
        raise ValueError(reason)


@pytest.mark.parametrize(("fail_count", "delay"), [(0, 20), (1, 40), (4, 320), (8, 3000)])
async def test_backoff_follows_the_formula(bench: Bench, fail_count: int, delay: float) -> None:
    jobs = bench.insert_many([{"name": "fails", "failCount": fail_count} for _ in range(7)])
    monque = bench.monque(retry=Retry(base=10, cap=3000))
    record = Record(monque)
    _fails(monque)
    async with working(monque):
        await eventually(lambda: len(record.of(JobFailEvent)) == 7)
    off: list[timedelta] = []
    for job in jobs:
        document = bench.find(job)
        assert (document["status"], document["failCount"]) == ("pending", fail_count + 1)
        assert document["failReason"] == "ValueError: no luck"
        off.append(document["nextRunAt"] - document["updatedAt"] - timedelta(seconds=delay))
    # Never more; less only by what the write took, which depends on what else the machine does.
    assert max(off) <= timedelta(milliseconds=50)
    assert sorted(off)[3] >= -timedelta(milliseconds=50)


async def test_jitter_spreads_the_retries(bench: Bench) -> None:
    jobs = bench.insert_many([{"name": "fails"} for _ in range(20)])
    monque = bench.monque(retry=Retry(base=50, jitter=0.5))
    record = Record(monque)
    _fails(monque)
    async with working(monque):
        await eventually(lambda: len(record.of(JobFailEvent)) == 20)
    documents = [bench.find(job) for job in jobs]
    delays = [(document["nextRunAt"] - document["updatedAt"]).total_seconds() for document in documents]
    assert all(45 < delay <= 150.1 for delay in delays)
    assert max(delays) - min(delays) > 10


async def test_a_job_runs_until_max_retries_and_has_failed_then(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS, retry=Retry(max_retries=3, base=0.01))
    record = Record(monque)
    _fails(monque)
    async with working(monque):
        job = await monque.enqueue("fails")
        await eventually(lambda: len(record.of(JobFailEvent)) == 3)
    assert [event.will_retry for event in record.of(JobFailEvent)] == [True, True, False]
    document = bench.find(job)
    assert (document["status"], document["failCount"], document["attempts"]) == ("failed", 3, 3)
    assert "claimToken" not in document


async def test_a_retry_starts_on_time_without_a_poll_and_clears_the_reason_when_it_succeeds(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS, retry=Retry(base=0.2))
    runs: list[Job[Any]] = []

    @monque.worker("shaky")
    async def shaky(job: Job[Any]) -> None:
        runs.append(job)
        if len(runs) == 1:
            raise ValueError("once")

    async with working(monque):
        job = await monque.enqueue("shaky")
        await eventually(lambda: bench.find(job)["status"] == "completed")
    again = runs[1]
    assert again.locked_at is not None
    assert timedelta(0) <= again.locked_at - again.next_run_at < timedelta(seconds=2)
    assert (again.fail_count, again.fail_reason, again.attempts) == (1, "ValueError: once", 2)
    assert "failReason" not in bench.find(job)


async def test_a_reason_is_bounded_and_fit_for_the_database(bench: Bench) -> None:
    monque = bench.monque()
    record = Record(monque)
    _fails(monque, "\ud800" + "x" * 10_000)
    async with working(monque):
        job = await monque.enqueue("fails")
        await eventually(record.has(JobFailEvent))
    assert len(bench.find(job)["failReason"]) <= 2000


class _UnspeakableError(Exception):
    def __str__(self) -> str:  # type: ignore[explicit-override]
        raise RuntimeError("no words")


async def test_an_error_that_cannot_be_worded_is_a_failure_all_the_same(bench: Bench) -> None:
    monque = bench.monque()
    record = Record(monque)

    @monque.worker("fails")
    async def fails(job: Job[Any]) -> None:
        raise _UnspeakableError

    async with working(monque):
        job = await monque.enqueue("fails")
        await eventually(record.has(JobFailEvent))
    assert bench.find(job)["failReason"].startswith("_UnspeakableError")
