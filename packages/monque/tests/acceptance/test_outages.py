"""The server dies, freezes, hands over; the network is cut. Work goes on by itself, and health says so."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from pymongo import AsyncMongoClient

from monque import (
    ChangeStreamConnectedEvent,
    Concurrency,
    ConnectionError,
    Job,
    JobLostEvent,
    Lease,
    Monque,
    NewJob,
    Options,
    Polling,
    _producer,
    _wakeup,
)
from monque.testing import eventually
from monque.testing.plugin import with_database

from .support import PATIENCE, Proxy, ReplicaSet, fail_once, patiently, statuses

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from bson import ObjectId
    from pymongo.database import Database

# An idle instance notices an outage at the next look, a busy one at the next renewal.
OPTIONS = Options(
    polling=Polling(interval=0.3, safety=0.5), lease=Lease(30), concurrency=Concurrency(5), shutdown_timeout=5
)


class Instance:
    """An instance in this process, and what happened in it."""

    def __init__(self, uri: str, options: Options = OPTIONS) -> None:
        self.monque = Monque(uri, options)
        self.runs: list[ObjectId] = []
        self.streams: list[ChangeStreamConnectedEvent] = []
        self.lost: list[JobLostEvent] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.monque.worker("job", self._run)
        self.monque.on("changestream:connected", self.streams.append)
        self.monque.on("job:lost", self.lost.append)

    async def _run(self, job: Job[Any]) -> None:
        self.runs.append(job.id)
        await self.gate.wait()

    async def enqueued(self, count: int) -> list[ObjectId]:
        return [job.id for job in await self.monque.enqueue_many([NewJob(name="job")] * count)]


@asynccontextmanager
async def working(uri: str, options: Options = OPTIONS) -> AsyncGenerator[Instance]:
    instance = Instance(uri, options)
    async with instance.monque:
        await instance.monque.start()
        await patiently(lambda: instance.streams)
        yield instance


async def unhealthy(*instances: Instance) -> None:
    await patiently(lambda: not any(instance.monque.is_healthy() for instance in instances))


async def healthy(*instances: Instance) -> None:
    await patiently(lambda: all(instance.monque.is_healthy() for instance in instances))


@pytest.fixture
def own_database(own_server: ReplicaSet) -> Iterator[Database[Any]]:
    with own_server.client() as client:
        name = f"outage_{time.monotonic_ns()}"
        yield client[name]
        client.drop_database(name)


@pytest.fixture
def own_uri(own_server: ReplicaSet, own_database: Database[Any]) -> str:
    return with_database(own_server.uri, own_database.name)


async def test_work_goes_on_after_the_server_was_killed_and_started_again(
    own_server: ReplicaSet, own_uri: str, own_database: Database[Any]
) -> None:
    (server,) = own_server.members
    async with working(own_uri) as first, working(own_uri) as second:
        first.gate.clear()
        second.gate.clear()
        jobs = await first.enqueued(30)
        await patiently(lambda: len(first.runs) == len(second.runs) == 5)

        server.kill()
        first.gate.set()
        second.gate.set()
        await unhealthy(first, second)
        server.start()
        own_server.until_writable()

        await patiently(lambda: statuses(own_database) == {"completed": 30})
        await healthy(first, second)
    assert sorted(first.runs + second.runs) == sorted(jobs)
    assert first.lost == second.lost == []


@pytest.mark.parametrize("seconds", [8])
async def test_work_goes_on_after_the_server_was_frozen(
    own_server: ReplicaSet, own_uri: str, own_database: Database[Any], seconds: float
) -> None:
    (server,) = own_server.members
    async with working(own_uri) as first, working(own_uri) as second:
        first.gate.clear()
        second.gate.clear()
        jobs = await first.enqueued(30)
        await patiently(lambda: len(first.runs) == len(second.runs) == 5)

        server.freeze()
        try:
            thaw_at = time.monotonic() + seconds
            first.gate.set()
            second.gate.set()
            await unhealthy(first, second)
            await asyncio.sleep(thaw_at - time.monotonic())
        finally:
            server.thaw()

        await patiently(lambda: statuses(own_database) == {"completed": 30})
        await healthy(first, second)
    assert sorted(first.runs + second.runs) == sorted(jobs)
    assert first.lost == second.lost == []


async def test_an_outage_longer_than_the_lease_is_seen_by_a_busy_instance_that_need_not_look(
    own_server: ReplicaSet, own_uri: str, own_database: Database[Any]
) -> None:
    options = Options(lease=Lease(1), polling=Polling(interval=30, safety=30))
    (server,) = own_server.members
    async with working(own_uri, options) as instance:
        instance.gate.clear()
        (job,) = await instance.enqueued(1)
        await patiently(lambda: instance.runs)
        server.freeze()
        try:
            await unhealthy(instance)
        finally:
            server.thaw()
        await healthy(instance)
        instance.gate.set()
        await patiently(lambda: statuses(own_database) == {"completed": 1})
    assert instance.runs == [job]


async def test_an_instance_stops_while_the_server_is_frozen(own_server: ReplicaSet, own_uri: str) -> None:
    options = Options(lease=Lease(1), polling=Polling(interval=0.3, safety=0.5), shutdown_timeout=1)
    (server,) = own_server.members
    async with working(own_uri, options) as instance:
        await instance.enqueued(1)
        await patiently(lambda: instance.runs)
        server.freeze()
        try:
            # Left to itself, the driver would take most of a minute.
            await asyncio.wait_for(instance.monque.close(), 25)
        finally:
            server.thaw()


async def test_work_goes_on_after_connections_were_refused(
    proxy: Proxy, proxy_uri: str, monque_uri: str, monque_database: Database[Any]
) -> None:
    async with Monque(monque_uri) as producer, working(proxy_uri) as instance:
        proxy.refuse()
        jobs = [job.id for job in await producer.enqueue_many([NewJob(name="job")] * 30)]
        await unhealthy(instance)
        assert instance.runs == []
        await proxy.accept()

        await patiently(lambda: statuses(monque_database) == {"completed": 30})
        await healthy(instance)
    assert sorted(instance.runs) == sorted(jobs)


async def test_cut_connections_interrupt_nothing(proxy: Proxy, proxy_uri: str, monque_database: Database[Any]) -> None:
    async with working(proxy_uri) as instance:
        for _ in range(20):
            await enqueue_for_sure(instance.monque, 10)
            proxy.cut()
        await patiently(lambda: statuses(monque_database) == {"completed": 200})
        await healthy(instance)
    assert len(instance.runs) == len(set(instance.runs)) == 200


async def test_work_goes_on_after_all_connections_stalled(
    proxy: Proxy, proxy_uri: str, monque_uri: str, monque_database: Database[Any]
) -> None:
    async with Monque(monque_uri) as producer, working(proxy_uri) as instance:
        proxy.stall()
        jobs = [job.id for job in await producer.enqueue_many([NewJob(name="job")] * 30)]
        await unhealthy(instance)
        proxy.flow()

        await patiently(lambda: statuses(monque_database) == {"completed": 30})
        await healthy(instance)
    assert sorted(instance.runs) == sorted(jobs)


async def test_work_goes_on_over_new_connections_when_the_old_ones_are_dead(
    proxy: Proxy, proxy_uri: str, monque_uri: str, monque_database: Database[Any]
) -> None:
    options = Options(lease=Lease(2), polling=Polling(interval=0.3, safety=0.5), shutdown_timeout=5)
    async with Monque(monque_uri) as producer, working(proxy_uri, options) as instance:
        proxy.deaden()
        jobs = [job.id for job in await producer.enqueue_many([NewJob(name="job")] * 30)]

        await patiently(lambda: statuses(monque_database) == {"completed": 30})
        await healthy(instance)
        own = await asyncio.wait_for(enqueue_for_sure(instance.monque, 1), PATIENCE)
        await patiently(lambda: statuses(monque_database) == {"completed": 31})
        proxy.deaden()
        await asyncio.wait_for(instance.monque.close(), PATIENCE)
    assert sorted(instance.runs) == sorted([*jobs, *own])


async def test_a_change_stream_that_fell_silent_is_replaced(
    proxy: Proxy, proxy_uri: str, monque_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_wakeup, "_MAX_AWAIT", 1.0)
    monkeypatch.setattr(_wakeup, "_GRACE", 1.0)
    options = Options(lease=Lease(2), polling=Polling(interval=60, safety=60), shutdown_timeout=5)
    async with Monque(monque_uri) as producer, working(proxy_uri, options) as instance:
        proxy.deaden()
        await patiently(lambda: len(instance.streams) >= 2)

        job = await producer.enqueue("job")
        # No poll comes to its aid.
        await eventually(lambda: instance.runs == [job.id], timeout=45)


@asynccontextmanager
async def slow_insert(uri: str, milliseconds: int) -> AsyncGenerator[AsyncMongoClient[Any]]:
    """A client over whose next insert the server takes so long."""
    name = f"slow-{time.monotonic_ns()}"
    async with AsyncMongoClient[Any](uri, appname=name) as client:
        await fail_once(client, name, "insert", blockConnection=True, blockTimeMS=milliseconds)
        yield client


async def test_an_insert_that_is_never_answered_is_given_up_and_holds_up_no_other(
    monque_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_producer, "_LONGEST_INSERT", 1.0)
    async with slow_insert(monque_uri, 4_000) as client, Monque(client) as monque:
        stuck = asyncio.create_task(monque.enqueue("job", {"n": 1}))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(stuck, 30)
        assert (await asyncio.wait_for(monque.enqueue("job", {"n": 2}), 30)).data == {"n": 2}


async def test_a_time_limit_of_one_caller_does_not_hold_for_the_jobs_of_others(monque_uri: str) -> None:
    async with slow_insert(monque_uri, 1500) as client, Monque(client) as monque:

        async def hurried() -> None:
            with pymongo.timeout(1):
                await monque.enqueue("job")

        first = asyncio.create_task(hurried())
        await asyncio.sleep(0.5)
        # Enqueued while the first insert is under way, so it belongs to the next one.
        second = await asyncio.wait_for(monque.enqueue("job"), 30)
        assert second.status == "pending"
        await asyncio.gather(first, return_exceptions=True)


async def enqueue_for_sure(monque: Monque, count: int) -> list[ObjectId]:
    """Enqueue until it is acknowledged; the keys see to it that nothing is there twice."""
    keys = [f"{time.monotonic_ns()}-{number}" for number in range(count)]
    while True:
        try:
            jobs = await monque.enqueue_many({"name": "job", "unique_key": key} for key in keys)
        except ConnectionError:
            await asyncio.sleep(0.05)
        else:
            return [job.id for job in jobs]
