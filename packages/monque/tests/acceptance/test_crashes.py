"""A crash at every point of a job's way. `docs/explanation/crashes.md` is the table of these tests.

A process kills itself at the point in question; a second instance, here, finds what it left behind.
"""

from __future__ import annotations

import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import OperationFailure

from monque import JobErrorEvent, JobStatus, Lease, Monque, Options, Polling, Retry, StaleRecoveredEvent

from .support import Process, entries, fail_once, patiently

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from bson import ObjectId
    from pymongo.database import Database

LEASE = 2.0
OPTIONS = {"lease": LEASE, "safety": 0.5, "max_retries": 3}

QUICK = Options(lease=Lease(LEASE), polling=Polling(safety=0.5), retry=Retry(3, base=0.05))


class Second:
    """An instance that works beside, or after, the one that crashes."""

    def __init__(self, source: str | AsyncMongoClient[Any], options: Options = QUICK) -> None:
        self.monque = Monque(source, options)
        self.runs: list[ObjectId] = []
        self.recovered: list[StaleRecoveredEvent] = []
        self.errors: list[JobErrorEvent] = []
        self.monque.worker("job", self._run)
        self.monque.on("job:error", self.errors.append)
        self.monque.on("stale:recovered", self.recovered.append)

    async def _run(self, job: Any) -> None:
        self.runs.append(job.id)


@asynccontextmanager
async def second(uri: str) -> AsyncGenerator[Second]:
    """One that is connected and does not work yet."""
    instance = Second(uri)
    async with instance.monque:
        yield instance


def status(database: Database[Any], job: ObjectId) -> str:
    document = database.monque_jobs.find_one({"_id": job})
    assert document is not None
    return str(document["status"])


async def completed(database: Database[Any], job: ObjectId) -> dict[str, Any]:
    done = {"_id": job, "status": "completed"}
    found: list[dict[str, Any]] = await patiently(lambda: list(database.monque_jobs.find(done)))
    return found[0]


async def crash(process: Process) -> None:
    assert await process.ended() == -signal.SIGKILL


async def test_crash_before_the_insert_leaves_no_job(
    start_process: Callable[..., Process], monque_database: Database[Any]
) -> None:
    process = start_process(task="produce", crash="before the insert", jobs=[{"name": "job"}])
    process.go()

    await crash(process)

    assert monque_database.monque_jobs.count_documents({}) == 0


