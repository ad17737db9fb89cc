"""Waking up across processes: by the change stream and the timer, long before the next poll."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from monque import Monque

from .support import Process, patiently, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

# Whatever comes within this time of its own was not found by polling.
POLL = 60
OPTIONS = {"safety": POLL, "interval": POLL, "concurrency": 20}
# A busy machine; on an idle one it is milliseconds.
SLACK = 10


async def all_completed(database: Database[Any], count: int) -> None:
    await patiently(lambda: statuses(database) == {"completed": count})


async def test_an_idle_process_starts_jobs_of_another_long_before_it_polls(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    await start_process(options=OPTIONS).until_told("changestream:connected")
    async with Monque(monque_uri) as monque:
        for number in range(20):
            await monque.enqueue("job")
            await all_completed(monque_database, number + 1)

    assert [row for row in monque_database.entries.find() if not 0 <= row["late"] < SLACK] == []


async def test_a_hundred_future_jobs_twenty_milliseconds_apart_start_on_time(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with Monque(monque_uri) as monque:
        # Half of them exist before the process starts, so that no change stream told of them.
        await monque.enqueue_many({"name": "job", "delay": 6 + number * 0.02} for number in range(0, 100, 2))
        process = start_process(options=OPTIONS)
        await process.until_told("changestream:connected")
        await monque.enqueue_many({"name": "job", "delay": 6 + number * 0.02} for number in range(1, 100, 2))
        await all_completed(monque_database, 100)

    rows = list(monque_database.entries.find())
    assert len(rows) == 100
    assert [row for row in rows if not 0 <= row["late"] < SLACK] == []


async def test_a_producer_that_never_pauses_starves_nothing(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    await start_process(options=OPTIONS).until_told("changestream:connected")
    async with Monque(monque_uri) as monque:
        first = await monque.enqueue("job")

        async def keep_enqueueing() -> None:
            while True:
                await monque.enqueue("job")
                await monque.enqueue("somebody-else's")
                await asyncio.sleep(0.05)

        producing = asyncio.create_task(keep_enqueueing())
        await patiently(lambda: monque_database.entries.count_documents({}) >= 40)
        assert not producing.done()
        producing.cancel()

    assert monque_database.entries.find_one({"job": first.id})
    assert [row for row in monque_database.entries.find() if not 0 <= row["late"] < SLACK] == []
