"""What becomes of a unique key's holder, for each of its states and each way to ask."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, get_args

import pytest

from monque import (
    ConnectionError,
    FollowUp,
    InvalidArgumentError,
    Job,
    JobDocumentError,
    JobStatus,
    Monque,
    NewJob,
    OnConflict,
    PayloadTooLargeError,
    UniqueKeyConflictError,
)
from monque.testing import eventually

from .support import FUTURE, PAST, from_node, refuse, stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.collection import Collection

    from .support import Commands, Document

MODES: tuple[OnConflict, ...] = get_args(OnConflict)
LATER = FUTURE + timedelta(days=1)
NEW = {"$new": 1, "dotted.key": True}
FAILED_BEFORE: dict[str, Any] = {"failCount": 2, "attempts": 2, "failReason": "no", "priority": 7}
EARLIER_FOLLOW_UP: dict[str, Any] = {"followUp": {"data": "earlier", "nextRunAt": FUTURE, "priority": 9}}
FOLLOW_UP: dict[str, Any] = {"followUp": {"data": NEW, "nextRunAt": LATER, "priority": 3}}

# The documents that may have the key, by what they are.
HOLDERS: dict[str, Document] = {
    "pending": stored(data="old"),
    "pending after a failure": stored(data="old", nextRunAt=FUTURE, **FAILED_BEFORE),
    "pending with a follow-up": stored(data="old", nextRunAt=FUTURE, **FAILED_BEFORE, **EARLIER_FOLLOW_UP),
    "pending, of Node": from_node(data="old", failCount=1.0, failReason="Error: no"),
    "processing": stored("processing", data="old"),
    "processing with a follow-up": stored("processing", data="old", **EARLIER_FOLLOW_UP),
    "processing, of Node": from_node(data="old", status="processing", claimedBy="node", lockedAt=PAST),
    "completed": stored("completed", data="old"),
    "failed": stored("failed", data="old", **FAILED_BEFORE),
    "cancelled": stored("cancelled", data="old"),
    "pending and recurring": stored(data="old", repeatInterval="@daily"),
    "processing and recurring": stored("processing", data="old", repeatInterval="@daily"),
}
WAYS = ["plain", "many", "session", "transaction", "many in a transaction"]


def expected(name: str, mode: OnConflict) -> Document | str:
    """What is in place of the holder then: its document but for updatedAt; or what happens instead."""
    holder = {field: value for field, value in HOLDERS[name].items() if field != "updatedAt"}
    status = holder["status"]
    if status not in ("pending", "processing"):
        return "another job"
    if mode == "return":
        return holder
    if mode == "raise" or "repeatInterval" in holder:
        return "an error"
    if status == "processing":
        return holder | FOLLOW_UP
    if mode == "run_after":
        return holder
    kept = {field: holder[field] for field in ("_id", "name", "status", "createdAt", "uniqueKey")}
    return kept | {"data": NEW, "nextRunAt": LATER, "failCount": 0, "priority": 3}


def without_update(document: Document) -> Document:
    return {field: value for field, value in document.items() if field != "updatedAt"}


async def ask(monque: Monque, way: str, database: AsyncDatabase[Document], request: NewJob) -> Job[Any]:
    """Enqueue in this way; in a transaction it is committed, whether or not there was an error of ours."""
    if way == "many":
        return (await monque.enqueue_many([request]))[0]
    arguments = dict(vars(request))
    if way == "plain":
        return await monque.enqueue(**arguments)
    async with database.client.start_session() as session:
        if way == "session":
            return await monque.enqueue(**arguments, session=session)
        await session.start_transaction()
        try:
            if way == "many in a transaction":
                return (await monque.enqueue_many([request], session=session))[0]
            return await monque.enqueue(**arguments, session=session)
        finally:
            await session.commit_transaction()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", HOLDERS)
async def test_the_holder_of_a_key_becomes_what_was_asked_for(
    name: str, mode: OnConflict, way: str, monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    for holder in HOLDERS.values():
        holder["uniqueKey"] = "k"
    before = HOLDERS[name]
    raw.insert_one(before)
    request = NewJob(name="work", data=NEW, run_at=LATER, unique_key="k", priority=3, on_conflict=mode)
    outcome = expected(name, mode)

    if outcome == "an error":
        with pytest.raises(UniqueKeyConflictError) as caught:
            await ask(monque, way, database, request)
        error = caught.value
        assert (error.job_id, error.job_name, error.unique_key) == (before["_id"], "work", "k")
        assert list(raw.find()) == [before]
        assert ("schedule()" in str(error)) is ("repeatInterval" in before)
        return
    job = await ask(monque, way, database, request)
    assert job == await monque.jobs.get(job.id)
    if outcome == "another job":
        assert raw.find_one({"_id": before["_id"]}) == before
        assert (job.id != before["_id"], job.data, job.next_run_at, job.priority) == (True, NEW, LATER, 3)
        assert (job.status, job.follow_up) == (JobStatus.PENDING, None)
        return
    (after,) = raw.find()
    assert job.id == before["_id"]
    assert without_update(after) == outcome
    changed = outcome != without_update(before)
    # Where a pending job was counted on, a transaction has to touch it, so that it cannot be claimed before.
    touched = mode == "run_after" and "transaction" in way
    assert (after["updatedAt"] > before["updatedAt"]) is (changed or touched)


async def test_a_follow_up_shows_in_the_job(monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_one(stored("processing", uniqueKey="k"))
    job = await monque.enqueue("work", 1, run_at=LATER, unique_key="k", priority=-2, on_conflict="run_after")
    assert job.follow_up == FollowUp(1, LATER, -2)
    again = await monque.enqueue("work", 2, unique_key="k", on_conflict="replace")
    assert again.follow_up is not None
    assert (again.id, again.follow_up.data, again.follow_up.priority) == (job.id, 2, 0)
    # Without a time, now.
    assert again.follow_up.next_run_at <= again.updated_at


async def test_what_is_replaced_without_a_time_or_a_priority_is_due_now_and_normal(
    monque: Monque, raw: Collection[Document]
) -> None:
    raw.insert_one(stored(uniqueKey="k", nextRunAt=FUTURE, priority=5))
    job = await monque.enqueue("work", 1, unique_key="k", on_conflict="replace")
    assert job.next_run_at <= job.updated_at
    assert "priority" not in raw.find()[0]


async def test_many_jobs_are_each_treated_as_they_say(monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_many([stored(uniqueKey=key, data=0, createdAt=PAST) for key in "abc"])
    asked: list[NewJob | dict[str, Any]] = [
        NewJob(name="work", data=1, unique_key="a"),
        NewJob(name="work", data=2, unique_key="b", on_conflict="replace"),
        {"name": "work", "data": 3, "unique_key": "c", "on_conflict": "run_after"},
        NewJob(name="work", data=4, unique_key="new", on_conflict="raise"),
        NewJob(name="work", data=5, unique_key="b", on_conflict="replace"),
        NewJob(name="work", data=6),
    ]
    jobs = await monque.enqueue_many(asked)
    assert [job.data for job in jobs] == [0, 2, 0, 4, 5, 6]
    stored_data = {document.get("uniqueKey"): document["data"] for document in raw.find()}
    assert stored_data == {"a": 0, "b": 5, "c": 0, "new": 4, None: 6}


async def test_of_many_jobs_one_may_say_that_its_key_is_taken(monque: Monque, raw: Collection[Document]) -> None:
    asked = [NewJob(name="work", data=number, unique_key="k", on_conflict="raise") for number in range(2)]
    with pytest.raises(UniqueKeyConflictError, match=r"the unique key 'k' of 'work' is taken: job \w+ has it"):
        await monque.enqueue_many(asked)
    assert [document["data"] for document in raw.find()] == [0]


async def test_a_new_job_leaves_no_trace_of_what_it_would_have_done(monque: Monque, raw: Collection[Document]) -> None:
    fields = [set((await monque.enqueue(f"work-{mode}", unique_key="k", on_conflict=mode)).__dict__) for mode in MODES]
    assert all(each == fields[0] for each in fields)
    documents = [set(document) for document in raw.find()]
    assert documents == [{*stored(), "uniqueKey"}] * 4


@pytest.mark.parametrize("mode", ["replaced", "", None, 1, ["return"]], ids=repr)
async def test_an_unknown_word_is_refused_with_those_there_are(
    mode: Any, monque: Monque, raw: Collection[Document]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await monque.enqueue("work", unique_key="k", on_conflict=mode)
    assert (caught.value.argument, caught.value.value) == ("on_conflict", mode)
    assert "one of 'return', 'replace', 'run_after', 'raise'" in str(caught.value)
    assert raw.count_documents({}) == 0


@pytest.mark.parametrize("mode", ["replace", "run_after", "raise"])
async def test_without_a_key_nothing_conflicts(mode: OnConflict, monque: Monque, raw: Collection[Document]) -> None:
    with pytest.raises(InvalidArgumentError, match="on_conflict: expected a unique_key beside it"):
        await monque.enqueue("work", on_conflict=mode)
    assert raw.count_documents({}) == 0


@pytest.mark.parametrize("mode", ["replace", "run_after"])
async def test_a_holder_that_is_no_job_is_named(mode: OnConflict, monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_one(stored(uniqueKey="k", nextRunAt="soon"))
    with pytest.raises(JobDocumentError, match="nextRunAt"):
        await monque.enqueue("work", unique_key="k", on_conflict=mode)


# --- races ----------------------------------------------------------------------------------------------------------


def moving(raw: Collection[Document], commands: Commands, *steps: Document) -> None:
    """Let the holder move on before each attempt to change it."""
    waiting = list(steps)

    def step(command: Document) -> None:
        if waiting and next(iter(command)) == "findAndModify":
            raw.update_one({"uniqueKey": "k"}, waiting.pop(0))

    commands.before = step


PROCESSING, PENDING, COMPLETED = ({"$set": {"status": status}} for status in ("processing", "pending", "completed"))


@pytest.mark.parametrize("steps", [[PROCESSING], [PROCESSING, PENDING, PROCESSING]], ids=["once", "to and fro"])
async def test_a_holder_that_starts_at_this_moment_is_followed_up(
    steps: list[Document], monque: Monque, raw: Collection[Document], commands: Commands
) -> None:
    raw.insert_one(stored(uniqueKey="k"))
    moving(raw, commands, *steps)
    job = await monque.enqueue("work", 1, unique_key="k", on_conflict="replace")
    commands.before = None
    (document,) = raw.find()
    assert job.id == document["_id"]
    assert (document["status"], document["followUp"]["data"]) == ("processing", 1)


@pytest.mark.parametrize("mode", ["replace", "run_after"])
async def test_a_holder_that_is_to_run_again_at_this_moment_takes_the_request_over(
    mode: OnConflict, monque: Monque, raw: Collection[Document], commands: Commands
) -> None:
    raw.insert_one(stored("processing", uniqueKey="k", data=0))
    moving(raw, commands, PENDING)
    job = await monque.enqueue("work", 1, unique_key="k", on_conflict=mode)
    commands.before = None
    (document,) = raw.find()
    assert (job.id, job.status, job.follow_up) == (document["_id"], JobStatus.PENDING, None)
    assert document["data"] == (1 if mode == "replace" else 0)


@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_where_the_holder_ends_at_this_moment_there_is_a_new_job(
    status: str, monque: Monque, raw: Collection[Document], commands: Commands
) -> None:
    raw.insert_one(stored(status, uniqueKey="k"))
    moving(raw, commands, COMPLETED)
    job = await monque.enqueue("work", 1, unique_key="k", on_conflict="replace")
    commands.before = None
    assert raw.count_documents({}) == 2
    assert raw.find_one({"status": "pending"}, {"data": 1}) == {"_id": job.id, "data": 1}


async def test_a_holder_that_becomes_recurring_at_this_moment_is_left_alone(
    monque: Monque, raw: Collection[Document], commands: Commands
) -> None:
    raw.insert_one(stored(uniqueKey="k"))
    moving(raw, commands, {"$set": {"repeatInterval": "@daily"}})
    with pytest.raises(UniqueKeyConflictError, match="recurring"):
        await monque.enqueue("work", 1, unique_key="k", on_conflict="replace")
    commands.before = None
    assert [document["data"] for document in raw.find()] == [{}]


@pytest.mark.parametrize("mode", ["replace", "run_after"])
async def test_a_transaction_can_count_on_a_waiting_job_until_it_ends(
    mode: OnConflict, monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    raw.insert_one(stored(uniqueKey="k"))
    claim = {"$set": {"status": "processing"}}
    async with database.client.start_session() as session:
        async with await session.start_transaction():
            await monque.enqueue("work", 1, unique_key="k", on_conflict=mode, session=session)
            claiming = asyncio.ensure_future(database["monque_jobs"].update_one({"status": "pending"}, claim))
            # The claim is at the server, and gets no further than this.
            update = {"op": "update", "ns": f"{raw.database.name}.monque_jobs", "writeConflicts": {"$gt": 0}}
            await eventually(
                lambda: list(raw.database.client.admin.aggregate([{"$currentOp": {}}, {"$match": update}]))
            )
            assert not claiming.done()
        assert (await claiming).modified_count == 1
    (document,) = raw.find()
    assert (document["status"], document["data"]) == ("processing", 1 if mode == "replace" else {})


@pytest.mark.parametrize("mode", ["replace", "run_after"])
@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_an_aborted_transaction_leaves_the_holder_alone(
    mode: OnConflict, status: str, monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    before = stored(status, uniqueKey="k")
    raw.insert_one(before)
    async with database.client.start_session() as session:
        await session.start_transaction()
        await monque.enqueue("work", 1, unique_key="k", on_conflict=mode, session=session)
        await session.abort_transaction()
    assert list(raw.find()) == [before]


async def test_transactions_that_replace_at_the_same_time_all_succeed(
    monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    def replacing(number: int) -> Callable[[AsyncClientSession], Awaitable[Job[Any]]]:
        return lambda session: monque.enqueue("work", number, unique_key="k", on_conflict="replace", session=session)

    async def caller(number: int) -> Job[Any]:
        async with database.client.start_session() as session:
            return await session.with_transaction(replacing(number))

    jobs = await asyncio.gather(*(caller(number) for number in range(5)))
    (document,) = raw.find()
    assert {job.id for job in jobs} == {document["_id"]}
    assert sorted(job.data for job in jobs) == list(range(5))


# --- what leaves nothing over ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_a_cancelled_job_has_no_follow_up(status: str, monque: Monque, raw: Collection[Document]) -> None:
    document = stored(status, uniqueKey="k", **FOLLOW_UP)
    raw.insert_one(document)
    job = await monque.jobs.cancel(document["_id"])
    assert job is not None
    assert (job.status, job.follow_up) == (JobStatus.CANCELLED, None)


async def test_a_revived_job_has_no_follow_up(monque: Monque, raw: Collection[Document]) -> None:
    # Of a run that Node settled, for instance.
    document = stored("failed", uniqueKey="k", **FOLLOW_UP)
    raw.insert_one(document)
    job = await monque.jobs.retry(document["_id"])
    assert job is not None
    assert (job.data, job.follow_up) == ({}, None)


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_a_schedule_takes_the_place_of_a_follow_up(
    status: str, timezone: str, monque: Monque, raw: Collection[Document]
) -> None:
    raw.insert_one(stored(status, uniqueKey="k", **FOLLOW_UP))
    job = await monque.schedule("@daily", "work", 1, unique_key="k", timezone=timezone)
    assert (job.data, job.repeat_interval, job.follow_up) == (1, "@daily", None)


async def test_a_change_of_the_holder_that_the_server_refuses_is_an_error(
    monque: Monque, raw: Collection[Document]
) -> None:
    raw.insert_one(stored(uniqueKey="k", data={}))
    refuse(raw.database, data=1)
    # The new job would be refused as well, but for the key.
    with pytest.raises(ConnectionError, match="Document failed validation"):
        await monque.enqueue("work", 1, unique_key="k", on_conflict="replace")
    assert [document["data"] for document in raw.find()] == [{}]


@pytest.mark.parametrize("way", ["plain", "session"])
async def test_a_follow_up_that_does_not_fit_beside_the_data_of_the_run_is_refused(
    way: str, monque: Monque, database: AsyncDatabase[Document], raw: Collection[Document]
) -> None:
    half = b"x" * (9 * 1024 * 1024)
    before = stored("processing", uniqueKey="k", data=half)
    raw.insert_one(before)
    request = NewJob(name="work", data=half, unique_key="k", on_conflict="replace")
    with pytest.raises(PayloadTooLargeError, match=r"expected at most 7,.* bytes of BSON, got 9,"):
        await ask(monque, way, database, request)
    assert list(raw.find()) == [before]
    # While it waits, there is nothing beside it.
    raw.update_one({}, {"$set": {"status": "pending"}})
    assert (await ask(monque, way, database, request)).data == half
