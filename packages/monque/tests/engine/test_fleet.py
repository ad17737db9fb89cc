"""Directing a fleet: names that are paused, instances that are drained, and what can be seen of them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener

from monque import (
    ChangeStreamConnectedEvent,
    ChangeStreamErrorEvent,
    ChangeStreamFallbackEvent,
    InvalidArgumentError,
    InvalidJobIdentifierError,
    Job,
    JobErrorEvent,
    JobLostEvent,
    Lease,
    Monque,
    Options,
    Pause,
    Polling,
)
from monque import _lease as lease_module
from monque._store.orders import Orders
from monque.testing import Program, eventually

from .support import NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent
    from typing_extensions import override

    from monque import Instance, InstanceStatus
    from monque._lease import LeaseKeeper
    from monque._lookout import Lookout

    from .support import Bench, Document, Lab
else:

    def override(method: Any) -> Any:
        return method


# No change streams, no surveys: what is left is to ask, once every poll.
NO_AGGREGATES: dict[str, Any] = {"errorCode": 40573}
FAST = Polling(interval=0.1, safety=0.1)


def fleet(bench: Bench) -> Any:
    return bench.database.monque_jobs_fleet


def has_heard(monque: Monque, *names: str, draining: bool = False) -> Callable[[], bool]:
    """Whether an instance claims nothing of these names, and of others; or nothing at all."""
    engine = monque._connection().engine
    assert engine is not None
    agenda = engine._agenda
    return lambda: agenda._paused == {*names} and agenda._draining is draining


def keeper_of(monque: Monque) -> LeaseKeeper:
    engine = monque._connection().engine
    assert engine is not None
    return engine._keeper


def lookout_of(monque: Monque) -> Lookout:
    engine = monque._connection().engine
    assert engine is not None
    return engine._lookout


async def shown(monque: Monque, instance: Monque, status: InstanceStatus) -> Instance:
    """How an instance is shown, once it has this status."""
    while True:
        for found in await monque.fleet.instances():
            if (found.id, found.status) == (instance.instance_id, status):
                return found
        await asyncio.sleep(0.02)


# --- what can be said -------------------------------------------------------------------------------------------------


async def test_a_pause_is_shown_until_it_is_lifted(bench: Bench) -> None:
    async with bench.monque() as monque, bench.monque() as other:
        before = bench.now()
        pause = await monque.fleet.pause("greet", reason="$maintenance")
        assert before <= pause.since <= bench.now()
        assert pause == Pause("greet", pause.since, None, "$maintenance")
        later = await monque.fleet.pause("answer", timedelta(minutes=10))
        assert later.until == later.since + timedelta(minutes=10)
        assert await other.fleet.paused() == [later, pause]
        again = await other.fleet.pause("greet", 60)
        assert (again.until, again.reason) == (again.since + timedelta(seconds=60), None)
        assert await other.fleet.resume("greet")
        assert not await monque.fleet.resume("greet")
        assert await monque.fleet.paused() == [later]


async def test_a_pause_ends_by_the_servers_clock(bench: Bench) -> None:
    async with bench.monque() as monque:
        await monque.fleet.pause("greet", 0.0001)
        await eventually(lambda: bench.now() > fleet(bench).find_one()["expireAt"])
        assert await monque.fleet.paused() == []
        assert not await monque.fleet.resume("greet")


@pytest.mark.parametrize("name", ["", "two words", None])
async def test_what_is_no_name_cannot_be_paused(bench: Bench, name: Any) -> None:
    async with bench.monque() as monque:
        with pytest.raises(InvalidJobIdentifierError):
            await monque.fleet.pause(name)
        with pytest.raises(InvalidJobIdentifierError):
            await monque.fleet.resume(name)
    assert not fleet(bench).count_documents({})


@pytest.mark.parametrize(
    ("argument", "value"),
    [("duration", 0), ("duration", -1), ("duration", "10 minutes"), ("reason", 5), ("reason", "x" * 1001)],
)
async def test_a_pause_that_makes_no_sense_is_refused(bench: Bench, argument: str, value: Any) -> None:
    async with bench.monque() as monque:
        with pytest.raises(InvalidArgumentError, match=argument):
            await monque.fleet.pause("greet", **{argument: value})
    assert not fleet(bench).count_documents({})


async def test_an_instance_that_is_not_there_cannot_be_directed(bench: Bench) -> None:
    async with bench.monque() as monque:
        assert not await monque.fleet.drain("nobody")
        assert not await monque.fleet.undrain(monque.instance_id)
        nobody: Any = None
        with pytest.raises(InvalidArgumentError, match="instance_id"):
            await monque.fleet.drain(nobody)


# --- pausing ----------------------------------------------------------------------------------------------------------


async def test_jobs_of_a_paused_name_stay_pending_and_others_run(bench: Bench) -> None:
    monque, other = bench.monque(polling=NO_POLLS), bench.monque()
    record, paused, free = Record(monque), Gate(), Gate()
    free.open()
    monque.worker("paused", paused)
    monque.worker("free", free)
    async with working(monque), other:
        await eventually(record.has(ChangeStreamConnectedEvent))
        await other.enqueue("paused", 1)
        await paused.reached(1)
        await other.fleet.pause("paused")
        await eventually(has_heard(monque, "paused"), timeout=1)
        await other.enqueue_many([("paused", 2), ("free", 3), ("paused", 4), ("free", 5)])
        await free.reached(2)
        assert bench.count(name="paused", status="pending") == 2
        # What has begun goes on to its end.
        paused.open()
        await eventually(lambda: bench.count(name="paused", status="completed") == 1)
        assert monque.is_healthy()
        await other.enqueue("free", 6)
        await free.reached(3)
        assert len(paused.started) == 1
        await other.fleet.resume("paused")
        await paused.reached(3)
    assert bench.statuses() == {"completed": 6}


async def test_a_pause_said_here_is_heard_here_without_a_stream(lab: Lab) -> None:
    monque = lab.monque(polling=NO_POLLS)
    with lab.failing("aggregate", **NO_AGGREGATES):
        async with working(monque):
            await monque.fleet.pause("greet")
            await eventually(has_heard(monque, "greet"), timeout=1)
            await monque.fleet.resume("greet")
            await eventually(has_heard(monque), timeout=1)


@pytest.mark.parametrize("mode", ["stream", "polling"])
async def test_what_is_paused_for_some_time_goes_on_by_itself(lab: Lab, mode: str) -> None:
    monque, other = lab.monque(polling=NO_POLLS if mode == "stream" else FAST), lab.monque()
    record, runs = Record(monque), Gate()
    runs.open()
    monque.worker("greet", runs)
    if mode == "polling":
        lab.fail("aggregate", **NO_AGGREGATES)
    async with other, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent if mode == "stream" else ChangeStreamFallbackEvent))
        pause = await other.fleet.pause("greet", 1.5)
        await eventually(has_heard(monque, "greet"), timeout=1)
        job = await other.enqueue("greet")
        await runs.reached(1)
        claimed = runs.started[0].locked_at
    assert runs.started[0].id == job.id
    assert pause.until is not None
    assert claimed is not None
    assert pause.until <= claimed < pause.until + timedelta(seconds=5)


async def test_the_first_of_several_pauses_to_end_is_not_missed(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    runs = Gate()
    runs.open()
    for name in ("endless", "long", "short"):
        monque.worker(name, runs)
    async with monque:
        await monque.fleet.pause("endless")
        await monque.fleet.pause("long", 3600)
        await monque.fleet.pause("short", 1)
        for name in ("endless", "long", "short"):
            await monque.enqueue(name)
        await monque.start()
        await runs.reached(1)
        await eventually(has_heard(monque, "endless", "long"))
    assert [job.name for job in runs.started] == ["short"]


async def test_an_instance_that_starts_asks_before_it_claims(bench: Bench) -> None:
    monque, other = bench.monque(polling=NO_POLLS), bench.monque()
    runs, free = Gate(), Gate()
    runs.open()
    free.open()
    monque.worker("greet", runs)
    monque.worker("free", free)
    async with other:
        await other.enqueue_many([("greet", None), ("free", None)])
        await other.fleet.pause("greet")
        async with working(monque):
            await free.reached(1)
            assert not runs.started
        # And so does the next.
        async with working(monque):
            await other.enqueue("free")
            await free.reached(2)
    assert not runs.started
    assert bench.count(name="greet", status="pending") == 1


async def test_an_instance_that_gets_no_answer_to_that_claims_nothing_yet(lab: Lab) -> None:
    monque, other = lab.monque(polling=NO_POLLS), lab.monque(lab.uri.replace(lab.app, "other"))
    record, runs, free = Record(monque), Gate(), Gate()
    free.open()
    monque.worker("greet", runs)
    monque.worker("free", free)
    async with other:
        await other.enqueue_many([("greet", None), ("free", None)])
        await other.fleet.pause("greet")
        namespace = f"{lab.database_name}.monque_jobs_fleet"
        with lab.failing("find", times=2, errorCode=2, namespace=namespace):
            async with working(monque):
                await free.reached(1)
    assert len(record.of(JobErrorEvent)) == 2
    assert lab.statuses() == {"completed": 1, "pending": 1}


async def test_a_claim_on_its_way_is_carried_out(lab: Lab) -> None:
    monque, other = lab.monque(polling=NO_POLLS), lab.monque()
    record, runs = Record(monque), Gate()
    runs.open()
    monque.worker("greet", runs)
    async with other, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        with lab.failing("update", times=1, blockConnection=True, blockTimeMS=1500):
            await other.enqueue("greet")
            await eventually(lambda: lab.is_doing("update"))
            await other.fleet.pause("greet")
            await eventually(has_heard(monque, "greet"), timeout=1)
            await other.enqueue("greet")
            await runs.reached(1)
        await eventually(lambda: lab.statuses() == {"completed": 1, "pending": 1})


async def test_a_busy_instance_without_a_stream_asks_once_every_poll(lab: Lab) -> None:
    monque, other = lab.monque(polling=FAST), lab.monque()
    record, runs = Record(monque), list[Job[Any]]()

    @monque.worker("busy", concurrency=2)
    async def busy(job: Job[Any]) -> None:
        runs.append(job)
        await monque.enqueue("busy")

    with lab.failing("aggregate", **NO_AGGREGATES):
        async with other, working(monque):
            await eventually(record.has(ChangeStreamFallbackEvent))
            await other.enqueue("busy")
            await eventually(lambda: len(runs) > 20)
            await other.fleet.pause("busy")
            await eventually(has_heard(monque, "busy"), timeout=2)
            # A claim that was on its way is carried out, and its job enqueues the last one.
            await eventually(lambda: (there := lab.statuses())["pending"] == 1 and not there["processing"])


@pytest.fixture
async def busy(lab: Lab) -> AsyncGenerator[tuple[Monque, list[Job[Any]]]]:
    """An instance that always finds more to do than it has room for, and what it has run."""
    monque, runs = lab.monque(), list[Job[Any]]()

    @monque.worker("busy", concurrency=5)
    async def busy(job: Job[Any]) -> None:
        runs.append(job)
        await monque.enqueue("busy")

    async with working(monque):
        await monque.enqueue_many([("busy", None)] * 200)
        await eventually(lambda: len(runs) > 5)
        yield monque, runs


async def test_a_busy_instance_works_on_while_it_asks(lab: Lab, busy: tuple[Monque, list[Job[Any]]]) -> None:
    monque, runs = busy
    lookout = lookout_of(monque)
    with lab.failing("find", blockConnection=True, blockTimeMS=3000, namespace=fleet(lab).full_name):
        await eventually(lambda: lookout._hearing is not None)
        hearing = lookout._hearing
        assert hearing is not None
        seen = len(runs)
        await eventually(lambda: len(runs) > seen + 20)
        assert lookout._hearing is hearing
        # At the end it does not wait for an answer that is of no use any more.
        await asyncio.wait_for(monque.stop(), 2)
        assert hearing.cancelled()


async def test_a_busy_instance_that_gets_no_answer_asks_again_at_once_and_says_so(
    lab: Lab, busy: tuple[Monque, list[Job[Any]]]
) -> None:
    monque, runs = busy
    record = Record(monque)
    other = lab.monque(lab.uri.replace(lab.app, "other"))
    with lab.failing("find", times=2, errorCode=2, namespace=fleet(lab).full_name):
        await eventually(lambda: len(record.of(JobErrorEvent)) == 1)
    seen = len(runs)
    await eventually(lambda: len(runs) > seen)
    async with other:
        await other.fleet.pause("busy")
        await eventually(has_heard(monque, "busy"), timeout=5)


async def test_an_answer_that_was_overtaken_is_an_old_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record = Record(monque)
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        engine = monque._connection().engine
        assert engine is not None
        await eventually(engine.is_idle)
        lookout, answers = lookout_of(monque), list[asyncio.Future[Orders]]()

        def orders(instance: str) -> asyncio.Future[Orders]:
            answers.append(asyncio.get_running_loop().create_future())
            return answers[-1]

        monkeypatch.setattr(lookout._flow, "orders", orders)
        questions = [asyncio.create_task(lookout._hear()) for _ in range(2)]
        await eventually(lambda: len(answers) == 2)
        for answer, name in ((answers[1], "new"), (answers[0], "old")):
            answer.set_result(Orders({name: None}))
            await asyncio.wait(questions, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*questions)
        assert has_heard(monque, "new")()
        monkeypatch.undo()


async def test_a_stream_of_orders_that_is_lost_delays_them_by_no_more_than_a_poll(lab: Lab) -> None:
    monque, other = lab.monque(polling=Polling(interval=0.2, safety=60)), lab.monque()
    record = Record(monque)

    def streams() -> list[Document]:
        return [stream for stream in lab.doing() if stream.get("ns", "").endswith("_fleet") and "cursor" in stream]

    async with other, working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        with lab.failing("aggregate", **NO_AGGREGATES):
            for stream in await eventually(streams):
                lab.client.admin.command("killOp", op=stream["opid"])
            await eventually(record.has(ChangeStreamErrorEvent))
            await other.fleet.pause("greet")
            await eventually(has_heard(monque, "greet"), timeout=2)
        await eventually(lambda: len(record.of(ChangeStreamConnectedEvent)) == 2, timeout=30)
    assert len(record.of(ChangeStreamFallbackEvent)) == 1


class Asked(CommandListener):
    """What an instance asks, and of which collection."""

    def __init__(self) -> None:
        self.counts = Counter[tuple[str, str]]()

    @override
    def started(self, event: CommandStartedEvent) -> None:
        self.counts[event.command_name, str(event.command.get(event.command_name))] += 1

    @override
    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Not counted."""

    @override
    def failed(self, event: CommandFailedEvent) -> None:
        """Not counted."""


