from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient

from monque import Concurrency, Job, JobErrorEvent, Monque, Options, Progress, Retry, Timeout
from monque.testing import eventually

from .process_handlers import say_how_far
from .support import NO_POLLS, Commands, Gate, Record, working

if TYPE_CHECKING:
    from monque._engine import Engine

    from .support import Bench, Lab


@pytest.fixture
def _handlers_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1]), *sys.path])


class Talk:
    """A handler that says one thing after the other, as it is told to."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[tuple[float, str | None] | None] = asyncio.Queue()

    async def __call__(self, job: Job[Any]) -> None:
        while (saying := await self.told.get()) is not None:
            job.progress(*saying)

    def say(self, *sayings: tuple[float, str | None]) -> None:
        for saying in sayings:
            self.told.put_nowait(saying)

    def end(self) -> None:
        self.told.put_nowait(None)


def said(job: Job[Any] | None) -> tuple[float, str | None] | None:
    report = None if job is None else job.progress_report
    return None if report is None else (report.fraction, report.message)


def engine_of(monque: Monque) -> Engine:
    assert monque._connected is not None
    assert monque._connected.engine is not None
    return monque._connected.engine


def has_completed(bench: Bench, job: Job[Any]) -> bool:
    return bool(bench.find(job)["status"] == "completed")


async def reads(monque: Monque, job: Job[Any], saying: tuple[float, str | None]) -> None:
    async def has_it() -> bool:
        return said(await monque.jobs.get(job.id)) == saying

    await eventually(has_it, timeout=20)


async def test_progress_can_be_read_elsewhere_while_the_job_runs(bench: Bench) -> None:
    here, there = bench.monque(polling=NO_POLLS), bench.monque()
    talk = Talk()
    here.worker("work", talk)
    async with there, working(here):
        job = await there.enqueue("work")
        await eventually(lambda: bench.find(job)["status"] == "processing")
        claimed = bench.find(job)["updatedAt"]
        for message, kept in [("a quarter", "a quarter"), (None, None), ("x" * 1001, "x" * 999 + "…"), ("\ud800", "?")]:
            talk.say((0.25, message))
            await reads(there, job, (0.25, kept))
            assert bench.find(job)["status"] == "processing"
        assert bench.find(job)["updatedAt"] == claimed
        talk.end()
        await eventually(lambda: bench.find(job)["status"] == "completed")


async def test_the_last_word_is_there_when_the_job_has_ended(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    complete = asyncio.Event()
    monque.on("job:complete", lambda _: complete.set())

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        for step in range(1001):
            job.progress(step / 1000, f"step {step}")

    async with working(monque):
        job = await monque.enqueue("work")
        await complete.wait()
        document = bench.find(job)
    assert document["progress"] == {"fraction": 1.0, "message": "step 1000", "at": document["progress"]["at"]}
    assert timedelta() <= bench.now() - document["progress"]["at"] < timedelta(minutes=1)


async def test_a_failed_run_leaves_its_last_word_and_the_next_goes_on_from_there(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    seen: list[Progress | None] = []
    failed = asyncio.Event()
    monque.on("job:fail", lambda _: failed.set())

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        seen.append(job.progress_report)
        if job.attempts == 1:
            job.progress(0.5, "half")
            raise ValueError
        job.progress(0)

    async with working(monque):
        job = await monque.enqueue("work")
        await failed.wait()
        await monque.jobs.reschedule(job.id, datetime.now(UTC))
        await eventually(lambda: bench.find(job)["status"] == "completed")
        ended = await monque.jobs.get(job.id)
    assert [report and (report.fraction, report.message) for report in seen] == [None, (0.5, "half")]
    assert said(ended) == (0, None)


@pytest.mark.usefixtures("_handlers_can_be_imported")
async def test_threads_and_processes_say_how_far_they_are_too(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    monque.worker("thread", say_how_far)
    monque.worker("process", say_how_far, run_in="process")
    async with working(monque):
        jobs = [await monque.enqueue(name, {"message": name}) for name in ("thread", "process")]
        for job in jobs:
            await eventually(partial(has_completed, bench, job), timeout=30)
        assert [said(await monque.jobs.get(job.id)) for job in jobs] == [(0.5, "thread"), (0.5, "process")]


async def test_whose_claim_is_gone_writes_nothing(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record = Record(monque)
    talk, other = Talk(), Talk()
    monque.worker("work", talk)
    monque.worker("other", other)
    async with working(monque):
        job, witness = await monque.enqueue("work"), await monque.enqueue("other")
        talk.say((0.5, None))
        await reads(monque, job, (0.5, None))
        bench.steal(job, nextRunAt=bench.now() + timedelta(days=1))
        talk.say((0.6, None))
        await eventually(talk.told.empty)
        # What is said later is written no earlier.
        other.say((0.1, None))
        await reads(monque, witness, (0.1, None))
        assert said(await monque.jobs.get(job.id)) == (0.5, None)
        talk.end()
        other.end()
        await eventually(lambda: bench.find(witness)["status"] == "completed")
    assert not record.of(JobErrorEvent)


async def test_a_stuck_handler_whose_job_has_failed_says_nothing_more(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS, retry=Retry(max_retries=1))
    gate = Gate(stubborn=True)

    @monque.worker("work", timeout=Timeout(0.01, hard=0.05))
    async def work(job: Job[Any]) -> None:
        job.progress(0.5, "stuck")
        await gate(job)
        job.progress(1)

    async with working(monque):
        job = await monque.enqueue("work")
        await eventually(lambda: bench.find(job)["status"] == "failed", timeout=20)
        assert said(await monque.jobs.get(job.id)) == (0.5, "stuck")
        gate.open()
        await eventually(lambda: gate.ended)
    assert bench.find(job)["progress"]["fraction"] == 0.5


async def test_many_who_speak_are_written_together(bench: Bench) -> None:
    commands = Commands()
    async with AsyncMongoClient[dict[str, Any]](bench.uri, event_listeners=[commands], tz_aware=True) as client:
        monque = Monque(client[bench.database_name], Options(polling=NO_POLLS, concurrency=Concurrency(per_worker=100)))
        gate = Gate()
        spoken = asyncio.Event()

        @monque.worker("work")
        async def work(job: Job[Any]) -> None:
            await spoken.wait()
            job.progress(0.5)
            await gate(job)

        async with working(monque):
            await monque.enqueue_many([("work", None)] * 100)
            await eventually(lambda: bench.count(status="processing") == 100)
            await eventually(lambda: not engine_of(monque)._claims._claims)
            before = len(commands.names)
            spoken.set()
            await eventually(lambda: bench.count(progress={"$exists": True}) == 100)
            assert commands.names[before:].count("update") <= 2
            gate.open()
            await eventually(lambda: bench.count(status="completed") == 100)


async def test_who_says_nothing_keeps_nobody_busy(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    gate = Gate()
    monque.worker("work", gate)
    async with working(monque):
        await monque.enqueue("work")
        await gate.reached()
        assert engine_of(monque)._settler.journal._task is None
        gate.open()


async def test_an_outage_delays_what_is_said_and_harms_nobody(lab: Lab) -> None:
    monque = lab.monque(polling=NO_POLLS)
    record = Record(monque)
    talk = Talk()
    monque.worker("work", talk)
    async with working(monque):
        job = await monque.enqueue("work")
        talk.say((0.1, None))
        await reads(monque, job, (0.1, None))
        with lab.failing("update", errorCode=91):
            talk.say((0.2, None))
            await eventually(record.has(JobErrorEvent))
            talk.say((0.3, None))
            talk.end()
        await eventually(lambda: lab.find(job)["status"] == "completed", timeout=30)
        assert said(await monque.jobs.get(job.id)) == (0.3, None)


async def test_a_document_that_refuses_what_is_said_is_reported_and_goes_on(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record = Record(monque)
    talk = Talk()
    monque.worker("work", talk)
    async with working(monque):
        job = await monque.enqueue("work")
        bench.database.command({"collMod": "monque_jobs", "validator": {"progress": {"$exists": False}}})
        talk.say((0.1, None))
        await eventually(record.has(JobErrorEvent))
        talk.end()
        await eventually(lambda: bench.find(job)["status"] == "completed")
    (trouble,) = record.of(JobErrorEvent)
    assert "validation" in str(trouble.error)


async def test_in_a_transaction_the_last_word_is_part_of_it(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    runs = 0

    @monque.worker("work", transaction=True)
    async def work(job: Job[Any]) -> None:
        nonlocal runs
        runs += 1
        job.progress(0.5)
        # Long enough for it to be written, were it not held back; the transaction would be in conflict with that.
        began = time.monotonic()
        await eventually(lambda: time.monotonic() - began > 0.6)
        job.progress(1, "done")

    async with working(monque):
        job = await monque.enqueue("work")
        await eventually(lambda: bench.find(job)["status"] == "completed", timeout=20)
        assert said(await monque.jobs.get(job.id)) == (1, "done")
    assert runs == 1
