"""`Monque.jobs.watch`: changes, live."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from monque import (
    ChangeStreamsUnavailableError,
    ConnectionError,
    InvalidArgumentError,
    Job,
    JobChange,
    JobDocumentError,
    JobFilter,
    JobStatus,
    Monque,
)
from monque._store import watching
from monque._store.watching import _change, _may_pass
from monque.testing import eventually

from .support import FUTURE, stored

if TYPE_CHECKING:
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.collection import Collection
    from pymongo.errors import PyMongoError

    from monque import Watch

    from .support import Document, Lab


async def told(changes: Watch, number: int) -> list[JobChange]:
    """The next few changes."""
    return [await asyncio.wait_for(anext(changes), 30) for _ in range(number)]


def brief(changes: list[JobChange]) -> list[tuple[str, str | None]]:
    return [(change.kind, change.job.status.value if change.job else None) for change in changes]


async def test_a_job_is_watched_from_its_beginning_to_its_end(monque: Monque) -> None:
    async with monque.jobs.watch() as changes:
        job = await monque.enqueue("work", {"a": 1}, delay=60)
        (created,) = await told(changes, 1)
        assert created == JobChange(job.id, job, "created")
        await monque.jobs.cancel(job.id)
        assert brief(await told(changes, 1)) == [("changed", "cancelled")]
        await monque.jobs.delete(job.id)
        assert await told(changes, 1) == [JobChange(job.id, None, "deleted")]


async def test_a_run_is_watched_with_its_progress_and_without_its_heartbeats(database: AsyncDatabase[Document]) -> None:
    monque = Monque(database)
    go_on, end = asyncio.Event(), asyncio.Event()

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        await go_on.wait()
        job.progress(0.5, "half")
        await end.wait()

    async with monque, monque.jobs.watch() as changes:
        job = await monque.enqueue("work")
        await monque.start()
        assert [change.kind for change in await told(changes, 2)] == ["created", "changed"]
        await database["monque_jobs"].update_one({"_id": job.id}, {"$currentDate": {"lastHeartbeat": True}})
        go_on.set()
        (progress,) = await told(changes, 1)
        assert progress.job is not None
        assert progress.job.progress_report is not None
        assert progress.job.progress_report.message == "half"
        end.set()
        assert brief(await told(changes, 1)) == [("changed", "completed")]


async def test_only_what_a_filter_is_about_is_told(monque: Monque, raw: Collection[Document]) -> None:
    filter_ = JobFilter(
        name=["a", "b"], status=[JobStatus.FAILED, JobStatus.PENDING], tags="t", error="no", due_from=FUTURE
    )
    good = {"name": "a", "tags": ["t", "u"], "failReason": "NO!", "nextRunAt": FUTURE}
    async with monque.jobs.watch(filter_) as changes:
        raw.insert_one(stored("failed", **{**good, "name": "c"}))
        raw.insert_one(stored("completed", **good))
        raw.insert_one(stored("failed", **{**good, "tags": ["u"]}))
        raw.insert_one(stored("failed", **{**good, "failReason": "yes"}))
        raw.insert_one(stored("failed", **{**good, "nextRunAt": None}))
        one, other = stored("failed", **good), stored("completed", **{**good, "name": "b"})
        raw.insert_many([one, other])
        raw.delete_one({"_id": one["_id"]})
        raw.update_one({"_id": other["_id"]}, {"$set": {"status": "pending"}, "$currentDate": {"updatedAt": True}})
        seen = await told(changes, 2)
    assert [(change.job_id, change.kind) for change in seen if change.kind == "changed"] == [(other["_id"], "changed")]
    assert {change.job_id for change in seen} <= {one["_id"], other["_id"]}


async def test_a_few_jobs_are_watched_until_they_are_deleted(monque: Monque) -> None:
    jobs = await monque.enqueue_many(("work", number) for number in range(3))
    async with monque.jobs.watch(JobFilter(ids=[jobs[1].id])) as changes:
        await monque.jobs.cancel_many(JobFilter(name="work"))
        await monque.jobs.delete_many(JobFilter(name="work"))
        seen = await told(changes, 1)
        seen += await told(changes, 1) if seen[0].kind != "deleted" else []
    assert {change.job_id for change in seen} == {jobs[1].id}
    assert seen[-1].kind == "deleted"


async def test_a_document_that_is_no_job_is_told_of_too(monque: Monque, raw: Collection[Document]) -> None:
    async with monque.jobs.watch() as changes:
        bad, good = stored(failCount="many"), stored()
        raw.insert_many([bad, good])
        first, second = await told(changes, 2)
    assert (first.job_id, first.job, first.kind) == (bad["_id"], None, "created")
    assert isinstance(first.error, JobDocumentError)
    assert (second.job_id, second.error) == (good["_id"], None)


def test_what_was_deleted_before_it_could_be_read_is_not_told_twice() -> None:
    gone: Document = {"operationType": "update", "documentKey": {"_id": ObjectId()}, "fullDocument": None}
    assert _change(gone) is None
    assert _change({**gone, "operationType": "delete"}) == JobChange(gone["documentKey"]["_id"], None, "deleted")


async def test_a_replaced_job_has_changed(monque: Monque, raw: Collection[Document]) -> None:
    async with monque.jobs.watch() as changes:
        document = stored()
        raw.insert_one(document)
        raw.replace_one({"_id": document["_id"]}, {**document, "status": "failed"})
        assert [change.kind for change in await told(changes, 2)] == ["created", "changed"]


async def test_leaving_the_iteration_ends_it(monque: Monque, raw: Collection[Document]) -> None:
    changes = monque.jobs.watch()
    async with aclosing(changes):
        waiting = asyncio.create_task(anext(changes))

        async def one_more() -> bool:
            raw.insert_one(stored())
            return waiting.done()

        await eventually(one_more)
        assert (await waiting).kind == "created"
    await changes.aclose()
    assert [change async for change in changes] == []


async def test_it_ends_wherever_it_is_cancelled_and_goes_on_where_it_was(monque: Monque) -> None:
    async with monque.jobs.watch() as changes:
        for steps in range(50):
            reading = asyncio.create_task(anext(changes))
            for _ in range(steps):
                await asyncio.sleep(0)
            reading.cancel()
            await eventually(reading.done)
            assert reading.cancelled()
            job = await monque.enqueue("greet")
            assert await told(changes, 1) == [JobChange(job.id, job, "created")]


@pytest.mark.parametrize("how", [{"closeConnection": True}, {"errorCode": 50}], ids=["out of reach", "too slow"])
async def test_it_goes_on_where_it_was_after_errors(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    # The driver tries again by itself for as long.
    monkeypatch.setattr(watching, "_PATIENCE", 0.2)
    failed = asyncio.Event()

    def may_pass(error: PyMongoError) -> bool:
        failed.set()
        return _may_pass(error)

    monkeypatch.setattr(watching, "_may_pass", may_pass)
    async with lab.connected() as database, Monque(database) as monque, monque.jobs.watch() as changes:
        first = await monque.enqueue("work", 1)
        assert [change.job_id for change in await told(changes, 1)] == [first.id]
        with lab.failing("getMore", "aggregate", **how):
            waiting = asyncio.create_task(told(changes, 2))
            lab.jobs.insert_many(missed := [stored(), stored()])
            await asyncio.wait_for(failed.wait(), 30)
        monkeypatch.setattr(watching, "_PATIENCE", 15)
        assert [change.job_id for change in await waiting] == [one["_id"] for one in missed]


@pytest.mark.parametrize("code", [286, 280, 260])
async def test_what_the_server_no_longer_remembers_is_passed_over(lab: Lab, code: int) -> None:
    async with lab.connected() as database, Monque(database) as monque, monque.jobs.watch() as changes:
        await monque.enqueue("work")
        await told(changes, 1)
        with lab.failing("getMore", "aggregate", mode={"times": 2}, errorCode=code):
            waiting = asyncio.create_task(told(changes, 1))

            async def one_more() -> bool:
                lab.jobs.insert_one(stored())
                return waiting.done()

            await eventually(one_more, timeout=30)
        assert [change.kind for change in await waiting] == ["created"]


async def test_a_collection_that_is_made_anew_is_watched_on(monque: Monque, raw: Collection[Document]) -> None:
    async with monque.jobs.watch() as changes:
        raw.insert_one(stored())
        await told(changes, 1)
        raw.drop()
        waiting = asyncio.create_task(told(changes, 1))

        async def one_more() -> bool:
            raw.insert_one(stored())
            return waiting.done()

        await eventually(one_more, timeout=30)
        assert [change.kind for change in await waiting] == ["created"]


async def test_what_the_database_refuses_is_an_error(lab: Lab) -> None:
    async with lab.connected() as database, Monque(database) as monque:
        with lab.failing("aggregate", errorCode=13):
            with pytest.raises(ConnectionError, match="cannot watch the jobs"):
                async with monque.jobs.watch():
                    pass
            with pytest.raises(ConnectionError, match="cannot watch the jobs"):
                await anext(monque.jobs.watch())


async def test_a_standalone_server_has_no_changes_to_tell(lab: Lab) -> None:
    # What such a server says; in `engine/test_watching.py` there is a real one.
    async with lab.connected() as database, Monque(database) as monque:
        with lab.failing("aggregate", errorCode=40573):
            with pytest.raises(ChangeStreamsUnavailableError, match="make it a replica set"):
                async with monque.jobs.watch():
                    pass
            with pytest.raises(ChangeStreamsUnavailableError):
                await anext(monque.jobs.watch())


async def test_what_is_no_filter_is_refused(monque: Monque) -> None:
    nonsense: Any = {"name": "work"}
    with pytest.raises(InvalidArgumentError, match="filter: expected a JobFilter"):
        monque.jobs.watch(nonsense)