async def test_while_it_polls_pauses_come_along_with_what_it_asks_anyway(lab: Lab) -> None:
    asked = Asked()
    async with (
        AsyncMongoClient[dict[str, Any]](lab.uri, tz_aware=True, event_listeners=[asked]) as client,
        lab.monque(lab.uri.replace(lab.app, "other")) as other,
    ):
        monque = Monque(client, Options(polling=Polling(interval=0.3, safety=60)))
        record = Record(monque)
        monque.worker("greet", Gate())
        with lab.failing("aggregate", errorCode=40573, namespace=f"{lab.database_name}.monque_jobs_fleet"):
            async with working(monque):
                await eventually(record.has(ChangeStreamFallbackEvent))
                await other.fleet.pause("else")
                await eventually(has_heard(monque, "else"), timeout=2)
                asked.counts.clear()
                await eventually(lambda: asked.counts["find", "monque_jobs"] >= 8, timeout=20)
                counts = asked.counts.copy()
    # A machine that does ten other things may be late with a look ahead now and then, and then it asks by itself.
    assert counts["aggregate", "monque_jobs"] <= counts["find", "monque_jobs"] + 1
    assert counts["find", "monque_jobs_fleet"] <= 3


async def test_who_may_only_use_the_jobs_works_without_being_directed(lab: Lab) -> None:
    monque, other = lab.monque(polling=NO_POLLS), lab.monque(lab.uri.replace(lab.app, "other"))
    record, runs = Record(monque), Gate()
    runs.open()
    monque.worker("greet", runs)
    refused: dict[str, Any] = {"errorCode": 13, "namespace": f"{lab.database_name}.monque_jobs_fleet"}
    with lab.failing("find", "aggregate", "update", "delete", **refused):
        async with other, working(monque):
            await other.fleet.pause("greet")
            await eventually(record.has(ChangeStreamConnectedEvent))
            await other.enqueue("greet")
            await runs.reached(1)
            # That it cannot be seen is told, once.
            await eventually(record.has(JobErrorEvent))
            keeper = keeper_of(monque)
            for _ in range(2):
                keeper.tell()
                await eventually(lambda: not keeper._has_news)
            assert await other.fleet.instances() == []
    assert len(record.of(JobErrorEvent)) == 1


