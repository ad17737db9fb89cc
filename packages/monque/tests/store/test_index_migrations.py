"""Indexes change from version to version, and are made by hand, dropped and built while instances are at work."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import ASCENDING, DESCENDING, IndexModel

from monque import ConnectionError, IndexConflictError, JobFilter, Monque, Options
from monque._store import indexes, mending
from monque._store.flow import Flow, job_collection
from monque._store.mending import Mender, fix
from monque.testing import eventually

from .support import stored

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.collection import Collection
    from pymongo.database import Database

    from monque.events import JobErrorEvent

    from .support import Document, Lab

PENDING = {"status": "pending"}
CLAIM_KEY = [("name", ASCENDING), ("priority", DESCENDING), ("nextRunAt", ASCENDING), ("_id", ASCENDING)]

# What each name has stood for since it was first used. Never change a line: a version that is being replaced names the
# same index as the one that takes its place. Another definition is another name, and the old one goes to `RETIRED`.
DEFINITIONS: dict[str, Document] = {
    "monque_claim": {"key": CLAIM_KEY, "partialFilterExpression": {"status": "pending"}},
    "monque_due": {
        "key": [("name", 1), ("nextRunAt", 1)],
        "partialFilterExpression": {"status": "pending", "priority": {"$exists": True}},
    },
    "monque_lease": {"key": [("lastHeartbeat", 1)], "partialFilterExpression": {"status": "processing"}},
    "monque_unique": {
        "key": [("name", 1), ("uniqueKey", 1)],
        "unique": True,
        "partialFilterExpression": {
            "uniqueKey": {"$exists": True},
            "status": {"$in": ["pending", "processing"]},
        },
    },
    "monque_settled": {
        "key": [("status", 1), ("name", 1), ("updatedAt", 1)],
        "partialFilterExpression": {"status": {"$in": ["completed", "failed", "cancelled"]}},
    },
    "monque_urgent": {
        "key": [("name", 1), ("nextRunAt", 1), ("_id", 1)],
        "partialFilterExpression": {"status": "pending", "priority": {"$exists": True}},
    },
    "monque_ended": {
        "key": [("status", 1), ("name", 1), ("updatedAt", 1), ("_id", 1)],
        "partialFilterExpression": {"status": {"$in": ["completed", "failed", "cancelled"]}},
    },
    "monque_created": {"key": [("name", 1), ("createdAt", 1), ("_id", 1)]},
    "monque_undone": {
        "key": [("status", 1), ("name", 1), ("createdAt", 1), ("_id", 1)],
        "partialFilterExpression": {"status": {"$in": ["failed", "cancelled"]}},
    },
    "monque_key": {
        "key": [("name", 1), ("uniqueKey", 1), ("createdAt", 1), ("_id", 1)],
        "partialFilterExpression": {"uniqueKey": {"$exists": True}},
    },
    "monque_tags": {
        "key": [("tags", 1), ("createdAt", 1), ("_id", 1)],
        "partialFilterExpression": {"tags": {"$exists": True}},
    },
    "monque_expiry": {
        "key": [("expireAt", 1)],
        "expireAfterSeconds": 0,
        "partialFilterExpression": {
            "expireAt": {"$exists": True},
            "status": {"$in": ["completed", "failed", "cancelled"]},
        },
    },
}


def later(key: list[tuple[str, Any]], name: str = "monque_claim_2", **options: Any) -> IndexModel:
    """An index as a later version may define it."""
    return IndexModel(key, name=name, **options)


LATER = [
    later([("name", ASCENDING), ("nextRunAt", ASCENDING)], partialFilterExpression=PENDING),
    *[model for model in indexes.models() if indexes.name_of(model) != indexes.CLAIM],
]
REPLACED = [model for model in indexes.models() if indexes.name_of(model) == indexes.CLAIM]


def names(raw: Collection[Document]) -> set[str]:
    return {name for name in raw.index_information() if name != "_id_"}


NOW = {indexes.name_of(model) for model in indexes.models()}


def test_a_name_stands_for_one_definition_for_ever() -> None:
    models = [*indexes.models(), indexes.expiry(), *indexes.RETIRED]
    assert {indexes.name_of(model): indexes.definition(model.document) for model in models} == DEFINITIONS


async def test_the_server_lists_what_was_asked_for(
    collection: AsyncCollection[Document], raw: Collection[Document]
) -> None:
    await indexes.create(collection, [indexes.expiry(), *indexes.RETIRED])
    listed = await indexes.existing(collection)
    assert {name: indexes.definition(index) for name, index in listed.items() if name != "_id_"} == DEFINITIONS
    assert {name: indexes.definition(index) for name, index in listed.items() if name in names(raw)} == DEFINITIONS


# --- an old and a new version at once -------------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", ["old", "new"])
async def test_in_a_rolling_deploy_each_version_finds_what_it_names(
    database: Any, raw: Collection[Document], is_first: str
) -> None:
    collection = job_collection(database, "monque_jobs")
    versions = {"old": indexes.models(), "new": LATER}
    order = [versions[is_first], *versions.values(), versions[is_first]]
    for wanted in order:
        assert await indexes.create(collection, wanted) == []
    assert names(raw) == NOW | {"monque_claim_2"}
    raw.insert_one(stored())
    for name in ("monque_claim", "monque_claim_2"):
        assert raw.count_documents(PENDING, hint=name) == 1


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version, which uses another index in place of `monque_claim`."""
    monkeypatch.setattr(indexes, "RETIRED", REPLACED)


