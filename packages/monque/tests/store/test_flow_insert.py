"""Storing new jobs: one for each unique key, whoever asks at the same moment, and in transactions."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern

from monque import (
    ConnectionError,
    InvalidArgumentError,
    InvalidCronError,
    Job,
    JobDocumentError,
    JobStatus,
    Monque,
    NewJob,
    Options,
)

from .support import FUTURE, PAST, refuse, spoil_text, stored

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.collection import Collection
    from pymongo.database import Database

    from .support import Commands, Document, Lab


# --- unique keys ----------------------------------------------------------------------------------------------------


async def test_a_thousand_callers_with_one_key_get_one_job(monque: Monque, raw: Collection[Document]) -> None:
    jobs = await asyncio.gather(*(monque.enqueue("work", number, unique_key="k") for number in range(1000)))
    assert raw.count_documents({}) == 1
    assert {job.id for job in jobs} == {document["_id"] for document in raw.find()}
    assert all(job == jobs[0] for job in jobs)


PROGRAM = """
import asyncio, json, sys
from monque import Monque, Options

async def main():
    async with Monque(sys.argv[1], Options(create_indexes=False)) as monque:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        # Each on its way alone, so that there is a race within the process, too.
        jobs = []
        for _ in range(10):
            jobs += await asyncio.gather(*(monque.enqueue("work", unique_key="k") for _ in range(25)))
    print(json.dumps(sorted({f"{job.id} {job.created_at}" for job in jobs})))