# --- draining ---------------------------------------------------------------------------------------------------------


async def test_an_instance_that_is_drained_claims_nothing_and_lives_on(bench: Bench) -> None:
    drained, other = bench.monque(polling=NO_POLLS), bench.monque(polling=NO_POLLS)
    record, runs, others = Record(drained), Gate(), Gate()
    others.open()
    drained.worker("greet", runs)
    async with working(drained):
        await eventually(record.has(ChangeStreamConnectedEvent))
        await drained.enqueue("greet")
        await runs.reached(1)
        await shown(drained, drained, "working")
        assert await drained.fleet.drain(drained.instance_id)
        await eventually(has_heard(drained, draining=True), timeout=1)
        other.worker("greet", others)
        async with working(other):
            await drained.enqueue_many([("greet", None)] * 5)
            await others.reached(5)
            assert (await shown(other, drained, "draining")).running_count == 1
            runs.open()
            await eventually(lambda: bench.statuses() == {"completed": 6})
            assert drained.is_healthy()
        await drained.enqueue("greet")
        assert await drained.fleet.undrain(drained.instance_id)
        await runs.reached(2)
        await shown(drained, drained, "working")
    assert len(runs.started) == 2


async def test_draining_ends_with_the_instance(bench: Bench) -> None:
    monque = bench.monque()
    async with bench.monque() as other:
        async with working(monque):
            await shown(other, monque, "working")
            await monque.fleet.drain(monque.instance_id)
            await eventually(has_heard(monque, draining=True))
        async with working(monque):
            await shown(other, monque, "working")