async def test_the_indexes_of_the_first_versions_are_known(
    collection: AsyncCollection[Document], raw: Collection[Document]
) -> None:
    raw.create_indexes(indexes.RETIRED)
    assert names(raw) == NOW | {"monque_due", "monque_settled", "monque_undone"}
    assert (await fix(collection, indexes.models())).dropped == ()
    dropped = (await fix(collection, indexes.models(), drop_old=True)).dropped
    assert dropped == ("monque_due", "monque_settled", "monque_undone")
    assert names(raw) == NOW


@pytest.mark.usefixtures("replaced")
async def test_what_an_earlier_version_made_goes_when_somebody_says_so(
    collection: AsyncCollection[Document], raw: Collection[Document]
) -> None:
    done = await fix(collection, LATER)
    assert (done.created, done.dropped, done.problems) == (("monque_claim_2",), (), ())
    assert names(raw) == NOW | {"monque_claim_2"}
    done = await fix(collection, LATER, drop_old=True)
    assert (done.created, done.dropped, done.problems) == ((), ("monque_claim",), ())
    assert names(raw) == NOW - {"monque_claim"} | {"monque_claim_2"}
    assert (await fix(collection, LATER, drop_old=True)).dropped == ()


@pytest.mark.usefixtures("replaced")
async def test_an_instance_of_the_earlier_version_makes_its_index_again(
    collection: AsyncCollection[Document], raw: Collection[Document]
) -> None:
    flow = Flow(collection, Mender(collection, indexes.models()))
    raw.insert_one(stored())
    assert (await fix(collection, LATER, drop_old=True)).dropped == ("monque_claim",)
    assert len((await flow.look({"work": 1}, 1)).candidates) == 1
    assert names(raw) == NOW | {"monque_claim_2"}


