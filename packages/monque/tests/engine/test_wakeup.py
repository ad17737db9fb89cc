"""Waking up: change streams hint, polls find, and neither can be kept from it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import OperationFailure, PyMongoError

from monque import (
    ChangeStreamConnectedEvent,
    ChangeStreamErrorEvent,
    ChangeStreamFallbackEvent,
    Job,
    JobErrorEvent,
    Monque,
    Polling,
)
from monque import _wakeup as wakeup_module
from monque._store.flow import Flow, job_collection
from monque._wakeup import Broken, Connected, Hint, _next
from monque.testing import eventually

from .support import NO_POLLS, Gate, Proxy, Record, our_tasks, working

if TYPE_CHECKING:
    from collections.abc import Callable

    from .support import Bench, Lab


def _open_gate() -> Gate:
    gate = Gate()
    gate.open()
    return gate


async def test_a_job_enqueued_elsewhere_starts_without_a_poll(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with bench.monque() as producer, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        waits: list[float] = []
        for number in range(1, 11):
            job = await producer.enqueue("greet")
            await runs.reached(number)
            claimed = runs.started[-1].locked_at
            assert claimed is not None
            waits.append((claimed - job.created_at).total_seconds())
    assert sorted(waits)[3] < 0.5


async def test_a_job_that_becomes_pending_or_is_moved_elsewhere_is_noticed(bench: Bench) -> None:
    far = bench.now().replace(year=2999)
    moved, revived = bench.insert("greet", nextRunAt=far), bench.insert("greet", status="failed")
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        bench.jobs.update_one({"_id": moved}, {"$set": {"nextRunAt": bench.now()}})
        await runs.reached(1)
        bench.jobs.update_one({"_id": revived}, {"$set": {"status": "pending"}})
        await runs.reached(2)
    assert [job.id for job in runs.started] == [moved, revived]


async def test_a_worker_declared_while_running_gets_the_jobs_that_wait_and_those_to_come(bench: Bench) -> None:
    waiting = bench.insert("late")
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", _open_gate())
    async with bench.monque() as producer, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        monque.worker("late", runs)
        await runs.reached(1)
        await eventually(lambda: len(record.of(ChangeStreamConnectedEvent)) == 2)
        job = await producer.enqueue("late")
        await runs.reached(2)
    assert [run.id for run in runs.started] == [waiting, job.id]


async def test_many_workers_declared_while_running_end_in_one_stream(lab: Lab) -> None:
    monque = lab.monque(polling=NO_POLLS)
    runs = _open_gate()
    async with lab.monque() as producer, working(monque):
        for index in range(20):
            monque.worker(f"worker-{index}", runs)
            # Some find a stream that is open, some one that is being opened.
            await asyncio.sleep(0.005 if index % 2 else 0)
        await producer.enqueue("worker-19")
        await producer.enqueue("worker-0")
        await runs.reached(2)

        def is_one() -> bool:
            # The server ends a stream that waits for something to happen when something happens.
            lab.database.other.insert_one({})
            return len(lab.streams()) == 1

        await eventually(is_one)


async def test_listening_ends_wherever_it_is_cancelled(database: Any) -> None:
    flow, wanted = Flow(job_collection(database, "monque_jobs")), asyncio.Event()
    wanted.set()
    await database.command("ping")

    async def listen(listens: asyncio.Event) -> None:
        async for _ in wakeup_module.watch(flow.client, lambda: flow.watch(["greet"], max_await=60), wanted):
            listens.set()

    for steps in range(50):
        listens = asyncio.Event()
        listening = asyncio.create_task(listen(listens))
        await listens.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        listening.cancel()
        await eventually(listening.done)


async def test_an_instance_without_workers_idles_until_it_gets_one(bench: Bench) -> None:
    bench.insert("greet")
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        monque.worker("greet", runs)
        await runs.reached(1)
    assert not record.of(JobErrorEvent)


# --- streams that end -------------------------------------------------------------------------------------------------


def _kill_operation(lab: Lab) -> bool:
    killed = [stream["opid"] for stream in lab.streams() if "opid" in stream]
    for operation in killed:
        lab.client.admin.command("killOp", op=operation)
    return bool(killed)


def _kill_cursor(lab: Lab) -> bool:
    killed = [stream["cursor"]["cursorId"] for stream in lab.streams()]
    lab.database.command("killCursors", "monque_jobs", cursors=killed)
    return bool(killed)


@pytest.mark.parametrize("kill", [_kill_operation, _kill_cursor])
async def test_a_stream_that_the_server_ends_is_reported_and_replaced(lab: Lab, kill: Callable[[Lab], bool]) -> None:
    monque = lab.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with lab.monque() as producer, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        await eventually(lambda: kill(lab))
        # A stream that waits for something to happen finds out when something happens.
        lab.database.other.insert_one({})
        await eventually(lambda: len(record.of(ChangeStreamConnectedEvent)) == 2)
        await producer.enqueue("greet")
        await runs.reached(1)
    assert [event.name for event in record.events if event.name.startswith("changestream:")] == [
        "changestream:connected",
        "changestream:error",
        "changestream:fallback",
        "changestream:connected",
        "changestream:closed",
    ]
    assert record.of(ChangeStreamFallbackEvent)[0].reason


def _drop(bench: Bench) -> None:
    bench.jobs.drop()


def _rename(bench: Bench) -> None:
    there = f"{bench.database_name}."
    bench.client.admin.command("renameCollection", f"{there}monque_jobs", to=f"{there}others")


@pytest.mark.parametrize("end", [_drop, _rename])
async def test_a_stream_that_ends_with_its_collection_is_reported_and_replaced(
    bench: Bench, end: Callable[[Bench], object]
) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        # In another thread: the event loop is what might come to a standstill.
        await asyncio.to_thread(end, bench)
        await eventually(lambda: len(record.of(ChangeStreamConnectedEvent)) == 2)
    (ended,) = record.of(ChangeStreamErrorEvent)
    assert "dropped or renamed" in str(ended.error)
    assert len(record.of(ChangeStreamFallbackEvent)) == 1


async def test_while_there_is_no_stream_it_polls_fast_and_says_so_once(lab: Lab) -> None:
    monque = lab.monque(polling=Polling(interval=0.1, safety=60))
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    # Streams are opened by an aggregation; so are the looks ahead, which fail along with them.
    async with lab.monque(lab.uri.replace(lab.app, "producer")) as producer:
        with lab.failing("aggregate", errorCode=40573):
            async with working(monque):
                await eventually(record.has(ChangeStreamFallbackEvent))
                await producer.enqueue("greet")
                await runs.reached(1)
                await eventually(lambda: _attempts_to_listen(record) >= 1)
                lab.heal()
                await eventually(record.has(ChangeStreamConnectedEvent), timeout=30)
    assert len(record.of(ChangeStreamErrorEvent)) == len(record.of(ChangeStreamFallbackEvent)) == 1


def _attempts_to_listen(record: Record) -> int:
    return len(record.of(ChangeStreamErrorEvent))


async def test_a_stream_that_dies_silently_delays_nothing_beyond_a_poll_and_is_replaced(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup_module, "_MAX_AWAIT", 0.3)
    monkeypatch.setattr(wakeup_module, "_GRACE", 0.7)
    async with Proxy(lab.uri).serving() as proxy, lab.monque() as producer:
        monque = lab.monque(proxy.uri(lab, serverSelectionTimeoutMS=2000), polling=Polling(interval=0.2, safety=0.2))
        record, runs = Record(monque), _open_gate()
        monque.worker("greet", runs)
        async with working(monque):
            await eventually(record.has(ChangeStreamConnectedEvent))
            proxy.mute_streams = True
            await producer.enqueue("greet")
            await runs.reached(1)
            await eventually(record.has(ChangeStreamErrorEvent))
            proxy.mute_streams = False
            await eventually(lambda: len(record.of(ChangeStreamConnectedEvent)) == 2, timeout=30)
    (broken, *_) = record.of(ChangeStreamErrorEvent)
    assert isinstance(broken.error, PyMongoError)
    assert broken.error.timeout


@pytest.mark.parametrize("how", [{}, {"errorCode": 40573}], ids=["opens", "fails"])
async def test_a_stop_waits_for_a_stream_that_is_being_opened(lab: Lab, how: dict[str, Any]) -> None:
    monque = lab.monque(polling=NO_POLLS)
    record = Record(monque)
    monque.worker("greet", _open_gate())
    async with monque:
        with lab.failing("aggregate", blockConnection=True, blockTimeMS=500, **how):
            await monque.start()
            await eventually(lambda: lab.is_doing("aggregate"))
            await monque.stop()
        assert not lab.streams()
        assert our_tasks() == ["_repeat"]
    assert not record.of(ChangeStreamConnectedEvent)


async def test_a_quiet_stream_stays_open(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup_module, "_MAX_AWAIT", 0.05)
    monque = lab.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with lab.monque() as producer, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        await asyncio.sleep(0.5)
        await producer.enqueue("greet")
        await runs.reached(1)
    assert not record.of(ChangeStreamErrorEvent)


# --- what others write ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd", [{"name": ["greet", "other"]}, {"nextRunAt": "soon"}, {"nextRunAt": None}, {"name": "greet", "data": None}]
)
async def test_no_document_can_end_the_stream(bench: Bench, odd: dict[str, Any]) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with bench.monque() as producer, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        bench.insert("greet", **odd)
        job = await producer.enqueue("greet")
        await eventually(lambda: job.id in {run.id for run in runs.started})
        later = await producer.enqueue("greet")
        await eventually(lambda: later.id in {run.id for run in runs.started})
    assert not record.of(ChangeStreamErrorEvent)


async def test_jobs_of_foreign_names_wake_nobody_up(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    monque.worker("greet", _open_gate())
    record = Record(monque)
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        await monque.enqueue("foreign")
        await monque.enqueue("foreign", delay=0.01)
    assert bench.statuses() == {"pending": 2}


async def test_the_first_of_several_times_counts_whichever_is_heard_of_first(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    order: list[str] = []

    @monque.worker("greet")
    async def greet(job: Job[Any]) -> None:
        order.append(job.data["is"])

    async with working(monque):
        begun = time.monotonic()
        await monque.enqueue("greet", {"is": "last"}, delay=1.5)
        await monque.enqueue("greet", {"is": "first"}, delay=0.5)
        await monque.enqueue("greet", {"is": "middle"}, delay=1)
        await eventually(lambda: len(order) == 3)
        assert time.monotonic() - begun < 10
    assert order == ["first", "middle", "last"]


# --- nobody needs hints -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catch_up", [0, 60], ids=["a fresh stream", "the same stream"])
async def test_a_busy_instance_reads_no_hints_and_hears_of_jobs_again_when_it_is_done(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, catch_up: float
) -> None:
    monkeypatch.setattr(wakeup_module, "_CATCH_UP", catch_up)
    hints = 0

    async def next_hint(stream: Any) -> Any:
        nonlocal hints
        hint = await _next(stream)
        hints += hint is not None
        return hint

    monkeypatch.setattr(wakeup_module, "_next", next_hint)
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), Gate()
    monque.worker("greet", runs, concurrency=1)
    async with bench.monque() as producer, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        # One runs, another waits: whatever else comes will be looked for as soon as there is a slot.
        for _ in range(2):
            await producer.enqueue("greet")
        await runs.reached(1)
        assert monque._connected is not None
        assert monque._connected.engine is not None
        wanted = monque._connected.engine._wakeup._wanted
        await eventually(lambda: not wanted.is_set())
        for _ in range(20):
            await producer.enqueue("greet")
        # The read that was under way ends with the first of them.
        assert hints <= 3
        runs.open()
        await eventually(lambda: bench.statuses() == {"completed": 22})
        await producer.enqueue("greet")
        await runs.reached(23)
    assert len(record.of(ChangeStreamConnectedEvent)) == 1


class Unlucky:
    """The real flow, which fails to open a stream each time it is told to."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self.fails = False

    async def watch(self) -> Any:
        if self.fails:
            self.fails = False
            raise OperationFailure("not this time")
        return await self._flow.watch(["greet"], max_await=60)


