"""Writing outcomes: only the holder of the claim may, and a lost answer loses nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from pymongo.errors import AutoReconnect, BulkWriteError

from monque import JobStatus
from monque import _transitions as transitions
from monque._store.flow import Flow, Settled, job_collection

from .support import CLAIM_FIELDS, FUTURE, PAST, refuse, stored

if TYPE_CHECKING:
    from pymongo.collection import Collection
    from pymongo.database import Database

    from monque import Job

    from .support import Commands, Document, Lab, Proxy

DONE = Settled(set(), {})
NOW = datetime.now(UTC)


def add(raw: Collection[Document], number: int, **changes: Any) -> list[ObjectId]:
    documents = [stored("processing", **changes) for _ in range(number)]
    raw.insert_many(documents)
    return [document["_id"] for document in documents]


def statuses(raw: Collection[Document]) -> dict[ObjectId, str]:
    return {document["_id"]: document["status"] for document in raw.find()}


async def reread(flow: Flow, job_id: ObjectId) -> Job[Any]:
    job = await flow.reread(job_id, "token")
    assert job is not None
    return job


async def test_outcomes_of_all_kinds_are_written_in_one_command(
    flow: Flow, raw: Collection[Document], commands: Commands
) -> None:
    one, two, three, failed, again, back, cron, broken = add(raw, 8, failReason="earlier", attempts=3)
    raw.update_one({"_id": cron}, {"$set": {"repeatInterval": "@daily", "timezone": "Asia/Tokyo"}})
    recurring = await reread(flow, cron)
    commands.sent.clear()
    changes = [
        transitions.complete([one, two], "token", now=NOW),
        transitions.complete([three], "token", now=NOW),
        transitions.fail(failed, "token", fail_count=4, reason="for good"),
        transitions.retry(again, "token", fail_count=2, reason="for now", next_run_at=FUTURE),
        transitions.release([back], "token"),
        transitions.repeat(recurring, "token", next_run_at=FUTURE),
        transitions.reject(broken, "token", reason="no job"),
    ]
    assert await flow.settle(changes) == DONE
    assert [next(iter(command)) for command in commands.sent] == ["update"]
    after = {document["_id"]: document for document in raw.find()}
    assert [after[job]["status"] for job in (one, two, three, failed, again, back, cron, broken)] == [
        *["completed"] * 3, "failed", "pending", "pending", "pending", "failed",
    ]  # fmt: skip
    assert [after[job].get("failReason") for job in (one, failed, again, back, cron, broken)] == [
        None, "for good", "for now", "earlier", None, "no job",
    ]  # fmt: skip
    assert [after[job].get("attempts") for job in (one, failed, again, back, cron)] == [3, 3, 3, 2, None]
    assert [after[job]["failCount"] for job in (failed, again, cron)] == [4, 2, 0]
    assert [after[job]["nextRunAt"] for job in (failed, again, back, cron)] == [PAST, FUTURE, PAST, FUTURE]
    assert all(not CLAIM_FIELDS & document.keys() for document in after.values())
    assert {document["settledBy"] for document in after.values()} == {"token"}


async def test_without_the_token_nothing_is_written(flow: Flow, raw: Collection[Document]) -> None:
    mine, again = add(raw, 2)
    theirs = add(raw, 2, claimToken="other")
    (nobodys,) = add(raw, 1)
    raw.update_one({"_id": nobodys}, {"$set": {"status": "pending"}, "$unset": {"claimToken": ""}})
    deleted = ObjectId()
    before = {document["_id"]: document for document in raw.find({"_id": {"$in": [*theirs, nobodys]}})}
    settled = await flow.settle(
        [
            transitions.complete([mine, *theirs, nobodys], "token", now=NOW),
            transitions.complete([again], "token", now=NOW),
            transitions.fail(deleted, "token", fail_count=1, reason="no"),
        ]
    )
    assert settled == Settled({*theirs, nobodys, deleted}, {})
    assert {document["_id"]: document for document in raw.find({"_id": {"$in": list(before)}})} == before
    assert raw.count_documents({"_id": {"$in": [mine, again]}, "status": "completed"}) == 2


async def test_what_is_settled_already_is_not_lost(flow: Flow, raw: Collection[Document]) -> None:
    jobs = add(raw, 5)
    theirs = add(raw, 1, claimToken="other")
    change = transitions.complete([*jobs, *theirs], "token", now=NOW)
    assert await flow.settle([change]) == Settled(set(theirs), {})
    before = list(raw.find())
    assert await flow.settle([change]) == Settled(set(theirs), {})
    assert list(raw.find()) == before


async def test_a_settle_whose_answer_was_lost_is_recognised_as_done(
    proxy: Proxy, raw: Collection[Document], monque_database: Database[Document]
) -> None:
    jobs, theirs = add(raw, 20), add(raw, 2, claimToken="other")
    changes = [
        transitions.complete([*jobs[:15], *theirs], "token", now=NOW),
        *(transitions.fail(job, "token", fail_count=1, reason="no") for job in jobs[15:]),
    ]
    async with proxy.connected() as client:
        flow = Flow(job_collection(client[monque_database.name], "monque_jobs"))
        proxy.lose_answer_to("update")
        with pytest.raises(AutoReconnect):
            await flow.settle(changes)
        assert proxy.lost == 1
        assert raw.count_documents({"status": "completed"}) == 15
        assert await flow.settle(changes) == Settled(set(theirs), {})
    assert raw.count_documents({"status": "failed"}) == 5


async def test_a_settle_that_a_majority_did_not_confirm_is_repeated(lab: Lab) -> None:
    trouble = {"code": 64, "errmsg": "waiting for replication timed out"}
    jobs = add(lab.jobs, 3)
    async with lab.connected() as database:
        flow = Flow(job_collection(database, "monque_jobs"))
        with lab.failing("update", mode={"times": 1}, writeConcernError=trouble):
            with pytest.raises(BulkWriteError):
                await flow.settle([transitions.complete(jobs, "token", now=NOW)])
            assert lab.jobs.count_documents({"status": "completed"}) == 3
            assert await flow.settle([transitions.complete(jobs, "token", now=NOW)]) == DONE


@pytest.mark.parametrize("number", [1, 10])
async def test_a_document_that_is_refused_does_not_harm_its_group(
    flow: Flow, raw: Collection[Document], monque_database: Database[Document], number: int
) -> None:
    jobs, refused = add(raw, number), add(raw, 1, data="refused")
    others, theirs = add(raw, 3), add(raw, 1, claimToken="other")
    refuse(monque_database, data="refused")
    group = [*jobs[: number // 2], *refused, *theirs, *jobs[number // 2 :]]
    settled = await flow.settle(
        [transitions.complete(group, "token", now=NOW), transitions.complete(others, "token", now=NOW)]
    )
    assert settled.refused.keys() == set(refused)
    assert "Document failed validation" in str(settled.refused[refused[0]])
    assert settled.lost == set(theirs)
    after = statuses(raw)
    assert {after[job] for job in [*jobs, *others]} == {"completed"}
    assert {after[job] for job in [*refused, *theirs]} == {"processing"}


async def test_only_what_is_held_is_read_again(flow: Flow, raw: Collection[Document]) -> None:
    (mine,) = add(raw, 1)
    (theirs,) = add(raw, 1, claimToken="other")
    assert (await reread(flow, mine)).id == mine
    assert await flow.reread(theirs, "token") is None
    assert await flow.reread(ObjectId(), "token") is None


async def test_a_schedule_that_changed_meanwhile_is_not_written_over(flow: Flow, raw: Collection[Document]) -> None:
    (job_id,) = add(raw, 1, repeatInterval="@daily")
    job = await reread(flow, job_id)
    raw.update_one({"_id": job_id}, {"$set": {"repeatInterval": "@hourly"}})
    settled = await flow.settle([transitions.repeat(job, "token", next_run_at=FUTURE)])
    assert settled == Settled({job_id}, {})
    job = await reread(flow, job_id)
    assert (job.status, job.repeat_interval, job.next_run_at) == (JobStatus.PROCESSING, "@hourly", PAST)
    assert await flow.settle([transitions.repeat(job, "token", next_run_at=FUTURE)]) == DONE
