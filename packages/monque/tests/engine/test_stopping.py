"""Stopping: in order, once, in time, and completely."""

from __future__ import annotations

import asyncio
import functools
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient

from monque import (
    ChangeStreamClosedEvent,
    ChangeStreamConnectedEvent,
    Concurrency,
    Job,
    JobCompleteEvent,
    JobErrorEvent,
    JobFailEvent,
    JobStartEvent,
    Lease,
    Monque,
    Options,
    Polling,
    ShutdownTimeoutError,
    _wakeup,
)
from monque._shutdown import Shutdown
from monque._store import driver, stream
from monque.testing import Program, eventually

from .support import NO_POLLS, Gate, Proxy, Record, our_tasks, working

if TYPE_CHECKING:
    from collections.abc import Generator

    from .support import Bench, Lab


@pytest.fixture
def little_time_to_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shutdown, "clean_up", 0.3)


async def test_a_graceful_stop_lets_handlers_finish_and_writes_what_they_came_to(bench: Bench) -> None:
    monque = bench.monque()
    record = Record(monque)
    runs = Gate()
    monque.worker("slow", runs, concurrency=3)
    async with working(monque):
        await monque.enqueue_many([("slow", None)] * 5)
        await runs.reached(3)
        stopping = asyncio.create_task(monque.stop())
        await asyncio.sleep(0.05)
        runs.open()
        await stopping
        assert bench.statuses() == {"completed": 3, "pending": 2}
    assert len(record.of(JobCompleteEvent)) == 3
    assert not record.of(JobErrorEvent)


async def test_what_takes_longer_than_the_shutdown_timeout_is_cancelled_and_spends_no_attempt(bench: Bench) -> None:
    monque = bench.monque(shutdown_timeout=0.2)
    record = Record(monque)
    runs = Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        begun = time.monotonic()
        await monque.stop()
        assert time.monotonic() - begun >= 0.2
    document = bench.find(job)
    assert (document["status"], document["attempts"], document["failCount"]) == ("pending", 0, 0)
    assert not {"claimedBy", "claimToken", "lockedAt", "lastHeartbeat", "heartbeatInterval"} & document.keys()
    (event,) = record.of(JobErrorEvent)
    assert isinstance(event.error, ShutdownTimeoutError)
    assert [late.id for late in event.error.incomplete_jobs] == [job.id]
    assert not record.of(JobFailEvent)
    assert [late.id for late in runs.cancelled] == [job.id]


async def test_a_stop_in_a_hurry_does_not_wait_even_for_what_a_stop_is_waiting_for(bench: Bench) -> None:
    monque = bench.monque()
    record, runs = Record(monque), Gate()
    monque.worker("greet", runs)
    job = bench.insert("greet")
    async with working(monque):
        await runs.reached(1)
        stopping = asyncio.ensure_future(monque.stop())
        assert monque._connected is not None
        engine = monque._connected.engine
        await eventually(lambda: engine is not None and engine.is_stopping)
        await monque.stop(hurry=True)
        await stopping
    released = bench.find(job)
    assert (released["status"], released["attempts"], released["failCount"]) == ("pending", 0, 0)
    (error,) = record.of(JobErrorEvent)
    assert isinstance(error.error, ShutdownTimeoutError)


async def test_a_handler_that_finishes_although_cancelled_counts_as_completed(bench: Bench) -> None:
    monque = bench.monque(shutdown_timeout=0)

    @monque.worker("slow")
    async def slow(job: Job[Any]) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    started = Record(monque)
    async with working(monque):
        job = await monque.enqueue("slow")
        await eventually(started.has(JobStartEvent))
    assert bench.find(job)["status"] == "completed"


async def test_a_handler_that_ignores_its_cancellation_is_left_behind_with_its_claim(
    bench: Bench, little_time_to_clean_up: None
) -> None:
    monque = bench.monque(shutdown_timeout=0)
    runs = Gate(stubborn=True)
    monque.worker("stubborn", runs)
    async with working(monque):
        job = await monque.enqueue("stubborn")
        await runs.reached()
        await monque.stop()
        assert runs.cancelled
        # Releasing it would let it run twice at once.
        assert bench.find(job)["status"] == "processing"
        runs.open()
        await eventually(lambda: bench.find(job)["status"] == "completed")