asyncio.run(main())
"""


async def test_a_thousand_callers_in_four_processes_get_one_job(
    monque: Monque, monque_uri: str, raw: Collection[Document]
) -> None:
    processes = [await _program(PROGRAM, monque_uri) for _ in range(4)]
    await asyncio.gather(*(process.stdout.readline() for process in processes if process.stdout))
    answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert [process.returncode for process in processes] == [0] * 4
    ((job,),) = {tuple(json.loads(answer)) for answer, _ in answers}
    assert [str(document["_id"]) for document in raw.find()] == [job.split()[0]]


async def _program(source: str, *arguments: str) -> Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(sys.executable, "-c", source, *arguments, stdin=pipe, stdout=pipe)


async def test_no_round_ends_in_an_error_while_the_holders_end(monque_uri: str, raw: Collection[Document]) -> None:
    # Two instances, so that not all calls are grouped into one insert.
    async with Monque(monque_uri) as one, Monque(monque_uri) as other:
        done = asyncio.Event()

        async def complete() -> None:
            while not done.is_set():
                await asyncio.to_thread(raw.update_many, {"status": "pending"}, {"$set": {"status": "completed"}})

        async def enqueue(number: int) -> Job[Any]:
            await asyncio.sleep(0)
            return await (one, other)[number % 2].enqueue("work", number, unique_key="k")

        completers = [asyncio.create_task(complete()) for _ in range(2)]
        for _ in range(300):
            jobs = await asyncio.gather(*(enqueue(number) for number in range(10)))
            assert all(job.unique_key == "k" for job in jobs)
            assert all(job.status in ("pending", "processing") for job in jobs)
        done.set()
        await asyncio.gather(*completers)
    assert raw.count_documents({"status": "pending"}) <= 1


@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_a_key_is_taken_while_its_job_is_pending_or_processing(
    monque: Monque, raw: Collection[Document], status: str
) -> None:
    document = stored(status, uniqueKey="k", data={"first": True}, priority=5)
    raw.insert_one(document)
    job = await monque.enqueue("work", {"first": False}, unique_key="k", run_at=FUTURE)
    assert (job.id, job.data, job.priority, job.status) == (document["_id"], {"first": True}, 5, status)
    assert list(raw.find()) == [document]


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
async def test_a_key_is_free_again_once_its_job_has_ended(
    monque: Monque, raw: Collection[Document], status: str
) -> None:
    raw.insert_one(stored(status, uniqueKey="k"))
    first = await monque.enqueue("work", unique_key="k")
    assert first.status is JobStatus.PENDING
    assert (await monque.enqueue("work", unique_key="k")).id == first.id
    assert raw.count_documents({}) == 2


async def test_a_key_belongs_to_its_name(monque: Monque, raw: Collection[Document]) -> None:
    jobs = [await monque.enqueue(name, unique_key=key) for name in "ab" for key in "xy"]
    assert len({job.id for job in jobs}) == raw.count_documents({}) == 4


async def test_enqueue_many_honours_keys_taken_before_and_within(
    monque: Monque, raw: Collection[Document], commands: Commands
) -> None:
    held = stored(uniqueKey="held")
    raw.insert_one(held)
    commands.sent.clear()
    jobs = await monque.enqueue_many(
        [
            NewJob(name="work", data=1, unique_key="new"),
            NewJob(name="work", data=2, unique_key="held"),
            NewJob(name="work", data=3),
            NewJob(name="work", data=4, unique_key="new"),
            NewJob(name="other", data=5, unique_key="held"),
            NewJob(name="work", data=6),
        ]
    )
    assert [job.data for job in jobs] == [1, {}, 3, 1, 5, 6]
    assert jobs[1].id == held["_id"]
    assert jobs[0] == jobs[3]
    assert raw.count_documents({}) == 5
    assert [next(iter(command)) for command in commands.sent] == ["insert", "find"]


async def test_a_key_and_a_name_that_are_taken_apart_are_not_taken_together(
    monque: Monque, raw: Collection[Document]
) -> None:
    raw.insert_many([stored(name="a", uniqueKey="x", data=1), stored(name="b", uniqueKey="y", data=2)])
    raw.insert_one(stored(name="a", uniqueKey="y", data=3))
    keys = [("a", "x"), ("b", "y"), ("b", "x")]
    jobs = await monque.enqueue_many([NewJob(name=name, unique_key=key, data=9) for name, key in keys])
    assert [(job.name, job.unique_key, job.data) for job in jobs] == [("a", "x", 1), ("b", "y", 2), ("b", "x", 9)]


async def test_enqueue_many_of_nothing_asks_nobody(monque: Monque, commands: Commands) -> None:
    commands.sent.clear()
    assert await monque.enqueue_many([]) == []
    assert commands.sent == []


async def test_calls_at_the_same_moment_are_one_insert(
    monque: Monque, raw: Collection[Document], commands: Commands
) -> None:
    commands.sent.clear()
    jobs = await asyncio.gather(*(monque.enqueue("work", number) for number in range(100)))
    assert [len(command["documents"]) for command in commands.named("insert")] == [100]
    assert [job.data for job in jobs] == list(range(100))
    assert raw.count_documents({}) == 100


# --- refused --------------------------------------------------------------------------------------------------------


async def test_a_refused_job_does_not_harm_those_it_was_grouped_with(
    monque: Monque, raw: Collection[Document], monque_database: Database[Document]
) -> None:
    refuse(monque_database, data=5)
    calls = (monque.enqueue("work", number, unique_key="k" if number < 2 else None) for number in range(10))
    results = await asyncio.gather(*calls, return_exceptions=True)
    failed = [number for number, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [5]
    assert isinstance(results[5], ConnectionError)
    assert "Document failed validation" in str(results[5])
    assert sorted(document["data"] for document in raw.find()) == [0, 2, 3, 4, 6, 7, 8, 9]


async def test_enqueue_many_says_that_one_was_refused(
    monque: Monque, raw: Collection[Document], monque_database: Database[Document]
) -> None:
    refuse(monque_database, data=1)
    with pytest.raises(ConnectionError, match="Document failed validation"):
        await monque.enqueue_many([("work", 0), ("work", 1), ("work", 2)])
    assert sorted(document["data"] for document in raw.find()) == [0, 2]


@pytest.mark.parametrize("key", [None, "k"])
async def test_a_unique_index_of_somebody_else_refuses_a_job(
    monque: Monque, raw: Collection[Document], key: str | None
) -> None:
    raw.create_index("data.order", unique=True)
    await monque.enqueue("work", {"order": 1})
    with pytest.raises(ConnectionError, match="duplicate key"):
        await asyncio.wait_for(monque.enqueue("work", {"order": 1}, unique_key=key), 20)
    assert raw.count_documents({}) == 1


async def test_a_holder_that_is_no_job_is_named_to_its_own_caller_only(
    monque: Monque, raw: Collection[Document]
) -> None:
    raw.insert_one(stored(uniqueKey="k", priority="high"))
    calls = [monque.enqueue("work", unique_key=key) for key in "kl"]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [JobDocumentError, Job]
    with pytest.raises(JobDocumentError):
        await monque.enqueue_many([NewJob(name="work", unique_key="k")])


async def test_a_holder_with_broken_text_is_returned(monque: Monque, raw: Collection[Document]) -> None:
    document = stored(uniqueKey="k", data="valid")
    raw.insert_one(document)
    spoil_text(raw, document["_id"])
    assert (await monque.enqueue("work", unique_key="k")).id == document["_id"]


async def test_an_insert_that_a_majority_did_not_confirm_is_an_error(lab: Lab) -> None:
    trouble = {"code": 64, "errmsg": "waiting for replication timed out"}
    async with lab.connected() as database, Monque(database) as monque:
        with lab.failing("insert", writeConcernError=trouble), pytest.raises(ConnectionError, match="replication"):
            await monque.enqueue("work")


async def test_every_caller_of_a_group_is_told_that_it_failed(lab: Lab) -> None:
    async with lab.connected() as database, Monque(database) as monque:
        with lab.failing("insert", errorCode=1):
            calls = (monque.enqueue("work") for _ in range(10))
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, ConnectionError) for result in results)
        assert lab.jobs.count_documents({}) == 0


async def test_an_insert_whose_answer_was_lost_is_made_once(lab: Lab) -> None:
    async with lab.connected() as database, Monque(database) as monque:
        with lab.failing("insert", mode={"times": 1}, closeConnection=True):
            job = await monque.enqueue("work", unique_key="k")
        assert [document["_id"] for document in lab.jobs.find()] == [job.id]


async def test_a_caller_that_gives_up_harms_nobody(monque: Monque, raw: Collection[Document]) -> None:
    hurried = asyncio.create_task(monque.enqueue("work", "hurried"))
    patient = asyncio.create_task(monque.enqueue("work", "patient"))
    await asyncio.sleep(0)
    hurried.cancel()
    assert (await patient).data == "patient"
    assert hurried.cancelled()
    assert raw.count_documents({"data": "patient"}) == 1


# --- sessions -------------------------------------------------------------------------------------------------------


async def test_a_job_of_a_transaction_exists_once_it_commits(
    monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    async with database.client.start_session() as session, await session.start_transaction():
        one = await monque.enqueue("work", 1, session=session)
        keyed = await monque.enqueue("work", 2, unique_key="k", session=session)
        again = await monque.enqueue("work", 3, unique_key="k", session=session)
        many = await monque.enqueue_many([NewJob(name="work", unique_key="k"), ("work", 4)], session=session)
        cron = await monque.schedule("@daily", "work", session=session)
        assert raw.count_documents({}) == 0
    assert keyed == again == many[0]
    assert {document["_id"] for document in raw.find()} == {one.id, keyed.id, many[1].id, cron.id}


async def test_an_aborted_transaction_leaves_nothing(
    monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    async with database.client.start_session() as session:
        await session.start_transaction()
        await monque.enqueue("work", session=session)
        await monque.enqueue("work", unique_key="k", session=session)
        await monque.schedule("@daily", "work", session=session)
        await session.abort_transaction()
    assert raw.count_documents({}) == 0


async def test_a_transaction_gets_the_job_that_has_the_key(
    monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    first = await monque.enqueue("work", unique_key="k")
    async with database.client.start_session() as session, await session.start_transaction():
        assert await monque.enqueue("work", {"other": 1}, unique_key="k", session=session) == first
    assert raw.count_documents({}) == 1


async def test_transactions_that_race_for_a_key_get_one_job(
    monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    both_began = asyncio.Barrier(2)
    attempts = 0

    async def transact(session: AsyncClientSession) -> Job[Any]:
        nonlocal attempts
        attempts += 1
        # A read opens the snapshot: neither can see what the other writes.
        await database["monque_jobs"].find_one({}, session=session)
        if attempts <= 2:
            await both_began.wait()
        return await monque.enqueue("work", unique_key="k", session=session)

    async def caller() -> Job[Any]:
        async with database.client.start_session() as session:
            return await session.with_transaction(transact, read_concern=ReadConcern("snapshot"))

    one, other = await asyncio.gather(caller(), caller())
    assert one == other
    assert attempts > 2
    assert raw.count_documents({}) == 1


async def test_calls_in_sessions_without_transactions_get_one_job(
    monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    async def call(key: str) -> Job[Any]:
        async with database.client.start_session() as session:
            return await monque.enqueue("work", unique_key=key, session=session)

    for key in map(str, range(20)):
        jobs = await asyncio.gather(*(call(key) for _ in range(20)))
        assert len({job.id for job in jobs}) == 1
    assert raw.count_documents({}) == 20


async def test_a_call_in_a_session_that_came_too_late_gets_the_job_that_was_quicker(lab: Lab) -> None:
    # What the server says when another call stored its job between the look for one and the insert.
    taken = {"keyPattern": {"name": 1, "uniqueKey": 1}, "keyValue": {"name": "work", "uniqueKey": "k"}}
    async with lab.connected() as database, Monque(database) as monque:
        quicker = await monque.enqueue("work", unique_key="k")
        async with database.client.start_session() as session:
            with lab.failing("findAndModify", mode={"times": 1}, errorCode=11000, errorExtraInfo=taken):
                assert await monque.enqueue("work", unique_key="k", session=session) == quicker


@pytest.mark.parametrize("transaction", [True, False])
async def test_a_unique_index_of_somebody_else_refuses_a_job_in_a_session(
    monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document], transaction: bool
) -> None:
    raw.create_index("data.order", unique=True)
    await monque.enqueue("work", {"order": 1})
    async with database.client.start_session() as session:
        if transaction:
            await session.start_transaction()
        with pytest.raises(DuplicateKeyError, match=r"data\.order"):
            await asyncio.wait_for(monque.enqueue("work", {"order": 1}, unique_key="k", session=session), 20)


async def test_the_drivers_errors_stay_as_they_are_in_a_session(
    monque: Monque, database: AsyncDatabase[Document], monque_database: Database[Document]
) -> None:
    refuse(monque_database, data=1)
    async with database.client.start_session() as session:
        with pytest.raises(OperationFailure, match="Document failed validation"):
            await monque.enqueue("work", 1, session=session)


async def test_a_session_of_a_foreign_client_is_refused(monque: Monque, monque_uri: str) -> None:
    async with AsyncMongoClient[dict[str, Any]](monque_uri) as foreign, foreign.start_session() as session:
        calls = [
            monque.enqueue("work", session=session),
            monque.enqueue_many([("work", 1)], session=session),
            monque.schedule("@daily", "work", session=session),
        ]
        for call in calls:
            with pytest.raises(InvalidArgumentError, match="a session of the client that was given to Monque"):
                await call


# --- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "nightly"])
async def test_scheduling_the_same_again_changes_nothing(
    monque: Monque, raw: Collection[Document], key: str | None
) -> None:
    first = await monque.schedule("0 3 * * *", "work", {"a": 1}, timezone="Europe/Berlin", unique_key=key)
    before = list(raw.find())
    again = await monque.schedule("0 3 * * *", "work", {"a": 1}, timezone="Europe/Berlin", unique_key=key)
    assert again == first
    assert list(raw.find()) == before
    assert (first.repeat_interval, first.timezone) == ("0 3 * * *", "Europe/Berlin")


async def test_without_a_key_a_schedule_is_known_by_all_that_describes_it(
    monque: Monque, raw: Collection[Document]
) -> None:
    await monque.schedule("0 3 * * *", "work", {"a": 1})
    await monque.schedule("0 4 * * *", "work", {"a": 1})
    await monque.schedule("0 3 * * *", "work", {"a": 2})
    await monque.schedule("0 3 * * *", "work", {"a": 1}, timezone="Europe/Berlin")
    await monque.schedule("0 3 * * *", "other", {"a": 1})
    assert raw.count_documents({}) == 5


@pytest.mark.parametrize("key", [None, "k"])
async def test_fifty_schedules_at_the_same_moment_make_one_job(
    monque_uri: str, raw: Collection[Document], key: str | None
) -> None:
    async with Monque(monque_uri) as one, Monque(monque_uri) as other:
        calls = ((one, other)[number % 2].schedule("@hourly", "work", unique_key=key) for number in range(50))
        jobs = await asyncio.gather(*calls)
    assert raw.count_documents({}) == 1
    assert len({job.id for job in jobs}) == 1


async def test_a_waiting_schedule_is_given_what_changed(monque: Monque, raw: Collection[Document]) -> None:
    first = await monque.schedule("@yearly", "work", {"a": 1}, timezone="Europe/Berlin", unique_key="k")
    # Another expression means another time.
    second = await monque.schedule("* * * * *", "work", {"a": 1}, timezone="Europe/Berlin", unique_key="k")
    assert second.id == first.id
    assert second.next_run_at < first.next_run_at
    assert (second.repeat_interval, second.timezone, second.data) == ("* * * * *", "Europe/Berlin", {"a": 1})
    # UTC is the zone that is not written.
    third = await monque.schedule("* * * * *", "work", {"a": 1}, unique_key="k")
    assert third.timezone is None
    assert "timezone" not in raw.find_one({"_id": first.id})  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
    # Other data do not move it.
    raw.update_one({"_id": first.id}, {"$set": {"nextRunAt": PAST}})
    fourth = await monque.schedule("* * * * *", "work", {"a": 2}, unique_key="k")
    assert (fourth.data, fourth.next_run_at) == ({"a": 2}, PAST)
    assert raw.count_documents({}) == 1


async def test_a_schedule_that_runs_is_given_what_changed_but_keeps_its_time(
    monque: Monque, raw: Collection[Document]
) -> None:
    first = await monque.schedule("@yearly", "work", {"a": 1}, unique_key="k")
    raw.update_one({"_id": first.id}, {"$set": {"status": "processing", "nextRunAt": PAST, "claimToken": "T"}})
    second = await monque.schedule("@daily", "work", {"a": 2}, timezone="Asia/Tokyo", unique_key="k")
    assert second.id == first.id
    assert second.status is JobStatus.PROCESSING
    assert (second.repeat_interval, second.timezone, second.data) == ("@daily", "Asia/Tokyo", {"a": 2})
    assert (second.next_run_at, second.claim_token) == (PAST, "T")


async def test_a_schedule_whose_job_ends_at_this_moment_is_made_anew(
    monque: Monque, raw: Collection[Document], commands: Commands
) -> None:
    first = await monque.schedule("@yearly", "work", unique_key="k")
    # Once the holder of the key was read, and before it is given the new schedule.
    commands.after["find"] = lambda _: raw.update_one({"_id": first.id}, {"$set": {"status": "cancelled"}})
    second = await monque.schedule("@daily", "work", unique_key="k")
    assert second.id != first.id
    assert {document["_id"]: document["status"] for document in raw.find()} == {
        first.id: "cancelled",
        second.id: "pending",
    }


async def test_a_schedule_can_be_changed_in_a_transaction(
    monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    first = await monque.schedule("@yearly", "work", unique_key="k")
    async with database.client.start_session() as session:
        await session.start_transaction()
        changed = await monque.schedule("@daily", "work", unique_key="k", session=session)
        assert (changed.id, changed.repeat_interval) == (first.id, "@daily")
        await session.abort_transaction()
    assert [document["repeatInterval"] for document in raw.find()] == ["@yearly"]


async def test_a_bad_expression_writes_nothing(monque: Monque, raw: Collection[Document]) -> None:
    with pytest.raises(InvalidCronError):
        await monque.schedule("0 25 * * *", "work")
    assert raw.count_documents({}) == 0


# --- the collection's settings --------------------------------------------------------------------------------------


async def test_what_is_stored_is_what_was_returned(database: AsyncDatabase[Document]) -> None:
    async with Monque(database, Options(collection="elsewhere")) as monque:
        job = await monque.enqueue("work", {"a": [1, 2.5, "x", None]}, run_at=FUTURE, priority=-3, unique_key="k")
        assert await monque.jobs.get(job.id) == job
        plain = await monque.enqueue("work")
        document = await database["elsewhere"].find_one({"_id": plain.id})
    assert document is not None
    assert document.keys() == {
        "_id", "name", "data", "status", "nextRunAt", "failCount", "createdAt", "updatedAt",
    }  # fmt: skip
    assert document["nextRunAt"] == document["createdAt"] == document["updatedAt"]


async def test_new_jobs_are_acknowledged_by_a_majority_whatever_the_client_asks_for(
    monque_uri: str, commands: Commands
) -> None:
    async with (
        AsyncMongoClient[dict[str, Any]](monque_uri, w=1, event_listeners=[commands]) as client,
        Monque(client) as monque,
    ):
        commands.sent.clear()
        await monque.enqueue("work")
        await monque.enqueue_many([("work", 1), ("work", 2)])
        await monque.schedule("@daily", "work", unique_key="k")
        await monque.schedule("@hourly", "work", unique_key="k")
        async with client.start_session() as session:
            await monque.enqueue("work", unique_key="l", session=session)
    writes = commands.named("insert", "findAndModify")
    assert len(writes) >= 5
    assert [command.get("writeConcern") for command in writes] == [{"w": "majority"}] * len(writes)
