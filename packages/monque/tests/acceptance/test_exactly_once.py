"""Several processes, one queue: what they do together is what one would have done."""

from __future__ import annotations

import signal
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from monque import JobFailEvent, Lease, Monque, NewJob, Options, Polling, Retry
from monque.testing import eventually

from .support import PATIENCE, Process, entries, patiently, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

Start = "Callable[..., Process]"


async def enqueue(uri: str, count: int, **data: Any) -> list[Any]:
    async with Monque(uri) as monque:
        return [job.id for job in await monque.enqueue_many(("job", {"n": n, **data}) for n in range(count))]


async def test_a_thousand_enqueues_of_one_key_by_four_processes_make_one_job(
    start_process: Callable[..., Process], monque_database: Database[Any]
) -> None:
    wanted = [{"name": "job", "data": {"n": n}, "unique_key": "one"} for n in range(250)]
    producers = [start_process(task="produce", jobs=wanted) for _ in range(4)]
    for producer in producers:
        await producer.until_told("ready")
    for producer in producers:
        producer.go()

    answers = [job for producer in producers for job in (await producer.until_told("enqueued"))[0]["jobs"]]

    (job,) = monque_database.monque_jobs.find()
    assert answers == [str(job["_id"])] * 1000
    assert [await producer.ended() for producer in producers] == [0] * 4


