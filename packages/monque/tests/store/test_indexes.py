"""What the server does to answer the engine: an index for everything, and no more keys than there are answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import DuplicateKeyError

from monque import JobStatus, Monque, NewJob, Options
from monque import _transitions as transitions
from monque._recovery import plan_recovery
from monque._store import indexes
from monque._store.flow import Flow, job_collection
from monque.testing.plugin import with_database

from .support import FUTURE, PAST, Commands, explain, statements, stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from pymongo import MongoClient
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.database import Database

    from .support import Document, Plan

NAMES = [f"name-{number}" for number in range(20)]
FEW = 5
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def crowded(monque_client: MongoClient[Document]) -> Generator[str]:
    """A database with 100,000 jobs that have ended, 100,000 of the future, and a few that are due or held."""
    name = f"monque_test_crowded_{NOW:%H%M%S%f}"
    jobs = monque_client[name]["monque_jobs"]
    jobs.create_indexes(indexes.models())
    for batch in range(20):
        times = [timedelta(seconds=batch * 5000 + number) for number in range(5000)]
        jobs.insert_many(
            [stored("completed", name=NAMES[n % 20], settledBy="t", updatedAt=PAST + t) for n, t in enumerate(times)],
            ordered=False,
        )
        jobs.insert_many(
            [
                stored(name=NAMES[n % 20], nextRunAt=FUTURE + t, priority=(n % 21 - 10 or None) if n % 3 == 0 else None)
                for n, t in enumerate(times)
            ],
            ordered=False,
        )
    jobs.insert_many(stored(name=name, nextRunAt=PAST + n * timedelta(1)) for name in NAMES for n in range(FEW))
    jobs.insert_many(stored(name=name, priority=5) for name in NAMES[:3] for _ in range(FEW))
    jobs.insert_many(stored("processing", name=name) for name in NAMES for _ in range(FEW))
    jobs.insert_many(stored(name=NAMES[0], uniqueKey=str(number), nextRunAt=FUTURE) for number in range(1000))
    yield name
    monque_client.drop_database(name)


class Crowd:
    """The crowded database, and how the server is about to do what it is told."""

    def __init__(self, database: Database[Document], flow: Flow, commands: Commands) -> None:
        self.jobs = database["monque_jobs"]
        self.flow = flow
        self.plans: list[Plan] = []
        self._database = database
        commands.before = self._note

    def _note(self, command: Document) -> None:
        self.plans += [explain(self._database, statement) for statement in statements(command)]

    def cost(self, *, merged: bool = False, sorted: bool = False) -> int:  # noqa: A002  as the stages are called
        """Keys examined; nothing is read but through an index, and nothing sorted unless that is expected."""
        stages = set[str]().union(*(plan.stages for plan in self.plans))
        assert "COLLSCAN" not in stages
        assert "SORT" not in stages or sorted
        assert ("SORT_MERGE" in stages) is merged
        keys = sum(plan.keys for plan in self.plans)
        assert sum(plan.documents for plan in self.plans) <= keys
        self.plans.clear()
        return keys


@pytest.fixture
async def crowd(
    monque_server: str, monque_client: MongoClient[Document], crowded: str, commands: Commands
) -> AsyncGenerator[Crowd]:
    from pymongo import AsyncMongoClient

    uri = with_database(monque_server, crowded)
    async with AsyncMongoClient[dict[str, Any]](uri, tz_aware=True, event_listeners=[commands]) as client:
        flow = Flow(job_collection(client.get_default_database(), "monque_jobs"))
        crowd = Crowd(monque_client[crowded], flow, commands)
        yield crowd
        commands.before = None


async def test_looking_for_due_jobs_examines_what_it_returns(crowd: Crowd) -> None:
    # In each range of a name and a priority, the first key that is not due is met as well: 21 priorities at most.
    sighting = await crowd.flow.look({NAMES[4]: 2 * FEW}, 2 * FEW)
    assert len(sighting.candidates) == FEW
    assert FEW <= crowd.cost() <= FEW + 2 * 21

    sighting = await crowd.flow.look({NAMES[4]: FEW}, FEW)
    assert len(sighting.candidates) == FEW
    assert FEW <= crowd.cost() <= FEW + 2 * 21


async def test_looking_for_many_names_merges_their_ranges(crowd: Crowd) -> None:
    everything = await crowd.flow.look(dict.fromkeys(NAMES, 100), 2000)
    assert len(everything.candidates) == 20 * FEW + 3 * FEW
    found = len(everything.candidates)
    assert found <= crowd.cost(merged=True) <= found + 20 * 2 * 21

    first = await crowd.flow.look(dict.fromkeys(NAMES, 1), 20)
    assert len(first.candidates) == 20
    assert 20 <= crowd.cost(merged=True) <= 20 + 20 * 2 * 21


async def test_looking_for_each_of_many_names_examines_what_it_returns(crowd: Crowd) -> None:
    # The first three names have prioritised jobs that fill the limit: the others are asked for one by one.
    sighting = await crowd.flow.look(dict.fromkeys(NAMES, FEW), 10)
    found = len(sighting.candidates)
    assert found > 10
    assert found <= crowd.cost(merged=True) <= found + 10 + 30 * 2 * 21


async def test_looking_ahead_costs_the_same_whatever_lies_ahead(crowd: Crowd) -> None:
    survey = await crowd.flow.survey(NAMES, 0)
    assert survey.next_due == FUTURE
    assert len(survey.leases) == 20 * FEW
    # One key or two for each name and kind of job, and one for each lease.
    assert 20 * FEW <= crowd.cost(merged=True) <= 20 * FEW + 2 * 2 * 20 + 2


async def test_looking_ahead_for_hundreds_of_names_costs_the_same(crowd: Crowd) -> None:
    names = [*NAMES, *(f"idle-{number}" for number in range(400))]
    assert (await crowd.flow.survey(names, 0)).next_due == FUTURE
    # Where a hundred names have no jobs at all, the server takes any plan, also one that would sort them.
    assert crowd.cost(merged=True, sorted=True) <= 20 * FEW + 3 * 2 * len(names)


async def test_claiming_and_settling_examine_what_they_change(crowd: Crowd) -> None:
    sighting = await crowd.flow.look({NAMES[7]: FEW}, FEW)
    jobs = [candidate.id for candidate in sighting.candidates]
    crowd.plans.clear()
    claimed = await crowd.flow.claim(jobs, token="T", instance="I", heartbeat_interval=10)  # noqa: S106  of a claim
    assert len(claimed.jobs) == FEW
    # Once to take them, once to read them; there may be a seek to the next id for each.
    assert 2 * FEW <= crowd.cost() <= 4 * FEW

    done, failed, *back = jobs
    settled = await crowd.flow.settle(
        [
            transitions.complete([done], "T", now=NOW),
            transitions.fail(failed, "T", fail_count=1, reason="no"),
            transitions.release(back, "T"),
        ]
    )
    assert (settled.lost, settled.refused) == (set(), {})
    assert FEW <= crowd.cost() <= 2 * FEW


async def test_a_lost_settle_examines_the_jobs_it_is_about(crowd: Crowd) -> None:
    jobs = [document["_id"] for document in crowd.jobs.find({"status": "completed"}).limit(FEW)]
    assert (await crowd.flow.settle([transitions.complete(jobs, "T", now=NOW)])).lost == set(jobs)
    assert 2 * FEW <= crowd.cost() <= 4 * FEW
    assert await crowd.flow.reread(jobs[0], "T") is None
    assert crowd.cost() == 1


async def test_taking_back_examines_the_jobs_it_is_about(crowd: Crowd) -> None:
    survey = await crowd.flow.survey(NAMES, 0)
    recovery = plan_recovery(survey.leases[:FEW], now=NOW, timeout=30, max_attempts=lambda _: 10)
    crowd.plans.clear()
    assert await crowd.flow.recover(recovery.requeue) == FEW
    assert crowd.cost() == FEW


async def test_the_holders_of_keys_are_found_by_their_keys(crowd: Crowd, commands: Commands) -> None:
    async with Monque(crowd.flow.collection.database, Options(create_indexes=False)) as monque:
        crowd.plans.clear()
        many = [NewJob(name=NAMES[0], unique_key=str(number)) for number in range(0, 1000, 100)]
        commands.sent.clear()
        jobs = await monque.enqueue_many(many)
    assert {job.next_run_at for job in jobs} == {FUTURE}
    find = commands.named("find")
    assert len(find) == 1
    plans = [plan for plan in crowd.plans if plan.indexes]
    assert [plan.indexes for plan in plans] == [{indexes.UNIQUE}]
    assert 10 <= crowd.cost() <= 2 * 10 + 1


# --- the indexes themselves -----------------------------------------------------------------------------------------


async def test_connecting_creates_what_is_missing(monque_uri: str, monque_database: Database[Document]) -> None:
    for _ in range(2):
        async with Monque(monque_uri):
            pass
    existing = monque_database["monque_jobs"].index_information()
    assert set(existing) == {
        "_id_",
        indexes.CLAIM,
        indexes.URGENT,
        indexes.LEASE,
        indexes.UNIQUE,
        indexes.ENDED_AT,
        indexes.CREATED,
        indexes.KEY,
        indexes.TAGS,
    }
    assert [name for name, index in existing.items() if index.get("unique")] == [indexes.UNIQUE]


async def test_the_database_refuses_a_second_pending_or_processing_job_of_a_key(
    monque_uri: str, monque_database: Database[Document]
) -> None:
    async with Monque(monque_uri):
        pass
    jobs = monque_database["monque_jobs"]
    ended = [stored(status, uniqueKey="k") for status in ("completed", "failed", "cancelled") for _ in range(2)]
    jobs.insert_many([stored(uniqueKey="k"), stored(name="other", uniqueKey="k"), stored(), stored(), *ended])
    for status in ("pending", "processing"):
        with pytest.raises(DuplicateKeyError):
            jobs.insert_one(stored(status, uniqueKey="k"))
    with pytest.raises(DuplicateKeyError):
        jobs.update_one({"_id": ended[0]["_id"]}, {"$set": {"status": "pending"}})


async def test_connecting_creates_nothing_if_told_so(monque_uri: str, monque_database: Database[Document]) -> None:
    async with Monque(monque_uri, Options(create_indexes=False)):
        pass
    assert monque_database.list_collection_names() == []


async def test_a_job_is_in_the_indexes_of_its_status_only(
    database: AsyncDatabase[Document], monque_database: Database[Document]
) -> None:
    collection = job_collection(database, "monque_jobs")
    await indexes.create(collection)
    await collection.insert_many(
        [stored(status, priority=1, uniqueKey=status, tags=["a", "b"]) for status in JobStatus]
    )
    found: dict[str, set[str]] = {}
    for name in (indexes.CLAIM, indexes.URGENT, indexes.LEASE, indexes.ENDED_AT):
        found[name] = await _indexed(collection, name)
    assert found == {
        indexes.CLAIM: {"pending"},
        indexes.URGENT: {"pending"},
        indexes.LEASE: {"processing"},
        indexes.ENDED_AT: {"completed", "failed", "cancelled"},
    }
    keys = monque_database.command("validate", "monque_jobs")["keysPerIndex"]
    assert keys == {
        "_id_": 5,
        "monque_claim": 1,
        "monque_urgent": 1,
        "monque_lease": 1,
        "monque_unique": 2,
        "monque_ended": 3,
        "monque_created": 5,
        "monque_key": 5,
        "monque_tags": 10,
    }


async def _indexed(collection: Any, index: str) -> set[str]:
    """The statuses of the jobs in an index that is made for some of them."""
    (partial,) = [
        model.document["partialFilterExpression"] for model in indexes.models() if model.document["name"] == index
    ]
    return {document["status"] async for document in collection.find(partial, hint=index)}
