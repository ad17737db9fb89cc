"""Events: soon, isolated, in order, and only what is true."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import pytest

from monque import InvalidArgumentError, Job, JobCompleteEvent, JobErrorEvent, JobFailEvent, JobStartEvent, Retry
from monque.testing import eventually

from .support import NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    from .support import Bench


def _open_gate() -> Gate:
    gate = Gate()
    gate.open()
    return gate


async def test_events_come_within_100_ms_of_the_change_of_state(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS, retry=Retry(max_retries=1))
    waits: list[float] = []

    def note(event: JobStartEvent | JobCompleteEvent | JobFailEvent) -> None:
        document = bench.find(event.job)
        waits.append((bench.now() - document["updatedAt"]).total_seconds())

    monque.on("job:start", note)
    monque.on("job:complete", note)
    monque.on("job:fail", note)

    @monque.worker("greet", concurrency=1)
    async def greet(job: Job[Any]) -> None:
        if job.data:
            raise ValueError

    async with working(monque):
        await monque.enqueue_many([("greet", None), ("greet", {"fails": True})] * 5)
        await eventually(lambda: len(waits) == 20)
    # The typical one: single ones depend on what else the machine does.
    assert sorted(waits)[10] < 0.1


async def test_a_completed_job_is_announced_when_that_is_written_and_not_before(bench: Bench) -> None:
    monque = bench.monque()
    written: list[str] = []
    monque.on("job:complete", lambda event: written.append(bench.find(event.job)["status"]))
    monque.worker("greet", _open_gate())
    async with working(monque):
        await monque.enqueue("greet")
        await eventually(lambda: written)
    assert written == ["completed"]


async def test_the_events_of_a_job_come_in_order_with_their_facts(bench: Bench) -> None:
    monque = bench.monque(retry=Retry(base=0.05))
    record = Record(monque)
    tries: list[int] = []

    @monque.worker("shaky")
    async def shaky(job: Job[Any]) -> None:
        tries.append(1)
        await asyncio.sleep(0.05)
        if len(tries) == 1:
            raise ValueError("once")

    async with working(monque):
        job = await monque.enqueue("shaky")
        await eventually(record.has(JobCompleteEvent))
    ours = [event for event in record.events if isinstance(event, JobStartEvent | JobFailEvent | JobCompleteEvent)]
    assert [type(event) for event in ours] == [JobStartEvent, JobFailEvent, JobStartEvent, JobCompleteEvent]
    assert {event.job.id for event in ours} == {job.id}
    assert record.of(JobFailEvent)[0].will_retry
    assert str(record.of(JobFailEvent)[0].error) == "once"
    assert record.of(JobCompleteEvent)[0].duration >= 0.04


async def test_a_slow_async_listener_holds_nothing_up(bench: Bench) -> None:
    monque = bench.monque()
    release = asyncio.Event()

    async def wait(event: object) -> None:
        await release.wait()

    monque.on("job:start", wait)
    monque.worker("greet", _open_gate(), concurrency=1)
    async with working(monque):
        await monque.enqueue_many([("greet", None)] * 3)
        await eventually(lambda: bench.statuses() == {"completed": 3})
        release.set()


async def test_an_async_listener_that_raises_is_reported_with_the_job(bench: Bench) -> None:
    monque = bench.monque()
    record = Record(monque)

    async def broken(event: object) -> None:
        raise RuntimeError("broken")

    monque.on("job:complete", broken)
    monque.worker("greet", _open_gate())
    async with working(monque):
        job = await monque.enqueue("greet")
        await eventually(record.has(JobErrorEvent))
    (event,) = record.of(JobErrorEvent)
    assert str(event.error) == "broken"
    assert event.job is not None
    assert event.job.id == job.id


async def test_a_listener_of_errors_that_raises_ends_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    monque = bench.monque()

    def broken(event: object) -> None:
        raise RuntimeError("broken")

    monque.on("job:error", broken)
    monque.on("job:start", broken)
    monque.worker("greet", _open_gate())
    async with working(monque):
        await monque.enqueue("greet")
        await eventually(lambda: bench.statuses() == {"completed": 1})
    assert "a listener of job:error raised" in caplog.messages


async def test_once_is_once_and_off_is_off(bench: Bench) -> None:
    monque = bench.monque()
    once: list[object] = []
    never: list[object] = []
    monque.once("job:complete", once.append)
    monque.on("job:complete", never.append)
    monque.off("job:complete", never.append)
    monque.worker("greet", _open_gate())
    async with working(monque):
        await monque.enqueue_many([("greet", None)] * 3)
        await eventually(lambda: bench.statuses() == {"completed": 3})
    assert len(once) == 1
    assert never == []


def test_events_that_do_not_exist_and_listeners_that_cannot_be_called_are_refused(bench: Bench) -> None:
    monque: Any = bench.monque()
    with pytest.raises(InvalidArgumentError, match="job:start"):
        monque.on("job:finished", print)
    with pytest.raises(InvalidArgumentError, match="listener"):
        monque.on("job:start", "print")


async def test_runs_are_logged_where_the_level_asks_for_it(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "monque")
    monque = bench.monque()
    monque.worker("greet", _open_gate())
    async with working(monque):
        job = await monque.enqueue("greet")
        await eventually(lambda: any("completed in" in line for line in caplog.messages))
    assert f"greet {job.id} started" in caplog.messages


async def test_a_listener_that_is_slow_delays_but_loses_no_event(bench: Bench) -> None:
    monque = bench.monque()
    record = Record(monque)
    monque.on("job:start", lambda _: time.sleep(0.01))
    monque.worker("greet", _open_gate())
    async with working(monque):
        await monque.enqueue_many([("greet", None)] * 10)
        await eventually(lambda: len(record.of(JobCompleteEvent)) == 10)
    assert len(record.of(JobStartEvent)) == 10
