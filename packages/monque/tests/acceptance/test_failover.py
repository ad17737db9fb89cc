"""A replica set of three, whose primary hands over every two seconds, and one member of which is killed."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from monque import ConnectionError, Lease, Monque, Options
from monque.testing.plugin import with_database

from .support import Process, ReplicaSet, patiently, statuses

if TYPE_CHECKING:
    from collections.abc import Callable


JOBS, GROUPS = 2000, 20


async def enqueue_for_sure(monque: Monque, group: int) -> int:
    """Enqueue a group until it is acknowledged; how often it had to be tried again."""
    size = JOBS // GROUPS
    jobs = [{"name": "job", "unique_key": f"{group}/{n}", "data": {"seconds": 0.02}} for n in range(size)]
    tries = 0
    while True:
        try:
            await monque.enqueue_many(jobs)
        except ConnectionError:
            tries += 1
            await asyncio.sleep(0.1)
        else:
            return tries


async def disrupt(servers: ReplicaSet, done: asyncio.Event) -> int:
    """Step down every two seconds, and kill the third primary; how many times it was."""
    rounds = 0
    while not done.is_set():
        began = time.monotonic()
        await asyncio.to_thread(servers.kill_primary if rounds == 2 else servers.step_down)
        rounds += 1
        try:
            await asyncio.wait_for(done.wait(), max(0.0, began + 2 - time.monotonic()))
        except TimeoutError:
            continue
    return rounds


async def test_two_thousand_jobs_complete_while_the_primary_changes_every_two_seconds(
    three_servers: ReplicaSet, start_process: Callable[..., Process]
) -> None:
    uri = with_database(three_servers.uri, "failover")
    options = {"concurrency": 10, "lease": 10, "interval": 0.5, "safety": 1}
    with three_servers.client() as client:
        database = client.failover
        processes = [start_process(uri=uri, options=options, record=False) for _ in range(2)]
        for process in processes:
            await process.until_told("ready")
        done = asyncio.Event()
        disruption = asyncio.create_task(disrupt(three_servers, done))
        async with Monque(uri, Options(lease=Lease(10))) as producer:
            for group in range(GROUPS):
                await enqueue_for_sure(producer, group)
                await asyncio.sleep(0.5)
        await patiently(lambda: database.monque_jobs.count_documents({"status": "completed"}) == JOBS)
        done.set()
        rounds = await disruption

        assert statuses(database) == {"completed": JOBS}
        assert rounds >= 5
        for process in processes:
            # The same processes as in the beginning, and well again.
            await patiently(process.is_healthy)
            assert process.told("job:complete")
            await process.stopped()