# --- seeing -----------------------------------------------------------------------------------------------------------


async def test_an_instance_says_what_it_is_and_does(bench: Bench) -> None:
    monque, runs = bench.monque(instance_id="mail-1"), Gate()
    monque.worker("greet", runs, concurrency=30, aliases=["welcome"])
    monque.worker("a.b$c", Gate())
    before = bench.now()
    async with bench.monque() as other:
        async with working(monque):
            first = await other.enqueue("greet")
            await runs.reached(1)
            await other.enqueue_many([("greet", None)] * 24)
            await runs.reached(25)
            keeper_of(monque).tell()
            await eventually(lambda: fleet(bench).find_one({"runningCount": 25}))
            (instance,) = await other.fleet.instances()
            assert instance.id == monque.instance_id
            assert (instance.host, instance.pid) == (socket.gethostname(), os.getpid())
            assert instance.version == version("monque")
            assert instance.workers == {"greet": 30, "welcome": 30, "a.b$c": 5}
            assert before <= instance.started_at <= instance.last_beat <= bench.now()
            assert len(instance.running) == 20
            assert instance.running_count == 25
            run = instance.running[0]
            assert (run.job_id, run.name, run.since) == (first.id, "greet", runs.started[0].locked_at)
            # A worker that is added is told of before the next beat.
            monque.worker("late", Gate())
            await eventually(lambda: "late" in str(fleet(bench).find_one()["workers"]))
            stopping = asyncio.create_task(monque.stop())
            assert (await shown(other, monque, "stopping")).id == instance.id
            runs.open()
            await stopping
        assert await other.fleet.instances() == []


