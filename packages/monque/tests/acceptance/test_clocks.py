"""Machines whose clocks are wrong: only the server's counts."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

import pytest

from monque import Monque

from .support import Process, entries, patiently, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

AHEAD, BEHIND = 600, -600


@pytest.mark.parametrize("off", [AHEAD, BEHIND])
async def test_a_process_whose_clock_is_ten_minutes_off_runs_jobs_neither_early_nor_late(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any], off: int
) -> None:
    process = start_process(clock=off, options={"safety": 30, "interval": 30})
    await process.until_told("changestream:connected")
    async with Monque(monque_uri) as monque:
        due = await monque.enqueue("job")
        soon = await monque.enqueue("job", delay=2)
        far = await monque.enqueue("job", delay=300)
        recurring = await monque.schedule("* * * * * *", "job")
        await patiently(
            lambda: entries(monque_database)[recurring.id] >= 3 and {due.id, soon.id} <= entries(monque_database).keys()
        )

    assert entries(monque_database)[far.id] == 0
    rows = list(monque_database.entries.find())
    # Less than the next poll, and far less than the ten minutes.
    assert [row for row in rows if not 0 <= row["late"] < 15] == []
    occurrences = [row["due"] for row in rows if row["job"] == recurring.id]
    assert len(occurrences) == len(set(occurrences))


@pytest.mark.parametrize("off", [AHEAD, BEHIND])
async def test_a_process_whose_clock_is_ten_minutes_off_enqueues_jobs_that_are_due_when_it_means(
    start_process: Callable[..., Process], monque_database: Database[Any], monque_uri: str, off: int
) -> None:
    jobs = [{"name": "job"}, {"name": "job", "delay": 100}]
    producer = start_process(task="produce", clock=off, jobs=jobs)
    producer.go()
    await producer.until_told("enqueued")

    server_time = monque_database.client.admin.command("hello")["localTime"].replace(tzinfo=UTC)
    now, later = sorted(job["nextRunAt"] for job in monque_database.monque_jobs.find())
    assert 0 <= (server_time - now).total_seconds() < 60
    assert (later - now).total_seconds() == pytest.approx(100, abs=5)


@pytest.mark.parametrize("off", [AHEAD, BEHIND])
async def test_processes_whose_clocks_differ_by_ten_minutes_steal_no_lease_from_each_other(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any], off: int
) -> None:
    options = {"lease": 3, "safety": 0.3, "concurrency": 2}
    processes = [start_process(options=options), start_process(options=options, clock=off)]
    for process in processes:
        await process.until_told("ready")
    async with Monque(monque_uri) as monque:
        # Longer than a lease, so that each is kept by renewals.
        jobs = [job.id for job in await monque.enqueue_many([("job", {"seconds": 4})] * 4)]
    await patiently(lambda: statuses(monque_database) == {"completed": 4})

    assert entries(monque_database) == dict.fromkeys(jobs, 1)
    assert len(monque_database.entries.distinct("pid")) == 2
    assert [process.told("job:lost") + process.told("stale:recovered") for process in processes] == [[], []]


@pytest.mark.parametrize("off", [AHEAD, BEHIND])
async def test_a_process_whose_clock_is_ten_minutes_off_recovers_what_another_left_behind(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any], off: int
) -> None:
    lease = 2
    async with Monque(monque_uri) as monque:
        job = await monque.enqueue("job")
    crashed = start_process(crash="after the claim", options={"lease": lease, "safety": 0.5})
    await crashed.ended()
    claimed = monque_database.monque_jobs.find_one()
    assert claimed is not None
    process = start_process(clock=off, options={"safety": 0.5})
    await patiently(lambda: statuses(monque_database) == {"completed": 1})

    assert [fact["count"] for fact in process.told("stale:recovered")] == [1]
    (entry,) = monque_database.entries.find({"job": job.id})
    completed = monque_database.monque_jobs.find_one()
    assert completed is not None
    assert entry["attempt"] == 2
    assert (completed["updatedAt"] - claimed["lastHeartbeat"]).total_seconds() >= lease
