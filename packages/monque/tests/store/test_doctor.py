"""What the doctor finds."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from bson import Timestamp
from pymongo import IndexModel

from monque import Diagnosis, Finding, IndexConflictError, Job, JobFilter, Monque, Options, Retention, Severity
from monque._store import indexes
from monque._store.doctor import plans, server
from monque._store.doctor.patient import few, span
from monque._store.doctor.plans import Plan, judge
from monque.testing import eventually

from .support import FUTURE, explain, spoil_text, statements, stored

if TYPE_CHECKING:
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.collection import Collection
    from pymongo.database import Database

    from monque._store.flow import Flow

    from .support import Commands, Document, Lab

OK, UNKNOWN, WARNING, ERROR = Severity
LEFT_ALONE = Options(create_indexes=False)


async def diagnose(uri: str, options: Options = LEFT_ALONE) -> dict[str, Finding]:
    async with Monque(uri, options) as monque:
        diagnosis = await monque.diagnose()
    found = {finding.check: finding for finding in diagnosis.findings}
    assert len(found) == len(diagnosis.findings)
    return found


def bad(found: dict[str, Finding]) -> dict[str, Severity]:
    return {check: finding.severity for check, finding in found.items() if finding.severity is not OK}


# --- in good health -------------------------------------------------------------------------------------------------


async def test_a_queue_at_work_is_in_good_health(monque_uri: str) -> None:
    monque = Monque(monque_uri, Options(retention=Retention(completed=timedelta(days=1))))

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        """Nothing."""

    async with monque:
        await monque.start()
        job = await monque.enqueue("work", priority=3)
        await monque.enqueue("work", unique_key="k", delay=3600)
        await monque.jobs.result(job.id)
        diagnosis = await monque.diagnose()
    assert diagnosis.severity is OK, diagnosis.of(UNKNOWN, WARNING, ERROR)
    assert not [finding.advice for finding in diagnosis.findings if finding.advice]
    checks = [finding.check for finding in diagnosis.findings]
    assert checks == [
        "server.version",
        "server.compatibility",
        "server.topology",
        "server.majority",
        "server.oplog",
        "server.stream",
        "clock",
        "collection",
        *(f"index.{indexes.name_of(model)}" for model in (*indexes.models(), indexes.expiry())),
        "indexes.used",
        "retention",
        "plan.claim",
        "plan.survey",
        "plan.settle",
        "plan.unique",
        "jobs.overdue",
        "jobs.leases",
        "jobs.documents",
    ]


async def test_of_a_collection_that_is_not_there_nothing_is_missing_and_nothing_is_made(
    monque_uri: str, monque_database: Database[Document]
) -> None:
    found = await diagnose(monque_uri)
    assert bad(found) == {}
    assert "is not there yet" in found["collection"].seen
    assert monque_database.list_collection_names() == []


async def test_it_writes_nothing(database: AsyncDatabase[Document], commands: Commands) -> None:
    await database["monque_jobs"].insert_many([stored(), stored(uniqueKey="k"), stored("processing")])
    async with Monque(database, LEFT_ALONE) as monque:
        commands.sent.clear()
        await monque.diagnose()
    assert {next(iter(command)) for command in commands.sent} <= {
        "hello",
        "buildInfo",
        "getParameter",
        "replSetGetStatus",
        "find",
        "aggregate",
        "getMore",
        "killCursors",
        "listCollections",
        "listIndexes",
        "explain",
        "count",
        "endSessions",
    }
    for command in commands.named("aggregate"):
        assert not {"$out", "$merge"} & {stage for part in command["pipeline"] for stage in part}


def test_a_diagnosis_is_as_bad_as_its_worst_finding() -> None:
    findings = [Finding(str(severity), severity, "") for severity in (OK, ERROR, UNKNOWN, WARNING)]
    assert [Diagnosis(tuple(findings[:number])).severity for number in range(5)] == [OK, OK, ERROR, ERROR, ERROR]
    assert Diagnosis((findings[2], findings[3])).severity is WARNING
    assert Diagnosis(tuple(findings)).of(OK, UNKNOWN) == (findings[0], findings[2])


# --- indexes --------------------------------------------------------------------------------------------------------


async def test_an_index_that_is_missing(monque_uri: str, monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_one(stored(nextRunAt=FUTURE))
    raw.drop_index(indexes.CLAIM)
    found = await diagnose(monque_uri)
    assert bad(found) == {
        "index.monque_claim": ERROR,
        "plans": ERROR,
        "jobs.overdue": ERROR,
    }
    assert found["index.monque_claim"].seen == "it is missing"
    assert "--fix-indexes" in str(found["index.monque_claim"].advice)
    await monque.fix_indexes()
    assert bad(await diagnose(monque_uri)) == {}


async def test_another_index_that_is_missing(monque_uri: str, monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_one(stored(nextRunAt=FUTURE))
    raw.drop_index(indexes.UNIQUE)
    assert bad(await diagnose(monque_uri)) == {"index.monque_unique": ERROR, "plan.unique": ERROR}


@pytest.mark.parametrize(
    ("index", "options", "severity", "words"),
    [
        ([("name", 1)], {"name": indexes.CLAIM}, WARNING, "which replaces it"),
        ([("name", 1), ("uniqueKey", 1)], {"name": indexes.UNIQUE}, ERROR, "which replaces it"),
        (
            [("lastHeartbeat", 1)],
            {"name": "by_hand", "partialFilterExpression": {"status": "processing"}},
            ERROR,
            "drop the other one, then",
        ),
    ],
)
async def test_an_index_that_is_another(
    monque_uri: str, raw: Collection[Document], index: Any, options: Any, severity: Severity, words: str
) -> None:
    raw.create_index(index, **options)
    with pytest.raises(IndexConflictError) if severity is ERROR else nullcontext():
        async with Monque(monque_uri):
            pass
    found = await diagnose(monque_uri)
    check = f"index.{options['name'].replace('by_hand', indexes.LEASE)}"
    assert found[check].severity is severity
    assert words in str(found[check].advice)


async def test_an_index_of_an_earlier_version(
    monque_uri: str, monque: Monque, raw: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = IndexModel([("nextRunAt", 1)], name="monque_next")
    raw.create_indexes([old])
    monkeypatch.setattr(indexes, "RETIRED", [old])
    found = await diagnose(monque_uri)
    assert bad(found) == {"index.monque_next": WARNING}
    assert "once no instance of an earlier version is at work" in str(found["index.monque_next"].advice)
    assert (await monque.fix_indexes(drop_old=True)).dropped == ("monque_next",)
    assert bad(await diagnose(monque_uri)) == {}


async def test_indexes_of_others_are_named(monque_uri: str, monque: Monque, raw: Collection[Document]) -> None:
    raw.create_index([("data.customer", 1)], name="customers")
    found = await diagnose(monque_uri)
    assert bad(found) == {}
    assert found["indexes.others"].seen.startswith("customers 0 ×, since ")
    assert "monque_claim" in found["indexes.used"].seen


async def test_a_collection_with_no_index_at_all(monque_uri: str, raw: Collection[Document]) -> None:
    raw.insert_one(stored())
    found = await diagnose(monque_uri)
    assert "indexes.used" not in found
    assert found["retention"].severity is found["jobs.leases"].severity is ERROR


async def test_an_index_that_is_being_built(lab: Lab) -> None:
    lab.jobs.insert_one(stored("completed"))
    lab.client.admin.command("configureFailPoint", "hangAfterStartingIndexBuild", mode="alwaysOn")
    with ThreadPoolExecutor(1) as threads:
        building = threads.submit(lab.jobs.create_indexes, indexes.models())
        try:
            async with lab.connected() as database:

                async def found() -> bool:
                    async with Monque(database, LEFT_ALONE) as monque:
                        diagnosis = await monque.diagnose()
                    return "indexes.building" in [finding.check for finding in diagnosis.of(WARNING)]

                await eventually(found)
        finally:
            lab.client.admin.command("configureFailPoint", "hangAfterStartingIndexBuild", mode="off")
        building.result()


async def test_jobs_that_are_to_be_deleted_and_never_will_be(
    monque_uri: str, monque: Monque, raw: Collection[Document]
) -> None:
    raw.insert_many([stored("completed"), stored("failed", expireAt=FUTURE)])
    found = await diagnose(monque_uri)
    assert bad(found) == {"retention": WARNING}
    assert found["retention"].seen.startswith("failed jobs say when")
    found = await diagnose(monque_uri, Options(create_indexes=False, retention=Retention(failed=60)))
    assert bad(found) == {"retention": WARNING, "index.monque_expiry": ERROR}
    async with Monque(monque_uri, Options(retention=Retention(failed=60))):
        pass
    found = await diagnose(monque_uri, Options(create_indexes=False, retention=Retention(failed=60)))
    assert bad(found) == {}
    assert found["retention"].seen.endswith("failed 60")


# --- plans ----------------------------------------------------------------------------------------------------------


async def test_what_is_explained_is_what_instances_ask(
    database: AsyncDatabase[Document], flow: Flow, commands: Commands, raw: Collection[Document]
) -> None:
    names = ["a", "b"]
    said = plans.commands("monque_jobs", names)
    commands.sent.clear()
    await flow.look(dict.fromkeys(names, 25), 50)
    await flow.survey(names, 0)
    look, survey = commands.sent
    assert {field: look[field] for field in said["claim"]} == said["claim"]
    pipeline = said["survey"]["pipeline"]
    # What the instance was told is asked for beside it.
    assert survey["pipeline"][: len(pipeline)] == pipeline
    assert survey["hint"] == said["survey"]["hint"]
    for command in said.values():
        for statement in statements(command):
            assert "COLLSCAN" not in explain(raw.database, statement).stages


async def test_the_names_of_pending_jobs(
    flow: Flow, monque_uri: str, raw: Collection[Document], monque: Monque
) -> None:
    raw.insert_many([stored(name=f"name-{number % 30:02}", nextRunAt=FUTURE) for number in range(90)])
    found = await diagnose(monque_uri)
    assert bad(found) == {}
    assert "30 name(s)" in found["jobs.overdue"].seen


def test_plans_are_judged() -> None:
    by_index = Plan({"IXSCAN", "FETCH"}, keys=60, documents=50, returned=50, milliseconds=1)
    assert judge("plan.claim", by_index, 1).severity is OK
    assert judge("plan.claim", Plan({"IXSCAN"}, 5000, 5000, 50, 1), 1).severity is WARNING
    assert judge("plan.claim", Plan({"COLLSCAN"}, 0, 5000, 50, 1), 1).severity is ERROR


# --- jobs -----------------------------------------------------------------------------------------------------------


async def test_jobs_that_wait_for_nobody(monque_uri: str, monque: Monque, raw: Collection[Document]) -> None:
    now = datetime.now(UTC)
    raw.insert_many([stored(name="late", nextRunAt=now - timedelta(hours=3)), stored(name="late", nextRunAt=now)])
    raw.insert_many([stored(name="urgent", priority=5, nextRunAt=now - timedelta(days=2)), stored(name="urgent")])
    raw.insert_many([stored(name="future", nextRunAt=FUTURE), stored(name="now", nextRunAt=now)])
    found = await diagnose(monque_uri)
    assert bad(found) == {"jobs.overdue": ERROR}
    seen = found["jobs.overdue"].seen
    assert seen.index("'urgent'") < seen.index("'late' for 3 h")
    assert seen.count("(no instance says that it works on them)") == 2
    assert "'future'" not in seen
    assert "'now'" not in seen


async def test_jobs_that_wait_for_a_slot_or_a_resume(
    monque_uri: str, monque: Monque, raw: Collection[Document]
) -> None:
    busy = asyncio.Event()

    @monque.worker("late", concurrency=1)
    async def late() -> None:
        busy.set()
        await asyncio.Event().wait()

    ago = datetime.now(UTC) - timedelta(hours=3)
    raw.insert_many([stored(name="late", nextRunAt=ago) for _ in range(2)])
    await monque.start()
    await asyncio.wait_for(busy.wait(), 10)
    assert await eventually(monque.fleet.instances)
    found = await diagnose(monque_uri)
    assert bad(found) == {"jobs.overdue": WARNING}
    assert found["jobs.overdue"].seen.startswith("jobs have been due: 'late' for 3 h")
    assert "no instance" not in found["jobs.overdue"].seen
    await monque.fleet.pause("late", reason="no paper")
    await monque.fleet.pause("idle")
    raw.insert_one(stored(name="idle", nextRunAt=ago + timedelta(hours=1)))
    found = await diagnose(monque_uri)
    assert bad(found) == {"jobs.overdue": WARNING}
    assert "(paused: no paper)" in found["jobs.overdue"].seen
    assert found["jobs.overdue"].seen.endswith("(paused)")
    await monque.stop(hurry=True)


async def test_jobs_that_nobody_takes_back(monque_uri: str, monque: Monque, raw: Collection[Document]) -> None:
    now = datetime.now(UTC)
    raw.insert_many([stored("processing", lastHeartbeat=now), stored("processing", lastHeartbeat=FUTURE)])
    assert bad(await diagnose(monque_uri)) == {}
    hour_ago = now - timedelta(hours=1)
    raw.insert_many([stored("processing", lastHeartbeat=hour_ago), stored("processing", lastHeartbeat="?")])
    found = await diagnose(monque_uri)
    assert bad(found) == {"jobs.leases": ERROR, "jobs.documents": WARNING}
    assert "the leases of 2 job(s) ran out" in found["jobs.leases"].seen
    assert "59 min" in found["jobs.leases"].seen
    assert "nobody knows when" in found["jobs.leases"].seen
    raw.insert_many([stored("processing") for _ in range(100)])
    assert "at least 10" in (await diagnose(monque_uri))["jobs.leases"].seen


async def test_documents_that_are_no_jobs(monque_uri: str, monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_many([stored("completed"), stored("done"), stored("failed", failCount="many")])
    spoiled = stored("failed", data={"text": "valid"})
    raw.insert_one(spoiled)
    spoil_text(raw, spoiled["_id"])
    found = await diagnose(monque_uri)
    assert bad(found) == {"jobs.documents": WARNING}
    seen = found["jobs.documents"].seen
    assert seen.startswith("all 4 document(s) were looked at, 3 no jobs: ")
    assert "'status': expected one of pending" in seen
    assert "'failCount': expected a whole number" in seen
    assert f"job {spoiled['_id']}: " in seen


async def test_of_many_documents_some_are_looked_at(monque_uri: str, monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_many([stored("completed") for _ in range(1500)])
    assert (await diagnose(monque_uri))["jobs.documents"].seen.startswith("the newest 1,000 of 1,500 documents")
    await monque.jobs.delete_many(JobFilter(), all=True)


# --- the collection, the clock, the server --------------------------------------------------------------------------


async def test_another_queue_instead_of_this_one(monque_uri: str, monque: Monque) -> None:
    found = await diagnose(monque_uri, Options(create_indexes=False, collection="jobs"))
    assert bad(found) == {"collection": WARNING}
    assert "other queues in this database: monque_jobs" in found["collection"].seen
    async with Monque(monque_uri, Options(collection="jobs")):
        pass
    found = await diagnose(monque_uri)
    assert bad(found) == {}
    assert found["collection"].seen.endswith("other queues in this database: jobs")


@pytest.mark.parametrize(("offset", "way"), [(-90, "1 min 30 s behind"), (3600, "1 h ahead of")])
async def test_a_clock_that_is_off(monque_uri: str, monque: Monque, offset: int, way: str) -> None:
    # Half a second is left for the way there and back.
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=offset + (0.4 if offset > 0 else -0.1)), tick=True):
        found = await diagnose(monque_uri)
    assert bad(found) == {"clock": WARNING}
    assert way in found["clock"].seen


async def test_what_fails_is_said_so_and_the_rest_is_looked_at(lab: Lab) -> None:
    lab.jobs.insert_one(stored(nextRunAt=FUTURE))
    lab.jobs.create_indexes(indexes.models())
    async with lab.connected() as database, Monque(database, LEFT_ALONE) as monque:
        with lab.failing("buildInfo", "explain", errorCode=8, closeConnection=False):
            diagnosis = await monque.diagnose()
        with lab.failing("aggregate", errorCode=8):
            no_stream = await monque.diagnose()
    unseen = {finding.check: finding for finding in diagnosis.of(UNKNOWN)}
    assert unseen.keys() == {
        "server.version",
        "server.compatibility",
        "plan.claim",
        "plan.survey",
        "plan.settle",
        "plan.unique",
    }
    assert unseen["server.version"].seen.startswith("could not be seen: Failing command")
    assert len(diagnosis.of(OK)) > 10
    assert "server.stream" in [finding.check for finding in no_stream.of(WARNING)]


def member(state: str, number: int = 1) -> Document:
    return {"name": f"m{number}:27017", "stateStr": state}


@pytest.mark.parametrize(
    ("states", "needed", "severity", "words"),
    [
        (["PRIMARY", "SECONDARY", "SECONDARY"], 2, OK, "3 member(s) with data up, 2 confirm a write"),
        (["PRIMARY", "SECONDARY", "ARBITER"], 2, OK, "2 member(s)"),
        (["PRIMARY", "SECONDARY", "(not reachable/healthy)"], 2, WARNING, "m2:27017 is (not"),
        (["PRIMARY", "(not reachable/healthy)", "ARBITER"], 2, ERROR, "m1:27017 is (not"),
    ],
)
def test_what_a_replica_set_says_of_its_members(states: list[str], needed: int, severity: Severity, words: str) -> None:
    members = [member(state, number) for number, state in enumerate(states)]
    finding = server.majority({"members": members, "writeMajorityCount": needed})
    assert finding.severity is severity
    assert words in f"{finding.seen} {finding.advice}"
    assert "ARBITER" not in str(finding.advice)


@pytest.mark.parametrize(
    ("first", "severity", "words"),
    [
        ({"ts": Timestamp(1000, 1), "o": {"msg": "initiating set"}}, OK, "everything since the replica set began, 1 d"),
        ({"ts": Timestamp(1000, 1)}, OK, "goes back 1 d"),
        ({"ts": Timestamp(86_400, 1), "o": {}}, WARNING, "goes back 16 min 40 s"),
    ],
)
def test_how_far_back_the_oplog_goes(first: Document, severity: Severity, words: str) -> None:
    finding = server.window(first, {"ts": Timestamp(87_400, 1)})
    assert finding.severity is severity
    assert words in finding.seen


@pytest.mark.parametrize(
    ("number", "compatible", "severities"),
    [((5, 0), "5.0", [ERROR, OK]), ((6, 0), "6.0", [OK, OK]), ((8, 0), "7.0", [OK, WARNING])],
)
def test_versions_are_judged(number: tuple[int, int], compatible: str, severities: list[Severity]) -> None:
    text = f"{number[0]}.{number[1]}.5"
    found = [server._version(text, number), server._compatibility(text, compatible)]
    assert [finding.severity for finding in found] == severities


def test_a_sharded_cluster_and_a_set_of_several_members() -> None:
    assert server._topology({"msg": "isdbgrid"}).seen == "a sharded cluster"
    hello = {"setName": "rs0", "hosts": ["a", "b"], "passives": ["c"]}
    assert server._topology(hello).seen == "replica set 'rs0' of 3 member(s) with data"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (59.6, "1 min"), (-3725, "1 h 2 min"), (9e5, "10 d 10 h")])
def test_spans(seconds: float, text: str) -> None:
    assert span(timedelta(seconds=seconds)) == text


def test_few_of_many() -> None:
    assert (few([1, 2]), few([1, 2, 3], 2)) == ("1, 2", "1, 2 and 1 more")