async def test_a_job_that_is_claimed_while_the_stop_begins_is_released(lab: Lab) -> None:
    monque = lab.monque(polling=NO_POLLS)
    runs = Gate()
    monque.worker("greet", runs)
    async with working(monque):
        await eventually(lab.streams)
        with lab.failing("update", blockConnection=True, blockTimeMS=1000):
            job = await monque.enqueue("greet")
            await eventually(lambda: lab.is_doing("update"))
            await monque.stop()
    document = lab.find(job)
    assert (document["status"], document["attempts"]) == ("pending", 0)
    assert "claimToken" not in document
    assert not runs.started


async def test_a_stop_in_the_middle_of_a_look_claims_nothing(lab: Lab) -> None:
    job = lab.insert("greet")
    monque = lab.monque(polling=NO_POLLS)
    runs = Gate()
    monque.worker("greet", runs)
    async with monque:
        with lab.failing("find", blockConnection=True, blockTimeMS=500):
            await monque.start()
            await eventually(lambda: lab.is_doing("find"))
            await monque.stop()
    assert "attempts" not in lab.find(job)
    assert not runs.started


async def test_a_stop_before_anything_has_begun_ends_at_once(bench: Bench) -> None:
    async with bench.monque() as monque:
        await monque.start()
        await monque.stop()
        assert our_tasks() == ["_repeat"]


async def test_stopping_without_having_started_or_connected_does_nothing(bench: Bench) -> None:
    monque = bench.monque()
    await monque.stop()
    async with monque:
        await monque.stop()
    await monque.stop()


async def test_it_can_be_started_again_after_a_stop(bench: Bench) -> None:
    monque = bench.monque()
    runs = Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        await monque.stop()
        job = await monque.enqueue("greet")
        await monque.start()
        await runs.reached()
    assert [run.id for run in runs.started] == [job.id]


async def test_a_start_right_after_one_of_two_stops_is_not_undone_by_the_other(bench: Bench) -> None:
    monque = bench.monque()
    runs = Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        other = asyncio.create_task(monque.stop())
        await monque.stop()
        await monque.start()
        await other
        await monque.enqueue("greet")
        await runs.reached()
    assert not our_tasks()


async def test_nothing_of_monque_runs_on_after_the_end(bench: Bench) -> None:
    monque = bench.monque()
    record = Record(monque)
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
    assert not our_tasks()
    assert [event.reason for event in record.of(ChangeStreamClosedEvent)] == ["stopped"]


async def test_a_worker_declared_while_stopping_leaves_no_listener_behind(bench: Bench) -> None:
    monque = bench.monque()
    monque.worker("a", Gate())
    record = Record(monque)
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        stopping = asyncio.create_task(monque.stop())
        number = 0
        while not stopping.done():
            await asyncio.sleep(0)
            if number < 50:
                number += 1
                monque.worker(f"late-{number}", Gate())
        await stopping
    assert not our_tasks()


async def test_a_stop_that_is_cancelled_still_waits_for_the_end(bench: Bench) -> None:
    monque = bench.monque()
    runs = Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        stopping = asyncio.create_task(monque.stop())
        await asyncio.sleep(0.02)
        stopping.cancel()
        await asyncio.sleep(0.02)
        assert not stopping.done()
        runs.open()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert bench.find(job)["status"] == "completed"


async def test_leaving_the_block_closes_everything_even_when_that_is_cancelled(bench: Bench) -> None:
    monque = bench.monque()
    runs = Gate()
    monque.worker("slow", runs)

    async def work() -> None:
        async with working(monque):
            await monque.enqueue("slow")
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await runs.reached()
    task.cancel()
    await eventually(lambda: monque._connected and monque._connected.engine and monque._connected.engine.is_stopping)
    task.cancel()
    runs.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not our_tasks()
    assert not monque.is_healthy()


async def test_an_exception_in_the_block_stops_and_closes(bench: Bench) -> None:
    monque = bench.monque()
    with pytest.raises(ZeroDivisionError):
        async with working(monque):
            raise ZeroDivisionError
    assert not our_tasks()


