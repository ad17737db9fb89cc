"""The object users hold: connecting, enqueueing, declaring workers, health."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from monque import Concurrency, InvalidArgumentError, Monque, NewJob, Options, Polling, WorkerRegistrationError
from monque import _engine as engine_module
from monque.errors import ConnectionError
from monque.testing import eventually

from .support import NO_POLLS, Gate, Proxy, our_tasks, working

if TYPE_CHECKING:
    from .support import Bench, Lab


async def test_initialize_and_close_may_be_repeated(bench: Bench) -> None:
    monque = bench.monque()
    await monque.close()
    await asyncio.gather(monque.initialize(), monque.initialize())
    connected = monque._connected
    await monque.initialize()
    assert monque._connected is connected
    assert monque.is_healthy()
    await asyncio.gather(monque.close(), monque.close())
    await monque.close()
    assert not monque.is_healthy()
    assert not our_tasks()


async def test_it_can_be_opened_again_after_it_was_closed(bench: Bench) -> None:
    monque = bench.monque()
    for _ in range(2):
        async with monque:
            await monque.enqueue("greet")
    assert bench.count() == 2


async def test_without_a_connection_every_call_says_what_to_do(bench: Bench) -> None:
    monque = bench.monque()
    for call in (
        lambda: monque.enqueue("greet"),
        lambda: monque.now("greet"),
        lambda: monque.schedule("@daily", "greet"),
        lambda: monque.enqueue_many([("greet", None)]),
        monque.start,
    ):
        with pytest.raises(ConnectionError, match="initialize"):
            await call()
    with pytest.raises(ConnectionError, match="initialize"):
        await monque.jobs.get("0" * 24)
    async with monque:
        assert await monque.jobs.get("0" * 24) is None


async def test_starting_twice_starts_once(bench: Bench) -> None:
    monque = bench.monque()
    async with working(monque):
        await monque.start()
        await monque.start()
        await eventually(lambda: our_tasks().count("Engine.run") == 1)


async def test_an_initialization_that_fails_can_be_repeated(lab: Lab) -> None:
    monque = lab.monque()
    with lab.failing("createIndexes", times=1, errorCode=13), pytest.raises(ConnectionError):
        await monque.initialize()
    assert not our_tasks()
    async with monque:
        assert monque.is_healthy()


async def test_indexes_are_created_unless_they_are_not_wanted(bench: Bench) -> None:
    async with bench.monque(create_indexes=False):
        assert "monque_jobs" not in bench.database.list_collection_names()
    async with bench.monque():
        assert "monque_claim" in bench.jobs.index_information()


async def test_the_collection_can_have_another_name(bench: Bench) -> None:
    monque = bench.monque(collection="work.items")
    runs = Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        await monque.now("greet", {"a": 1})
        await runs.reached()
    assert bench.database["work.items"].count_documents({}) == 1


async def test_what_is_enqueued_is_acknowledged_before_a_close_that_follows(bench: Bench) -> None:
    monque = bench.monque()
    await monque.initialize()
    enqueueing = [asyncio.create_task(monque.enqueue("greet")) for _ in range(50)]
    await asyncio.sleep(0)
    await monque.close()
    assert {job.name for job in await asyncio.gather(*enqueueing)} == {"greet"}
    assert bench.count() == 50


async def test_many_jobs_at_once_in_every_form(bench: Bench) -> None:
    async with bench.monque() as monque:
        jobs = await monque.enqueue_many(
            [("a", 1), {"name": "b", "delay": 5}, NewJob(name="c", unique_key="k"), NewJob(name="c", unique_key="k")]
        )
        assert [job.name for job in jobs] == ["a", "b", "c", "c"]
        assert jobs[2].id == jobs[3].id
        assert await monque.enqueue_many([]) == []
        with pytest.raises(InvalidArgumentError):
            await monque.enqueue_many([("good", None), ("bad name", None)])
    assert bench.count() == 3


async def test_a_job_in_a_transaction_exists_once_it_commits(bench: Bench) -> None:
    async with AsyncMongoClient[dict[str, Any]](bench.uri) as client, Monque(client) as monque:
        async with client.start_session() as session:
            async with await session.start_transaction():
                await monque.enqueue("a", session=session)
                await monque.enqueue_many([("b", None), {"name": "c", "unique_key": "k"}], session=session)
                await monque.schedule("@daily", "d", session=session)
                assert bench.count() == 0
            assert bench.count() == 4
            await session.start_transaction()
            await monque.enqueue("e", session=session)
            await session.abort_transaction()
        async with AsyncMongoClient[dict[str, Any]](bench.uri) as other, other.start_session() as foreign:
            with pytest.raises(InvalidArgumentError, match="session"):
                await monque.enqueue("f", session=foreign)
    assert bench.count() == 4


async def test_errors_in_a_transaction_stay_those_of_the_driver(lab: Lab) -> None:
    async with (
        AsyncMongoClient[dict[str, Any]](lab.uri) as client,
        Monque(client) as monque,
        client.start_session() as session,
    ):
        await session.start_transaction()
        with lab.failing("insert", times=1, errorCode=251), pytest.raises(OperationFailure):
            await monque.enqueue("a", session=session)
        await session.abort_transaction()


async def test_a_write_that_is_not_acknowledged_is_told(lab: Lab) -> None:
    async with lab.monque() as monque:
        with lab.failing("insert", errorCode=13):
            with pytest.raises(ConnectionError, match="enqueue the job"):
                await monque.enqueue("greet")
            with pytest.raises(ConnectionError, match="enqueue the jobs"):
                await monque.enqueue_many([("greet", None)])


def test_a_worker_is_declared_by_decorator_or_call_and_once(bench: Bench) -> None:
    monque = bench.monque()
    first, second = Gate(), Gate()
    assert monque.worker("greet")(first).function is first
    assert monque.worker("other", second).function is second
    with pytest.raises(WorkerRegistrationError, match="replace=True"):
        monque.worker("greet", second)
    assert monque.worker("greet", second, replace=True).function is second


async def test_two_instances_of_one_process_have_ids_of_their_own() -> None:
    ids = {Monque("mongodb://127.0.0.1:1").instance_id for _ in range(3)}
    assert len(ids) == 3


# --- health -----------------------------------------------------------------------------------------------------------


async def test_it_is_healthy_while_connected_and_while_it_works(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    assert not monque.is_healthy()
    async with monque:
        assert monque.is_healthy()
        await monque.start()
        assert monque.is_healthy()
        await monque.stop()
        assert monque.is_healthy()
    assert not monque.is_healthy()


async def test_an_instance_whose_work_has_died_is_not_healthy(bench: Bench) -> None:
    monque = bench.monque()
    async with working(monque):
        connected = monque._connected
        assert connected is not None
        assert connected.work is not None
        connected.work.cancel()
        await asyncio.wait([connected.work])
        assert not monque.is_healthy()
        with pytest.raises(asyncio.CancelledError):
            await monque.stop()
        await monque.start()
        assert monque.is_healthy()


async def test_a_server_that_cannot_be_reached_is_not_healthy_until_it_is_back(lab: Lab) -> None:
    async with Proxy(lab.uri).serving() as proxy:
        monque = lab.monque(
            proxy.uri(lab, serverSelectionTimeoutMS=500, connectTimeoutMS=500),
            polling=Polling(interval=0.2, safety=0.2),
        )
        async with working(monque):
            assert monque.is_healthy()
            proxy.fall_silent()
            proxy.cut()
            await eventually(lambda: not monque.is_healthy(), timeout=20)
            proxy.speak()
            proxy.cut()
            await eventually(monque.is_healthy, timeout=20)


async def test_an_instance_that_gets_no_answers_is_not_healthy(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_PATIENCE", 0.3)
    monque = lab.monque(polling=Polling(interval=0.1, safety=0.1), concurrency=Concurrency(per_worker=1))
    monque.worker("greet", Gate())
    async with working(monque):
        with lab.failing("find", times=1, blockConnection=True, blockTimeMS=1500):
            await eventually(lambda: not monque.is_healthy())
        await eventually(monque.is_healthy)


async def test_options_are_kept_as_given(bench: Bench) -> None:
    assert Monque(bench.uri, Options(collection="jobs"))._options.collection == "jobs"
