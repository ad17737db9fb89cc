"""Seeing which jobs are due, in their order, and taking them."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import DatetimeMS, Int64, ObjectId
from pymongo.errors import OperationFailure

from monque import Job, JobStatus, Monque
from monque._store import flow as flow_module
from monque._store.flow import Flow, job_collection
from monque.testing import eventually

from .support import CLAIM_FIELDS, FUTURE, PAST, from_node, refuse, spoil_text, stored

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.collection import Collection

    from monque._clock import ServerClock
    from monque._store.flow import Claimed
    from monque._store.search import Sighting

    from .support import Commands, Document, Lab

DAY = timedelta(days=1)


def add(raw: Collection[Document], *documents: Document) -> list[ObjectId]:
    """Store documents in an order of chance, and say their ids in theirs."""
    raw.insert_many(random.sample(documents, len(documents)))
    return [document["_id"] for document in documents]


def ids(sighting: Sighting) -> list[ObjectId]:
    return [candidate.id for candidate in sighting.candidates]


async def take(flow: Flow, jobs: Iterable[ObjectId], token: str = "token") -> Claimed:  # noqa: S107  of a claim
    return await flow.claim(list(jobs), token=token, instance="instance", heartbeat_interval=10)


# --- looking --------------------------------------------------------------------------------------------------------


async def test_the_order_is_priority_then_time_then_id(flow: Flow, raw: Collection[Document]) -> None:
    first, second = sorted([ObjectId(), ObjectId()])
    expected = add(
        raw,
        stored(priority=10, nextRunAt=PAST + DAY),
        stored(priority=2, nextRunAt=PAST + DAY),
        stored(priority=1, nextRunAt=PAST - DAY),
        stored(priority=1, nextRunAt=PAST + DAY),
        stored(nextRunAt=PAST - DAY),
        stored(_id=first),
        stored(_id=second),
        stored(nextRunAt=PAST + DAY),
        stored(priority=-1, nextRunAt=PAST - DAY),
        stored(priority=-1),
        stored(priority=-10, nextRunAt=PAST - 2 * DAY),
    )
    for limit in range(1, len(expected) + 2):
        assert ids(await flow.look({"work": limit}, limit)) == expected[:limit]


@pytest.mark.parametrize("normal", [{}, {"priority": 0}, {"priority": None}])
async def test_the_normal_priority_is_zero_or_absent(flow: Flow, raw: Collection[Document], normal: Document) -> None:
    documents = [stored(priority=1), {**stored(nextRunAt=PAST), **normal}, stored(nextRunAt=PAST + DAY)]
    expected = add(raw, *documents, stored(priority=-1, nextRunAt=PAST - DAY))
    for limit in range(1, 5):
        assert ids(await flow.look({"work": limit}, limit)) == expected[:limit]


async def test_only_what_is_due_by_the_servers_clock_is_seen(
    flow: Flow, raw: Collection[Document], clock: ServerClock
) -> None:
    due, _ = add(raw, stored(nextRunAt=clock.now()), stored(nextRunAt=clock.now() + timedelta(hours=1)))
    sighting = await flow.look({"work": 5}, 5)
    assert ids(sighting) == [due]
    assert list(sighting.exhausted) == ["work"]


async def test_only_pending_jobs_of_the_wanted_names_are_seen(flow: Flow, raw: Collection[Document]) -> None:
    add(raw, *(stored(status) for status in JobStatus if status is not JobStatus.PENDING), stored(name="other"))
    (wanted,) = add(raw, stored())
    assert ids(await flow.look({"work": 9, "absent": 9}, 18)) == [wanted]


async def test_several_names_are_seen_in_one_order(flow: Flow, raw: Collection[Document], commands: Commands) -> None:
    names = ["a", "b", "c"]
    expected = add(raw, *(stored(name=names[number % 3], nextRunAt=PAST + number * DAY) for number in range(9)))
    commands.sent.clear()
    assert ids(await flow.look(dict.fromkeys(names, 5), 15)) == expected
    assert len(commands.sent) == 1


async def test_hundreds_of_names_are_seen_in_one_order(flow: Flow, raw: Collection[Document]) -> None:
    names = [f"name-{number}" for number in range(250)]
    chosen = random.sample(names, 200)
    expected = add(
        raw,
        *(stored(name=name, priority=1, nextRunAt=PAST + n * DAY) for n, name in enumerate(chosen[:50])),
        *(stored(name=name, nextRunAt=PAST + n * DAY) for n, name in enumerate(chosen)),
        *(stored(name=name, priority=-1, nextRunAt=PAST + n * DAY) for n, name in enumerate(chosen[50:])),
    )
    sighting = await flow.look(dict.fromkeys(names, 1), 250)
    assert (ids(sighting), list(sighting.exhausted)) == (expected[:250], [])
    sighting = await flow.look(dict.fromkeys(names, 2), 500)
    assert ids(sighting) == expected
    assert set(sighting.exhausted) == set(names)


async def test_a_name_behind_a_flood_of_another_is_seen(flow: Flow, raw: Collection[Document]) -> None:
    flood = add(raw, *(stored(name="flood", nextRunAt=PAST + number * DAY) for number in range(20)))
    rare = add(raw, *(stored(name="rare", nextRunAt=PAST + (100 + number) * DAY) for number in range(2)))
    sighting = await flow.look({"flood": 5, "rare": 5, "absent": 5}, 5)
    assert set(ids(sighting)) == {*flood[:5], *rare}
    assert set(sighting.exhausted) == {"rare", "absent"}


async def test_the_low_priorities_of_a_name_behind_a_flood_come_last(flow: Flow, raw: Collection[Document]) -> None:
    flood = add(raw, *(stored(name="flood", priority=9, nextRunAt=PAST + n * DAY) for n in range(20)))
    rare = add(
        raw,
        stored(name="rare", priority=1),
        *(stored(name="rare", nextRunAt=PAST + n * DAY) for n in range(2)),
        stored(name="rare", priority=-1, nextRunAt=PAST - DAY),
    )
    sighting = await flow.look({"flood": 3, "rare": 3, "absent": 3}, 3)
    assert ids(sighting) == [*flood[:3], *rare[:3]]
    assert set(sighting.exhausted) == {"absent"}


async def test_those_get_asked_first_whose_turn_it_is(flow: Flow, raw: Collection[Document]) -> None:
    flood = add(raw, *(stored(name="flood", nextRunAt=PAST + number * DAY) for number in range(4)))
    late = {name: stored(name=name, nextRunAt=PAST + 99 * DAY) for name in "abcd"}
    add(raw, *late.values())
    # There is room for two, so no more than two of the names can get something.
    sighting = await flow.look({"d": 1, "c": 1, "b": 1, "a": 1, "flood": 4}, 2)
    assert set(ids(sighting)) == {*flood[:2], late["d"]["_id"], late["c"]["_id"]}
    assert set(sighting.exhausted) == {"d", "c"}


async def test_names_that_need_not_share_are_asked_for_once(
    flow: Flow, raw: Collection[Document], commands: Commands
) -> None:
    flood = add(raw, *(stored(name="flood", nextRunAt=PAST + number * DAY) for number in range(20)))
    commands.sent.clear()
    sighting = await flow.look({"flood": 5, "rare": 5}, 10)
    assert (ids(sighting), list(sighting.exhausted)) == (flood[:10], [])
    assert len(commands.sent) == 1


# --- claiming -------------------------------------------------------------------------------------------------------


async def test_a_claim_is_written_down(flow: Flow, raw: Collection[Document], clock: ServerClock) -> None:
    document = stored(attempts=1, failCount=1, failReason="no", priority=3, uniqueKey="k")
    (job_id,) = add(raw, document)
    claimed = await take(flow, [job_id])
    after = raw.find_one({"_id": job_id})
    assert after is not None
    # The server reads its clock for each of them.
    ended = raw.database.client.admin.command("hello")["localTime"].replace(tzinfo=UTC)
    assert all(clock.now() <= after[field] <= ended for field in ("lockedAt", "lastHeartbeat", "updatedAt"))
    assert after == {
        **document,
        "status": "processing",
        "claimedBy": "instance",
        "claimToken": "token",
        "heartbeatInterval": 10_000,
        "attempts": 2,
        "lockedAt": after["lockedAt"],
        "lastHeartbeat": after["lastHeartbeat"],
        "updatedAt": after["updatedAt"],
    }
    (job,) = claimed.jobs
    assert (job.id, job.status, job.claim_token, job.attempts) == (job_id, "processing", "token", 2)
    assert job.started_at == job.locked_at == after["lockedAt"]
    assert claimed.unreadable == {}


async def test_what_changed_since_it_was_seen_is_not_claimed(flow: Flow, raw: Collection[Document]) -> None:
    seen = add(raw, *(stored() for _ in range(7)))
    taken, cancelled, rescheduled, deleted, completed, *free = seen
    await take(flow, [taken], "other")
    for job_id, change in {
        cancelled: {"status": "cancelled"},
        rescheduled: {"nextRunAt": FUTURE},
        completed: {"status": "completed"},
    }.items():
        raw.update_one({"_id": job_id}, {"$set": change})
    raw.delete_one({"_id": deleted})
    before = {document["_id"]: document for document in raw.find({"_id": {"$nin": free}})}

    claimed = await take(flow, seen)

    assert {job.id for job in claimed.jobs} == set(free)
    assert {document["_id"]: document for document in raw.find({"_id": {"$nin": free}})} == before


async def test_a_claim_that_is_repeated_finds_what_it_took(flow: Flow, raw: Collection[Document]) -> None:
    seen = add(raw, *(stored() for _ in range(3)))
    first = await take(flow, seen)
    again = await take(flow, seen)
    assert sorted(again.jobs, key=lambda job: job.id) == sorted(first.jobs, key=lambda job: job.id)
    assert {document["attempts"] for document in raw.find()} == {1}


async def test_claims_at_the_same_moment_share_the_jobs(flow: Flow, raw: Collection[Document]) -> None:
    seen = add(raw, *(stored() for _ in range(200)))
    claims = await asyncio.gather(*(take(flow, seen, f"token-{number}") for number in range(8)))
    won = [job.id for claimed in claims for job in claimed.jobs]
    assert sorted(won) == sorted(seen)
    assert {document["attempts"] for document in raw.find()} == {1}


async def test_a_claim_that_the_server_refuses_is_an_error(lab: Lab) -> None:
    (job_id,) = add(lab.jobs, stored())
    async with lab.connected() as database:
        flow = Flow(job_collection(database, "monque_jobs"))
        with lab.failing("update", errorCode=1), pytest.raises(OperationFailure):
            await take(flow, [job_id])
    assert [document["status"] for document in lab.jobs.find()] == ["pending"]


async def test_a_null_where_attempts_are_counted_is_as_good_as_nothing(flow: Flow, raw: Collection[Document]) -> None:
    jobs = add(raw, {**stored(), "attempts": None}, stored(attempts=4), stored())
    claimed = await take(flow, jobs)
    assert {job.id: job.attempts for job in claimed.jobs} == dict(zip(jobs, [1, 5, 1], strict=True))
    assert not claimed.refused


async def test_a_job_that_the_collection_does_not_let_be_claimed_fails_alone(
    flow: Flow, raw: Collection[Document]
) -> None:
    good, bad, other = jobs = add(raw, stored(), stored(data="bad"), stored())
    refuse(raw.database, data="bad", status="processing")
    claimed = await take(flow, jobs)
    assert {job.id for job in claimed.jobs} == {good, other}
    assert claimed.refused.keys() == {bad}
    after = raw.find_one({"_id": bad})
    assert after is not None
    assert (after["status"], after["failReason"]) == ("failed", str(claimed.refused[bad]))
    assert "validation" in after["failReason"]


async def test_a_job_that_the_collection_does_not_let_be_changed_at_all_stands_in_nobodys_way(
    flow: Flow, raw: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = add(raw, stored(data="bad", nextRunAt=PAST - DAY), stored())
    refuse(raw.database, data="bad", status={"$ne": "pending"})
    assert (await take(flow, [bad])).refused.keys() == {bad}
    assert ids(await flow.look({"work": 1}, 1)) == [good]
    # After a while it is tried again: somebody may have done something about it.
    monkeypatch.setattr(flow_module, "_STUCK_FOR", 0)
    assert ids(await flow.look({"work": 1}, 1)) == [bad]


async def test_what_is_no_fault_of_a_document_fails_no_job(flow: Flow, raw: Collection[Document]) -> None:
    raw.create_index("claimToken", unique=True, sparse=True)
    with pytest.raises(OperationFailure):
        await take(flow, add(raw, stored(), stored()))
    # Nor does it when they are claimed one by one because of another.
    refuse(raw.database, data="bad", status="processing")
    with pytest.raises(OperationFailure):
        await take(flow, add(raw, stored(data="bad"), stored(), stored()), token="another")  # noqa: S106  of a claim
    assert raw.count_documents({"status": "failed"}) == 0


# --- foreign and broken documents -----------------------------------------------------------------------------------

BROKEN: dict[str, tuple[Document, str]] = {
    "a list of names": ({"name": ["other", "work"]}, "name"),
    "attempts that are text": ({"attempts": "many"}, "attempts"),
    "attempts that are more than can be counted": ({"attempts": Int64(2**63 - 1)}, "$inc"),
    "an id that is a document": ({"_id": {"part": 1}}, "_id"),
    "a counter that is text": ({"failCount": "two"}, "failCount"),
    "a time that is text": ({"nextRunAt": "2024-01-01"}, "nextRunAt"),
    "a time before the year 1": ({"nextRunAt": DatetimeMS(-(10**15))}, "nextRunAt"),
    "a time that is null": ({"nextRunAt": None}, "nextRunAt"),
    "no time": ({"nextRunAt": ...}, "nextRunAt"),
    "no data": ({"data": ...}, "data"),
    "another date beyond the year 9999": ({"createdAt": DatetimeMS(10**15)}, "createdAt"),
    "a priority that is text": ({"priority": "high"}, "priority"),
    "a text that is no UTF-8": ({"data": "valid"}, "cannot be decoded"),
    "a key that is a number": ({"uniqueKey": 7}, "uniqueKey"),
}


def broken(change: Document) -> Document:
    document = {**stored(nextRunAt=PAST - DAY), **change}
    return {field: value for field, value in document.items() if value is not ...}


@pytest.mark.parametrize(("change", "named"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_document_fails_alone(
    monque: Monque, raw: Collection[Document], change: Document, named: str
) -> None:
    document = broken(change)
    raw.insert_one(document)
    if change == {"data": "valid"}:
        spoil_text(raw, document["_id"])
    sound = add(raw, *(stored() for _ in range(3)))
    ran: list[ObjectId] = []

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        ran.append(job.id)

    await monque.start()
    await eventually(lambda: raw.count_documents({"status": {"$in": ["completed", "failed"]}}) == 4, timeout=30)
    assert sorted(ran) == sorted(sound)
    after = raw.find_one({"_id": document["_id"]}, ["status", "failReason", *CLAIM_FIELDS])
    assert after is not None
    assert after["status"] == "failed"
    assert named in after["failReason"]
    assert after.keys() == {"_id", "status", "failReason"}
    assert raw.count_documents({"_id": {"$in": sound}, "status": "completed", "attempts": 1}) == 3


async def test_all_kinds_of_broken_documents_at_once_keep_nobody_back(
    monque: Monque, raw: Collection[Document]
) -> None:
    documents = {label: broken(change) for label, (change, _) in BROKEN.items()}
    raw.insert_many(documents.values())
    spoil_text(raw, documents["a text that is no UTF-8"]["_id"])
    sound = add(raw, *(stored() for _ in range(50)))

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        pass

    await monque.start()
    await eventually(lambda: raw.count_documents({"status": {"$in": ["pending", "processing"]}}) == 0, timeout=30)
    assert raw.count_documents({"_id": {"$in": sound}, "status": "completed"}) == 50
    assert raw.count_documents({"status": "failed"}) == len(BROKEN)


async def test_a_time_beyond_the_year_9999_never_comes_and_troubles_nobody(
    monque: Monque, raw: Collection[Document]
) -> None:
    for priority in ({}, {"priority": 5}):
        raw.insert_one({**stored(), "nextRunAt": DatetimeMS(10**15), **priority})
    said: list[Any] = []
    monque.on("job:error", said.append)
    ran = asyncio.Event()

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        ran.set()

    await monque.start()
    # It looks ahead once it has nothing to do, and finds nothing that could be waited for.
    job = await monque.enqueue("work", delay=0.5)
    await asyncio.wait_for(ran.wait(), 20)
    await eventually(lambda: raw.count_documents({"_id": job.id, "status": "completed"}), timeout=20)
    assert said == []
    assert raw.count_documents({"status": "pending"}) == 2


async def test_text_that_is_no_utf8_in_the_collection_is_read_one_by_one(flow: Flow, raw: Collection[Document]) -> None:
    good, wrong, spoilt = add(raw, stored(), stored(priority="high"), stored(data="valid"))
    spoil_text(raw, spoilt)
    claimed = await take(flow, [good, wrong, spoilt])
    assert [job.id for job in claimed.jobs] == [good]
    assert claimed.unreadable.keys() == {wrong, spoilt}
    assert "cannot be decoded" in str(claimed.unreadable[spoilt])
    assert "priority" in str(claimed.unreadable[wrong])


async def test_whole_numbers_of_other_kinds_are_read(flow: Flow, raw: Collection[Document]) -> None:
    (job_id,) = add(raw, stored(attempts=2.0, failCount=Int64(1), priority=3.0))
    (job,) = (await take(flow, [job_id])).jobs
    assert (job.attempts, job.fail_count, job.priority) == (3, 1, 3)


# --- shared with Node -----------------------------------------------------------------------------------------------


async def test_documents_of_the_node_library_run_unchanged(monque: Monque, raw: Collection[Document]) -> None:
    plain = from_node()
    keyed = from_node(uniqueKey="customer-1")
    cron = from_node(repeatInterval="0 3 * * *", uniqueKey="nightly")
    raw.insert_many([plain, keyed, cron])
    ran: dict[ObjectId, Job[Any]] = {}

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        ran[job.id] = job

    await monque.start()
    await eventually(lambda: raw.count_documents({"settledBy": {"$exists": True}}) == 3, timeout=30)
    assert all(job.data == {"to": "a@b.c", "count": 3.0} for job in ran.values())
    after = {document["_id"]: document for document in raw.find()}
    assert after[plain["_id"]]["status"] == after[keyed["_id"]]["status"] == "completed"
    again = after[cron["_id"]]
    assert (again["status"], again["failCount"], again["repeatInterval"]) == ("pending", 0, "0 3 * * *")
    assert again["nextRunAt"] > datetime.now(UTC) - DAY


async def test_our_documents_satisfy_the_filters_of_the_node_library(monque: Monque, raw: Collection[Document]) -> None:
    claimed = asyncio.Event()

    @monque.worker("held")
    async def held(_: Job[Any]) -> None:
        claimed.set()
        await asyncio.Event().wait()

    job = await monque.enqueue("work", {"to": "a@b.c"}, unique_key="k")
    cron = await monque.schedule("0 3 * * *", "work", unique_key="nightly")
    server = raw.database.client.admin.command("hello")["localTime"]
    due = {"name": "work", "status": "pending", "nextRunAt": {"$lte": server}}
    assert [document["_id"] for document in raw.find(due)] == [job.id]
    taken = raw.find_one_and_update(
        {**due, "$or": [{"claimedBy": None}, {"claimedBy": {"$exists": False}}]},
        {"$set": {"status": "processing", "claimedBy": "node", "lockedAt": server, "lastHeartbeat": server}},
    )
    assert taken is not None
    types = {"name": str, "data": dict, "status": str, "failCount": int, "uniqueKey": str}
    assert {field: type(taken[field]) for field in types} == types
    assert raw.find_one({"_id": cron.id, "repeatInterval": "0 3 * * *", "status": "pending"}) is not None

    await monque.enqueue("held")
    await monque.start()
    await asyncio.wait_for(claimed.wait(), 20)
    own = {"name": "held", "status": "processing", "claimedBy": monque.instance_id}
    assert raw.count_documents(own) == 1
    long_ago = datetime.now(UTC) + timedelta(minutes=1)
    assert raw.count_documents({**own, "lockedAt": {"$lt": long_ago}, "lastHeartbeat": {"$lt": long_ago}}) == 1
    # As if it had settled or recovered it: then it is lost here, and nothing is written over it.
    raw.update_one(own, {"$set": {"status": "completed"}, "$unset": dict.fromkeys(CLAIM_FIELDS, "")})


# --- the collection -------------------------------------------------------------------------------------------------


async def test_the_codecs_of_the_user_come_along(database: AsyncDatabase[Document]) -> None:
    naive = database.with_options(codec_options=database.codec_options.with_options(tz_aware=False))
    flow = Flow(job_collection(naive, "monque_jobs"))
    assert flow.collection.codec_options.tz_aware
    assert flow.collection.codec_options.document_class is dict


async def test_what_may_become_due_is_hinted_at(flow: Flow, raw: Collection[Document]) -> None:
    stream = await flow.watch(["work"], max_await=1)
    (job_id,) = add(raw, stored(name="other"))
    raw.update_one({"_id": job_id}, {"$set": {"data": 1}})
    raw.update_one({"_id": job_id}, {"$set": {"nextRunAt": FUTURE}})
    add(raw, stored(nextRunAt=PAST), stored("completed"))
    hints: list[Document] = []
    while len(hints) < 2:
        if (hint := await stream.next(60)) is not None:
            hints.append(hint)
    await stream.close()
    assert [(hint.get("name"), hint["due"]) for hint in hints] == [(None, FUTURE), ("work", PAST)]