async def test_four_processes_enter_each_of_a_thousand_jobs_exactly_once(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    processes = [start_process(options={"concurrency": 20}) for _ in range(4)]
    for process in processes:
        await process.until_told("ready")
    jobs = await enqueue(monque_uri, 1000)

    await patiently(lambda: statuses(monque_database) == {"completed": 1000})

    assert entries(monque_database) == dict.fromkeys(jobs, 1)
    busy = monque_database.entries.distinct("pid")
    assert set(busy) == {process.pid for process in processes}
    for process in processes:
        await process.stopped()
        assert process.told("job:lost") == process.told("job:error") == process.told("stale:recovered") == []


async def test_with_one_process_killed_and_one_stopped_jobs_of_the_others_run_once_and_none_is_lost(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    lease, poll = 4, 1
    options = {"concurrency": 10, "lease": lease, "safety": poll}
    processes = [start_process(options=options) for _ in range(4)]
    killed, stopped, *others = processes
    for process in processes:
        await process.until_told("ready")
    jobs = await enqueue(monque_uri, 1000, seconds=0.2)

    await patiently(lambda: all(monque_database.entries.count_documents({"pid": p.pid}) > 20 for p in processes))
    # Frozen first, so that what it holds can be read before it is gone.
    killed.send(signal.SIGSTOP)
    held = {
        job["_id"]: job["lastHeartbeat"]
        for job in monque_database.monque_jobs.find({"status": "processing"})
        if monque_database.entries.find_one({"token": job["claimToken"], "pid": killed.pid})
    }
    killed.send(signal.SIGKILL)
    await stopped.stopped()
    assert not left_processing(monque_database, stopped)
    await patiently(lambda: statuses(monque_database) == {"completed": 1000})

    assert held
    counts = entries(monque_database)
    assert counts.keys() == set(jobs)
    assert {job for job, count in counts.items() if count > 1} <= held.keys()
    assert max(counts.values()) == 2
    for process in others:
        await process.stopped()
    # A second entry of a job came once its lease had run out, and within one poll then; server times, and a machine
    # that may take a while over it.
    for job, renewed in held.items():
        (again,) = [row["_id"] for row in monque_database.entries.find({"job": job}).sort("_id", -1).limit(1)]
        assert lease - 1 <= (again.generation_time - renewed).total_seconds() <= lease + poll + 8


def left_processing(database: Database[Any], process: Process) -> bool:
    """Whether something that `process` claimed is still in processing."""
    tokens = database.entries.distinct("token", {"pid": process.pid})
    return database.monque_jobs.count_documents({"status": "processing", "claimToken": {"$in": tokens}}) > 0


async def test_jobs_in_flight_survive_the_stop_of_their_process(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    process = start_process(options={"concurrency": 5})
    await process.until_told("ready")
    jobs = await enqueue(monque_uri, 20, seconds=1)
    await patiently(lambda: len(entries(monque_database)) == 5)

    await process.stopped()

    after = statuses(monque_database)
    assert set(after) <= {"completed", "pending"}
    assert after["completed"] >= 5
    assert {
        row["status"] for row in monque_database.monque_jobs.find({"_id": {"$in": list(entries(monque_database))}})
    } == {"completed"}
    await start_process(options={"concurrency": 20}).until_told("ready")
    await patiently(lambda: statuses(monque_database) == {"completed": 20})
    assert entries(monque_database) == dict.fromkeys(jobs, 1)


async def test_handlers_that_outlast_the_stop_of_their_process_run_again_elsewhere(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    process = start_process(options={"shutdown_timeout": 0.5})
    await process.until_told("ready")
    (job,) = await enqueue(monque_uri, 1, seconds=1000)
    await patiently(lambda: entries(monque_database)[job])

    await process.stopped()

    (error,) = process.told("job:error")
    assert "still running" in error["error"] or str(job) in error["error"]
    released = monque_database.monque_jobs.find_one({"_id": job})
    assert released is not None
    assert (released["status"], released["attempts"]) == ("pending", 0)


async def test_a_job_that_kills_its_process_fails_with_a_reason_once_its_attempts_are_spent(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    options = {"lease": 1.5, "max_retries": 3, "safety": 0.5}
    async with Monque(monque_uri) as monque:
        poison = await monque.enqueue("job", {"kill": True})
        for _ in range(3):
            process = start_process(options=options)
            assert await process.ended() == -signal.SIGKILL
        others = [job.id for job in await monque.enqueue_many([NewJob(name="job")] * 20)]
    recoverer = Monque(monque_uri, Options(lease=Lease(1.5), retry=Retry(3), polling=Polling(safety=0.5)))
    failures: list[JobFailEvent] = []
    recoverer.on("job:fail", failures.append)
    recoverer.worker("job", ignore)
    async with recoverer:
        await recoverer.start()
        await eventually(lambda: failures and statuses(monque_database).get("completed") == 20, timeout=PATIENCE)

    (failure,) = failures
    assert (failure.job.id, failure.will_retry) == (poison.id, False)
    document = monque_database.monque_jobs.find_one({"_id": poison.id})
    assert document is not None
    assert (document["status"], document["attempts"]) == ("failed", 3)
    assert "3" in document["failReason"]
    assert entries(monque_database) == {poison.id: 3}
    assert monque_database.monque_jobs.count_documents({"_id": {"$in": others}, "status": "completed"}) == 20


async def ignore(_: Any) -> None:
    """Do nothing with a job."""


async def test_three_processes_fire_every_occurrence_of_a_cron_job_exactly_once(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    for process in [start_process() for _ in range(3)]:
        await process.until_told("ready")
    async with Monque(monque_uri) as monque:
        await monque.schedule("* * * * * *", "job")
        await patiently(lambda: monque_database.entries.count_documents({}) >= 6)

    rows = sorted(monque_database.entries.find(), key=lambda row: row["due"])
    gaps = [(later["due"] - earlier["due"]).total_seconds() for earlier, later in pairwise(rows)]
    # None twice; a machine that sleeps over a second makes up for it with one run.
    assert all(gap >= 1 for gap in gaps)
    assert sum(gap == 1 for gap in gaps) >= 3
    assert all(row["late"] >= 0 for row in rows)


async def test_a_cron_job_goes_on_when_the_process_that_fires_it_is_killed(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    options = {"lease": 1.5, "safety": 0.5}
    processes = {process.pid: process for process in (start_process(options=options) for _ in range(3))}
    for process in processes.values():
        await process.until_told("ready")
    async with Monque(monque_uri) as monque:
        await monque.schedule("* * * * * *", "job", {"seconds": 0.3})
    (firing,) = await patiently(lambda: list(monque_database.entries.find().limit(1)))
    processes[firing["pid"]].send(signal.SIGKILL)
    await patiently(lambda: monque_database.entries.count_documents({"pid": {"$ne": firing["pid"]}}) >= 5)

    times = [row["due"] for row in monque_database.entries.find({"pid": {"$ne": firing["pid"]}})]
    assert len(times) == len(set(times))
    killed = [row["due"] for row in monque_database.entries.find({"pid": firing["pid"]})]
    assert set(killed[:-1]).isdisjoint(times)
    assert times.count(killed[-1]) <= 1
