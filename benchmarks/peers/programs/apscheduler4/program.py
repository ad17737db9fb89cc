"""The pre-release of APScheduler 4 with its MongoDB data store."""

from __future__ import annotations

import asyncio
import time

from _protocol import Order, Tally, order, ready, took
from apscheduler import AsyncScheduler
from apscheduler.datastores.mongodb import MongoDBDataStore

PACKAGES = ("apscheduler", "pymongo")
ASKED = order()
TALLY = Tally(ASKED.jobs)
ALL_DONE = asyncio.Event()


async def job(called: float) -> None:
    TALLY.entered(called)
    if TALLY.done():
        ALL_DONE.set()


def scheduler(asked: Order) -> AsyncScheduler:
    store = MongoDBDataStore(asked.uri, database=asked.database)
    return AsyncScheduler(store, max_concurrent_jobs=100)


async def enqueue(asked: Order) -> None:
    async with scheduler(asked) as made:
        await made.configure_task("job", func=job, max_running_jobs=None)
        started = ready(*PACKAGES)
        left = iter(range(asked.jobs))

        async def one() -> None:
            for _ in left:
                await made.add_job("job", args=[time.monotonic()])

        await asyncio.gather(*(one() for _ in range(20)))
        took(started)


async def work(asked: Order) -> None:
    async with scheduler(asked) as made:
        await made.configure_task("job", func=job, max_running_jobs=None)
        TALLY.started = ready(*PACKAGES)
        await made.start_in_background()
        await ALL_DONE.wait()


if __name__ == "__main__":
    asyncio.run({"enqueue": enqueue, "work": work}[ASKED.role](ASKED))