async def test_crash_after_the_insert_and_before_enqueue_returns_leaves_a_job_that_a_key_finds_again(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    process = start_process(task="produce", crash="after the insert", jobs=[{"name": "job", "unique_key": "order-7"}])
    process.go()

    await crash(process)

    async with second(monque_uri) as other:
        again = await other.monque.enqueue("job", unique_key="order-7")
        await other.monque.start()
        await completed(monque_database, again.id)
    assert monque_database.monque_jobs.count_documents({}) == 1
    assert other.runs == [again.id]


async def test_crash_between_look_and_claim_leaves_the_job_to_others_at_once(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with second(monque_uri) as other:
        job = await other.monque.enqueue("job")
        await crash(start_process(crash="before the claim", options=OPTIONS))
        assert status(monque_database, job.id) == JobStatus.PENDING

        await other.monque.start()
        document = await completed(monque_database, job.id)

    assert (document["attempts"], other.runs, other.recovered) == (1, [job.id], [])
    assert not entries(monque_database)


async def test_crash_between_claim_and_handler_spends_an_attempt_and_the_job_runs_when_the_lease_is_over(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with second(monque_uri) as other:
        job = await other.monque.enqueue("job")
        await crash(start_process(crash="after the claim", options=OPTIONS))
        assert status(monque_database, job.id) == JobStatus.PROCESSING

        await other.monque.start()
        document = await completed(monque_database, job.id)

    assert (document["attempts"], document["failCount"], other.runs) == (2, 0, [job.id])
    assert [event.count for event in other.recovered] == [1]
    assert not entries(monque_database)


async def test_crash_in_the_handler_runs_the_job_again_when_the_lease_is_over(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with second(monque_uri) as other:
        job = await other.monque.enqueue("job", {"kill": True})
        await crash(start_process(options=OPTIONS))
        claimed = monque_database.monque_jobs.find_one({"_id": job.id})
        assert claimed is not None

        await other.monque.start()
        document = await completed(monque_database, job.id)

    assert (document["attempts"], other.runs, entries(monque_database)) == (2, [job.id], {job.id: 1})
    assert (document["updatedAt"] - claimed["lastHeartbeat"]).total_seconds() >= LEASE


async def test_crash_between_handler_and_settle_runs_the_job_again(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with second(monque_uri) as other:
        job = await other.monque.enqueue("job")
        await crash(start_process(crash="before the settle", options=OPTIONS))
        assert status(monque_database, job.id) == JobStatus.PROCESSING

        await other.monque.start()
        await completed(monque_database, job.id)

    assert (entries(monque_database), other.runs) == ({job.id: 1}, [job.id])


async def test_crash_between_settle_and_event_loses_the_event_only(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with second(monque_uri) as other:
        job = await other.monque.enqueue("job")
        process = start_process(crash="after the settle", options=OPTIONS)
        await crash(process)
        assert status(monque_database, job.id) == JobStatus.COMPLETED

        marker = await other.monque.enqueue("job")
        await other.monque.start()
        await completed(monque_database, marker.id)

    assert process.told("job:complete") == []
    assert (entries(monque_database), other.runs) == ({job.id: 1}, [marker.id])


async def test_crash_during_stop_leaves_running_jobs_to_others_when_the_lease_is_over(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with second(monque_uri) as other:
        job = await other.monque.enqueue("job", {"seconds": 1000})
        process = start_process(crash="during stop", options=OPTIONS)
        await patiently(lambda: entries(monque_database)[job.id])
        process.send(signal.SIGTERM)
        await crash(process)
        assert status(monque_database, job.id) == JobStatus.PROCESSING

        await other.monque.start()
        await completed(monque_database, job.id)

    assert other.runs == [job.id]


@pytest.mark.parametrize("point", ["before the recovery", "after the recovery"])
async def test_crash_of_the_process_that_recovers_leaves_the_recovery_to_the_next(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any], point: str
) -> None:
    async with second(monque_uri) as other:
        job = await other.monque.enqueue("job")
        await crash(start_process(crash="after the claim", options=OPTIONS))
        await crash(start_process(crash=point, options=OPTIONS))
        was = status(monque_database, job.id)

        await other.monque.start()
        document = await completed(monque_database, job.id)

    assert was == (JobStatus.PROCESSING if point.startswith("before") else JobStatus.PENDING)
    assert (document["attempts"], other.runs, len(other.recovered)) == (2, [job.id], was == JobStatus.PROCESSING)


async def test_a_recovery_that_the_server_refused_is_tried_again_long_before_the_next_poll(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    name = f"refused-{time.monotonic_ns()}"
    async with AsyncMongoClient[Any](monque_uri, appname=name) as client:
        recoverer = Second(client, Options(polling=Polling(safety=120, interval=120)))
        async with recoverer.monque:
            job = await recoverer.monque.enqueue("job")
            await crash(start_process(crash="after the claim", options=OPTIONS))
            await fail_once(client, name, "update", errorCode=8000)
            await recoverer.monque.start()
            await completed(monque_database, job.id)

    assert [e.error.code for e in recoverer.errors if isinstance(e.error, OperationFailure)] == [8000]
    assert recoverer.runs == [job.id]


async def test_an_instance_that_lost_its_lease_thread_says_so_claims_nothing_more_and_overwrites_nothing(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with second(monque_uri) as other:
        job = await other.monque.enqueue("job", {"seconds": LEASE + 6})
        process = start_process(crash="in the lease thread", options=OPTIONS)
        await patiently(lambda: entries(monque_database)[job.id])
        await other.monque.start()
        document = await completed(monque_database, job.id)
        assert not process.is_healthy()
        (lost,) = await process.until_told("job:lost")

        assert (lost["job"], document["attempts"], other.runs) == (str(job.id), 2, [job.id])
        assert process.told("job:complete") == []
        assert monque_database.monque_jobs.find_one({"_id": job.id}) == document
        # It holds nothing any more, and still it is not well.
        reports = len(process.told("health"))
        await patiently(lambda: len(process.told("health")) > reports + 1)
        assert not process.is_healthy()
        await process.stopped()


async def test_an_error_nobody_foresaw_in_the_lease_thread_is_reported_and_the_lease_renewed_all_the_same(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with second(monque_uri) as other:
        job = await other.monque.enqueue("job", {"seconds": 2 * LEASE})
        process = start_process(crash="in one renewal", options=OPTIONS)
        await patiently(lambda: entries(monque_database)[job.id])
        await other.monque.start()
        document = await completed(monque_database, job.id)

        assert [error["error"] for error in process.told("job:error")] == ["out of the blue"]
        assert (document["attempts"], other.runs, other.recovered) == (1, [], [])
        await process.stopped()


async def test_a_frozen_process_loses_its_jobs_and_writes_nothing_when_it_wakes(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with second(monque_uri) as other:
        job = await other.monque.enqueue("job", {"seconds": 3})
        process = start_process(options=OPTIONS)
        await patiently(lambda: entries(monque_database)[job.id])
        process.send(signal.SIGSTOP)
        await other.monque.start()
        document = await completed(monque_database, job.id)
        process.send(signal.SIGCONT)
        (lost,) = await process.until_told("job:lost")

        assert (lost["job"], process.told("job:complete")) == (str(job.id), [])
        assert monque_database.monque_jobs.find_one({"_id": job.id}) == document
        await process.stopped()