_WORKER = """
import asyncio, sys
from monque import Lease, Monque, Options
monque = Monque(sys.argv[1], Options(lease=Lease(timeout=1.5)))
@monque.worker("greet")
async def greet() -> None: ...
asyncio.run(monque.run())
"""


async def test_an_instance_that_vanishes_is_missing_and_some_time_later_forgotten(bench: Bench) -> None:
    async with bench.monque() as monque:
        with Program("-c", _WORKER, bench.uri) as process:
            await eventually(lambda: fleet(bench).count_documents({}) == 1, timeout=30)
            (instance,) = await monque.fleet.instances()
            assert (instance.pid, instance.status) == (process.pid, "working")
            process.kill()
        await eventually(lambda: bench.now() - instance.last_beat > timedelta(seconds=4), timeout=20)
        (instance,) = await monque.fleet.instances()
        assert instance.status == "missing"
        # After an hour.
        fleet(bench).update_one({}, {"$set": {"expireAt": bench.now()}})
        await eventually(lambda: bench.now() > fleet(bench).find_one()["expireAt"])
        assert await monque.fleet.instances() == []
        assert not await monque.fleet.drain(instance.id)
        # Whoever starts next tidies up.
        await monque.start()
        await shown(monque, monque, "working")
        assert fleet(bench).count_documents({}) == 1