async def test_a_listener_may_stop_the_instance(bench: Bench) -> None:
    monque = bench.monque()
    ended: list[str] = []

    async def stop(event: object) -> None:
        await monque.stop()
        ended.append("stopped")

    monque.on("job:complete", stop)
    monque.once("job:complete", functools.partial(stop))
    runs = Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        await monque.enqueue("greet")
        await eventually(lambda: len(ended) == 2)


async def test_async_listeners_have_ended_when_the_stop_is_over(bench: Bench) -> None:
    monque = bench.monque()
    told: list[str] = []

    async def tell(event: object) -> None:
        await asyncio.sleep(0.1)
        told.append("told")

    monque.on("job:complete", tell)
    runs = Gate()
    monque.worker("greet", runs)
    async with working(monque):
        await monque.enqueue("greet")
        await runs.reached()
        runs.open()
        await monque.stop()
        assert told == ["told"]


async def test_outcomes_that_cannot_be_written_do_not_hold_up_the_stop_for_ever(
    lab: Lab, little_time_to_clean_up: None
) -> None:
    monque = lab.monque(shutdown_timeout=0.2)
    record = Record(monque)
    runs = Gate()
    monque.worker("greet", runs)
    async with working(monque):
        job = await monque.enqueue("greet")
        await runs.reached()
        with lab.failing("update", errorCode=2):
            runs.open()
            await monque.stop()
    assert lab.find(job)["status"] == "processing"
    assert not record.of(JobCompleteEvent)
    assert record.of(JobErrorEvent)


@pytest.mark.parametrize("kind", ["cut", "silent"])
async def test_a_stop_during_an_outage_ends_in_time(lab: Lab, kind: str, little_time_to_clean_up: None) -> None:
    async with Proxy(lab.uri).serving() as proxy:
        monque = lab.monque(
            proxy.uri(lab, serverSelectionTimeoutMS=500, connectTimeoutMS=500),
            lease=Lease(timeout=0.9),
            shutdown_timeout=0.5,
        )
        runs = Gate(stubborn=False)
        monque.worker("slow", runs)
        await monque.initialize()
        await monque.start()
        await monque.enqueue("slow")
        await runs.reached()
        proxy.fall_silent()
        if kind == "cut":
            proxy.cut()
        begun = time.monotonic()
        await monque.stop()
        await monque.close()
        assert time.monotonic() - begun < 15
    assert not our_tasks()