async def test_what_others_made_is_left_alone(
    collection: AsyncCollection[Document], raw: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw.create_index([("data.customer", 1)], name="customers")
    raw.create_index([("nextRunAt", 1)], name="monque_retired")
    old = later([("nextRunAt", 1)], "monque_retired", partialFilterExpression=PENDING)
    monkeypatch.setattr(indexes, "RETIRED", [old])
    assert (await fix(collection, indexes.models(), drop_old=True)).dropped == ()
    assert names(raw) == NOW | {"customers", "monque_retired"}


# --- another one in its place ---------------------------------------------------------------------------------------


async def test_a_slower_index_of_the_name_is_reported_and_works(
    monque_uri: str, raw: Collection[Document], caplog: pytest.LogCaptureFixture
) -> None:
    raw.create_index([("name", 1)], name=indexes.CLAIM)
    events: list[JobErrorEvent] = []
    monque = Monque(monque_uri)
    monque.on("job:error", events.append)
    done = asyncio.Event()
    monque.on("job:complete", lambda _: done.set())

    @monque.worker("work")
    async def work() -> None:
        """Nothing."""

    async with monque:
        await monque.start()
        await work.enqueue()
        await asyncio.wait_for(done.wait(), 10)
    (error,) = [event.error for event in events]
    assert isinstance(error, IndexConflictError)
    assert (error.index, error.is_usable) == (indexes.CLAIM, True)
    assert "there is another one of that name, on {'key': [('name', 1)]}" in error.problem
    assert "monque doctor" in caplog.text
    assert names(raw) == NOW

    async with Monque(monque_uri) as monque:
        fixed = await monque.fix_indexes()
    assert (fixed.created, fixed.dropped, fixed.problems) == ((indexes.CLAIM,), (indexes.CLAIM,), ())
    async with Monque(monque_uri) as monque:
        assert (await monque.fix_indexes()).created == ()


@pytest.mark.parametrize(
    ("name", "key", "options", "problem"),
    [
        # The server believes a hint, and shows nothing of what is not in the index.
        (indexes.CLAIM, CLAIM_KEY, {"partialFilterExpression": {"status": "failed"}}, "another one of that name"),
        (indexes.CLAIM, [("name", 1)], {"sparse": True}, "another one of that name"),
        (indexes.CLAIM, CLAIM_KEY, {"partialFilterExpression": PENDING, "hidden": True}, "it is hidden"),
        ("by_hand", CLAIM_KEY, {"partialFilterExpression": PENDING}, "'by_hand' has the same definition"),
        (indexes.UNIQUE, [("name", 1), ("uniqueKey", 1)], {}, "another one of that name"),
        (indexes.CREATED, [("name", 1)], {"partialFilterExpression": PENDING}, "another one of that name"),
    ],
)
async def test_one_that_does_not_serve_is_refused(
    monque_uri: str, raw: Collection[Document], name: str, key: Any, options: Any, problem: str
) -> None:
    raw.create_index(key, name=name, **options)
    with pytest.raises(IndexConflictError, match=problem) as caught:
        await Monque(monque_uri).initialize()
    assert not caught.value.is_usable
    # What could be made was made.
    assert names(raw) >= NOW - {indexes.CLAIM, indexes.UNIQUE, indexes.CREATED}
    async with Monque(monque_uri, Options(create_indexes=False)) as monque:
        fixed = await monque.fix_indexes()
    if name == "by_hand":
        (remaining,) = fixed.problems
        assert remaining.index == indexes.CLAIM
        assert "by_hand" in names(raw)
    else:
        assert fixed.problems == ()
        assert names(raw) == NOW


async def test_an_expiry_of_another_kind_is_reported_only(monque_uri: str, raw: Collection[Document]) -> None:
    from monque import Retention

    raw.create_index([("expireAt", 1)], name=indexes.EXPIRY, expireAfterSeconds=60)
    events: list[JobErrorEvent] = []
    monque = Monque(monque_uri, Options(retention=Retention(completed=1)))
    monque.on("job:error", events.append)
    async with monque:
        await eventually(lambda: events)
        assert (await monque.fix_indexes()).dropped == (indexes.EXPIRY,)
    assert raw.index_information()[indexes.EXPIRY]["expireAfterSeconds"] == 0


async def test_two_jobs_of_one_key_are_named(monque_uri: str, raw: Collection[Document]) -> None:
    raw.insert_many([stored(uniqueKey="k"), stored(uniqueKey="k")])
    with pytest.raises(IndexConflictError, match=r"cannot be created: .*uniqueKey: \"k\""):
        await Monque(monque_uri).initialize()
    assert names(raw) == NOW - {indexes.UNIQUE}


# --- open transactions ----------------------------------------------------------------------------------------------


async def test_connecting_waits_for_no_open_transaction(monque_uri: str, monque_database: Database[Document]) -> None:
    async with Monque(monque_uri):
        pass
    jobs = monque_database["monque_jobs"]
    job = stored()
    jobs.insert_one(job)
    with monque_database.client.start_session() as session, session.start_transaction():
        jobs.update_one({"_id": job["_id"]}, {"$set": {"data": {"seen": True}}}, session=session)
        # The transaction ends after this only: whoever waited for it would wait for ever.
        async with asyncio.timeout(10), Monque(monque_uri) as monque:
            assert (await monque.enqueue("work")).name == "work"


async def test_one_that_is_missing_waits_for_an_open_transaction_and_reads_go_on(
    collection: AsyncCollection[Document], monque_database: Database[Document]
) -> None:
    jobs = monque_database["monque_jobs"]
    jobs.drop_index(indexes.CLAIM)
    job = stored()
    jobs.insert_one(job)
    with monque_database.client.start_session() as session:
        session.start_transaction()
        jobs.update_one({"_id": job["_id"]}, {"$set": {"data": {"seen": True}}}, session=session)
        creating = asyncio.create_task(indexes.create(collection))

        def is_waiting() -> bool:
            operations = monque_database.client.admin.aggregate([{"$currentOp": {"localOps": True}}])
            return any(
                operation.get("waitingForLock") and operation.get("command", {}).get("createIndexes") == "monque_jobs"
                for operation in operations
                if operation.get("ns", "").startswith(monque_database.name)
            )

        await eventually(is_waiting)
        assert await collection.find_one({"_id": job["_id"]}) is not None
        assert not creating.done()
        session.commit_transaction()
    assert await creating == []
    assert names(jobs) == NOW


def beginning(uri: str) -> subprocess.Popen[bytes]:
    """Another process, which connects."""
    program = """if True:
        import asyncio, sys
        from monque import Monque

        asyncio.run(Monque(sys.argv[1]).initialize())
    """
    return subprocess.Popen([sys.executable, "-c", program, uri])


async def test_a_build_goes_on_when_who_began_it_is_killed(lab: Lab) -> None:
    lab.jobs.insert_one(stored())
    lab.client.admin.command("configureFailPoint", "hangAfterStartingIndexBuild", mode="alwaysOn")
    try:
        with beginning(lab.uri) as process:
            await eventually(lambda: names(lab.jobs) >= NOW, timeout=30)
            process.kill()
    finally:
        lab.client.admin.command("configureFailPoint", "hangAfterStartingIndexBuild", mode="off")
    async with lab.connected() as database:
        collection = job_collection(database, "monque_jobs")
        assert await indexes.create(collection) == []
        assert len((await Flow(collection).look({"work": 1}, 1)).candidates) == 1
        builds = await collection.aggregate([{"$indexStats": {}}])
        assert [row["name"] async for row in builds if row.get("building")] == []


# --- gone while at work ---------------------------------------------------------------------------------------------


async def test_indexes_that_are_gone_are_made_again(
    collection: AsyncCollection[Document], raw: Collection[Document]
) -> None:
    flow = Flow(collection, Mender(collection, indexes.models()))
    raw.drop()
    assert (await flow.look({"work": 1}, 1)).candidates == []  # of what is not there the server believes any hint
    raw.insert_one(stored())
    assert len((await flow.look({"work": 1}, 1)).candidates) == 1
    assert names(raw) == NOW
    raw.drop_indexes()
    assert (await flow.survey(["work"], 0)).now is None
    assert names(raw) == NOW
    raw.drop_index(indexes.CLAIM)
    assert len((await flow.look({"work": 1}, 1)).candidates) == 1


async def test_a_key_that_two_jobs_have_by_then_is_reported_and_the_others_run(
    collection: AsyncCollection[Document], raw: Collection[Document]
) -> None:
    flow = Flow(collection, Mender(collection, indexes.models()))
    raw.drop()
    raw.insert_many([stored(uniqueKey="k"), stored(uniqueKey="k")])
    with pytest.raises(IndexConflictError, match="monque_unique"):
        await flow.look({"work": 1}, 1)
    assert len((await flow.look({"work": 2}, 2)).candidates) == 2


async def test_whoever_is_not_to_create_indexes_says_what_is_missing(
    collection: AsyncCollection[Document], raw: Collection[Document], monque_uri: str
) -> None:
    raw.insert_one(stored())
    raw.drop_indexes()
    with pytest.raises(ConnectionError, match="monque doctor --fix-indexes"):
        await Flow(collection).look({"work": 1}, 1)
    async with Monque(monque_uri, Options(create_indexes=False)) as monque:
        with pytest.raises(ConnectionError, match="cannot delete the jobs: an index that Monque needs is missing"):
            await monque.jobs.delete_many(JobFilter(name="work"))
    assert names(raw) == set()


async def test_a_question_that_fails_for_another_reason_mends_nothing(lab: Lab) -> None:
    async with lab.connected() as database:
        flow = Flow(job_collection(database, "monque_jobs"), Mender(database["monque_jobs"], indexes.models()))
        with lab.failing("find", errorCode=8000), pytest.raises(Exception, match="failCommand"):
            await flow.look({"work": 1}, 1)
    assert lab.database.list_collection_names() == []


async def test_building_one_anew_may_take_longer_than_a_question(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "_PATIENCE", 0.01)
    lab.jobs.insert_one(stored())
    hang = partial(lab.client.admin.command, "configureFailPoint", "hangAfterStartingIndexBuild")
    async with lab.connected() as database:
        collection = job_collection(database, "monque_jobs")
        mender = Mender(collection, indexes.models())
        flow = Flow(collection, mender)
        hang(mode="alwaysOn")
        try:
            for _ in range(2):
                with pytest.raises(ConnectionError, match="is being built again"):
                    await flow.look({"work": 1}, 1)
        finally:
            hang(mode="off")

        async def found() -> bool:
            try:
                return len((await flow.look({"work": 1}, 1)).candidates) == 1
            except ConnectionError:
                return False

        await eventually(found)
        await mender.close()


async def test_closing_waits_for_no_index(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mending, "_PATIENCE", 0.01)
    lab.jobs.insert_one(stored())
    hang = partial(lab.client.admin.command, "configureFailPoint", "hangAfterStartingIndexBuild")
    hang(mode="alwaysOn")
    try:
        async with lab.connected() as database:
            collection = job_collection(database, "monque_jobs")
            mender = Mender(collection, indexes.models())
            with pytest.raises(ConnectionError, match="is being built again"):
                await Flow(collection, mender).look({"work": 1}, 1)
            await mender.close()
    finally:
        hang(mode="off")