async def test_a_sign_of_life_that_was_deleted_comes_back(bench: Bench) -> None:
    monque = bench.monque(lease=Lease(timeout=0.6))
    async with working(monque):
        first = await shown(monque, monque, "working")
        fleet(bench).delete_many({})
        assert (await shown(monque, monque, "working")).started_at > first.started_at


async def test_a_database_that_is_slow_or_away_is_not_told_of_by_signs_of_life(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_PATIENCE", 0.2)
    monque = lab.monque()
    record = Record(monque)
    namespace = f"{lab.database_name}.monque_jobs_fleet"
    async with working(monque):
        first = await shown(monque, monque, "working")
        keeper = keeper_of(monque)
        for how in ({"blockConnection": True, "blockTimeMS": 1000}, {"closeConnection": True}):
            failing: dict[str, Any] = how
            with lab.failing("update", namespace=namespace, **failing):
                keeper.tell()
                await eventually(lambda: keeper._is_known is False)
            keeper.tell()
            await eventually(lambda: keeper._is_known)
        assert (await shown(monque, monque, "working")).started_at == first.started_at
    assert not record.of(JobErrorEvent)


async def test_an_instance_whose_database_is_gone_ends_all_the_same(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_GOODBYE", 0.2)
    monque = lab.monque()
    refused: dict[str, Any] = {"errorCode": 2, "namespace": f"{lab.database_name}.monque_jobs_fleet"}
    async with working(monque):
        await shown(monque, monque, "working")
        lab.fail("delete", **refused)
        await monque.stop()
        assert fleet(lab).count_documents({}) == 1


async def test_an_idle_instance_says_that_it_lives_in_one_write_a_beat(lab: Lab) -> None:
    monque = lab.monque(lease=Lease(timeout=1.5))
    lab.database.create_collection("system.profile", capped=True, size=1024 * 1024)
    async with working(monque):
        await shown(monque, monque, "working")
        lab.database.command("profile", 2)
        first = await shown(monque, monque, "working")

        def is_later() -> bool:
            return bool(fleet(lab).find_one()["lastBeat"] >= first.last_beat + timedelta(seconds=2))

        await eventually(is_later, timeout=20)
        lab.database.command("profile", 0)
    written = lab.database.system.profile.count_documents({"op": "update", "appName": lab.app})
    # A beat is half a second; the threads that wait for it are never early.
    assert 1 <= written <= 5


# --- cancelled elsewhere ----------------------------------------------------------------------------------------------


async def test_a_busy_instance_hears_of_a_cancellation_long_before_its_next_beat(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_GLANCE", 0.1)
    monque, other = lab.monque(polling=FAST, lease=Lease(timeout=3600)), lab.monque()
    record, runs = Record(monque), Gate()
    monque.worker("slow", runs)
    # What does not come by a stream does not come to an instance that does not read it.
    with lab.failing("aggregate", **NO_AGGREGATES):
        async with working(monque), other:
            job = await monque.enqueue("slow")
            await runs.reached()
            keeper = keeper_of(monque)
            for _ in range(3):
                seen = keeper._seen
                await eventually(lambda: keeper._seen is not seen and job.id in keeper._seen)  # noqa: B023  at once
            await other.jobs.cancel(job.id)
            await eventually(lambda: [event.job.id for event in record.of(JobLostEvent)] == [job.id])
            await eventually(lambda: runs.cancelled)


async def test_who_reads_its_stream_does_not_look_for_cancellations(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_GLANCE", 0.05)
    monque, runs = bench.monque(polling=NO_POLLS), Gate()
    record, looks = Record(monque), list[bool]()
    monque.worker("slow", runs)
    async with working(monque):
        await eventually(record.has(ChangeStreamConnectedEvent))
        reports = keeper_of(monque)._reports
        hears = reports.hears

        def noted() -> bool:
            looks.append(hears())
            return looks[-1]

        object.__setattr__(reports, "hears", noted)
        await monque.enqueue("slow")
        await eventually(lambda: len(looks) > 2)
        runs.open()
    assert looks[0]