async def test_a_stop_ends_even_if_the_driver_hangs(
    lab: Lab, little_time_to_clean_up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((driver, "_GRACE"), (driver, "_AGAIN"), (stream, "_CLOSING"), (_wakeup, "_GRACE")):
        monkeypatch.setattr(module, name, 0.1)
    async with AsyncMongoClient[dict[str, Any]](lab.uri) as client:
        monque = Monque(client, Options(lease=Lease(timeout=0.9), polling=Polling(0.2, 0.2), shutdown_timeout=0.5))
        record, runs = Record(monque), Gate(stubborn=False)
        monque.worker("slow", runs)
        await monque.initialize()
        await monque.start()
        await monque.enqueue("slow")
        await runs.reached()
        # Whatever is asked through this client waits for ever now. So it is when what somebody else asked through it
        # was cancelled at the wrong moment.
        async with client._topology._lock:
            await eventually(lambda: any("it hangs" in str(event.error) for event in record.of(JobErrorEvent)))
            await monque.stop()
            await monque.close()
        await eventually(lambda: not our_tasks())


async def test_a_stop_in_a_pause_after_an_error_does_not_wait_for_its_end(lab: Lab) -> None:
    monque = lab.monque(lease=Lease(timeout=0.9))
    record = Record(monque)
    monque.worker("greet", Gate())
    async with monque:
        with lab.failing("find", errorCode=2):
            await monque.start()
            # The pauses double: after this many, the next one takes seconds.
            await eventually(lambda: len(record.of(JobErrorEvent)) >= 6, timeout=20)
            begun = time.monotonic()
            await monque.stop()
    assert time.monotonic() - begun < 2


# --- run(), with signals ----------------------------------------------------------------------------------------------

_RUN = """
import asyncio, sys
from monque import Monque, Options
monque = Monque(sys.argv[1], Options(shutdown_timeout=float(sys.argv[2])))

@monque.worker("slow")
async def slow(job):
    print("started", flush=True)
    await asyncio.sleep(float(job.data["seconds"]))
    print("finished", flush=True)

monque.on("job:error", lambda event: print(type(event.error).__name__, flush=True))
asyncio.run(monque.run())
print("ended", flush=True)
"""


@pytest.fixture
def run_program(bench: Bench) -> Generator[Program]:
    with Program("-c", _RUN, bench.uri, "600") as process:
        yield process


async def _until_ended(process: Program) -> None:
    await eventually(lambda: process.exit_code is not None, timeout=60)
    assert process.exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_finishes_what_it_has_begun_at_a_signal(
    bench: Bench, run_program: Program, number: signal.Signals
) -> None:
    job = bench.insert("slow", data={"seconds": 0.5})
    await eventually(lambda: run_program.has_said("started"), timeout=60)
    run_program.send(number)
    await _until_ended(run_program)
    assert run_program.output.split() == ["started", "finished", "ended"]
    assert bench.find(job)["status"] == "completed"


async def test_a_second_signal_cuts_the_stop_short(bench: Bench, run_program: Program) -> None:
    job = bench.insert("slow", data={"seconds": 600})
    await eventually(lambda: run_program.has_said("started"), timeout=60)
    run_program.terminate()
    await asyncio.sleep(0.2)
    assert run_program.exit_code is None
    run_program.terminate()
    await _until_ended(run_program)
    assert run_program.output.split() == ["started", "ShutdownTimeoutError", "ended"]
    document = bench.find(job)
    assert (document["status"], document["attempts"]) == ("pending", 0)


async def test_a_signal_while_listeners_finish_changes_nothing(bench: Bench) -> None:
    monque = bench.monque()
    runs, told = Gate(), Gate()
    runs.open()
    monque.worker("greet", runs)
    monque.on("job:complete", lambda event: told(event.job))
    bench.insert("greet")
    running = asyncio.create_task(monque.run())
    await told.reached()
    signal.raise_signal(signal.SIGTERM)
    await eventually(lambda: our_tasks().count("Engine.run") == 0)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0.05)
    assert not running.done()
    told.open()
    await running


async def test_run_connects_where_needed_and_ends_with_a_stop(bench: Bench) -> None:
    monque = bench.monque()
    runs = Gate()
    runs.open()
    monque.worker("greet", runs)
    bench.insert("greet")
    running = asyncio.create_task(monque.run())
    await runs.reached()
    await monque.stop()
    await running
    assert not our_tasks()


async def test_run_within_a_block_leaves_the_connection_open(bench: Bench) -> None:
    async with bench.monque() as monque:
        running = asyncio.create_task(monque.run())
        await eventually(lambda: our_tasks() != ["_repeat"])
        await monque.stop()
        await running
        assert (await monque.enqueue("greet")).name == "greet"


async def test_a_run_that_is_cancelled_stops(bench: Bench) -> None:
    monque = bench.monque()
    runs = Gate()
    monque.worker("slow", runs)
    async with monque:
        job = await monque.enqueue("slow")
        running = asyncio.create_task(monque.run())
        await runs.reached()
        running.cancel()
        runs.open()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert our_tasks() == ["_repeat"]
        assert bench.find(job)["status"] == "completed"


async def test_run_works_in_a_thread_where_no_signal_can_be_handled(bench: Bench) -> None:
    bench.insert("greet")
    monque = bench.monque()

    @monque.worker("greet")
    async def greet(job: Job[Any]) -> None:
        """Done."""

    async def stop(event: object) -> None:
        await monque.stop()

    monque.on("job:complete", stop)
    await asyncio.to_thread(lambda: asyncio.run(monque.run()))
    assert bench.statuses() == {"completed": 1}


async def test_no_more_than_is_running_is_waited_for(bench: Bench) -> None:
    monque = bench.monque(concurrency=Concurrency(per_instance=1))
    runs = Gate()
    monque.worker("slow", runs)
    async with working(monque):
        await monque.enqueue_many([("slow", None)] * 3)
        await runs.reached()
        stopping = asyncio.create_task(monque.stop())
        await asyncio.sleep(0)
        runs.open()
        await stopping
    assert len(runs.started) == 1