async def test_a_stream_that_cannot_be_opened_after_busy_times_is_announced_when_it_can(
    monque_database: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup_module, "_CATCH_UP", 0)
    unlucky, wanted = Unlucky(Flow(job_collection(database, "monque_jobs"))), asyncio.Event()
    wanted.set()
    await database.command("ping")
    news = wakeup_module.watch(database.client, unlucky.watch, wanted, first_pause=0)
    assert await anext(news) == Connected(again=False)
    monque_database.monque_jobs.insert_one({"name": "greet", "status": "pending"})
    assert isinstance(await anext(news), Hint)
    wanted.clear()
    unlucky.fails = True
    following = asyncio.ensure_future(anext(news))
    await asyncio.sleep(0)  # it finds that no hints are wanted, and waits
    wanted.set()
    assert isinstance(await following, Broken)
    assert await anext(news) == Connected(again=False)
    await news.aclose()


# --- a reckoning of the server's time that is wrong -----------------------------------------------------------------


def _turn(monque: Monque, seconds: float) -> None:
    """Turn an instance's reckoning of the server's time."""
    assert monque._connected is not None
    monque._connected.clock._offset += seconds


async def test_a_producer_that_is_ahead_delays_its_jobs_by_no_more_than_that(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with bench.monque() as producer, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        _turn(producer, 0.5)
        job = await producer.enqueue("greet")
        await runs.reached(1)
        assert runs.started[0].locked_at is not None
        assert job.next_run_at <= runs.started[0].locked_at


@pytest.mark.parametrize("ahead", [0.3, 3600])
async def test_an_instance_that_is_ahead_starts_jobs_on_time(bench: Bench, ahead: float) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with bench.monque() as producer, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        _turn(monque, ahead)
        await producer.enqueue("greet", delay=1)
        await runs.reached(1)
        _turn(monque, ahead)
        await producer.enqueue("greet", delay=1)
        await producer.enqueue("greet", delay=1.5)
        await runs.reached(3)
        # What it sees of the server's time by the way puts it right.
        assert monque._connected is not None
        assert abs((monque._connected.clock.now() - bench.now()).total_seconds()) < ahead


async def test_an_opening_that_is_cancelled_and_fails_anyway_stays_cancelled() -> None:
    begun, failing = asyncio.Event(), asyncio.Event()

    async def fail() -> Any:
        begun.set()
        await failing.wait()
        raise OperationFailure("no stream")

    async def opened() -> None:
        async with wakeup_module._opened(fail):
            raise AssertionError

    opening = asyncio.create_task(opened())
    await begun.wait()
    opening.cancel()
    failing.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
