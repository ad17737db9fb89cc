"""Monque with its defaults: every write acknowledged by a majority, leases renewed, results fenced by claim tokens."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from _protocol import CALLED, Order, Tally, order, ready, took
from pymongo import AsyncMongoClient

from monque import Job, JobCompleteEvent, Monque

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

_AT_ONCE = 1000
_CONCURRENCY = 500


@asynccontextmanager
async def connected(asked: Order) -> AsyncGenerator[Monque]:
    """With nothing set but where the jobs are."""
    client = AsyncMongoClient[dict[str, Any]](asked.uri, tz_aware=True)
    async with client, Monque(client[asked.database]) as monque:
        yield monque


async def enqueue(asked: Order) -> None:
    async with connected(asked) as monque:
        started = ready("monque", "pymongo")
        for start in range(0, asked.jobs, _AT_ONCE):
            number = min(_AT_ONCE, asked.jobs - start)
            await monque.enqueue_many(("job", {CALLED: time.monotonic()}) for _ in range(number))
        took(started)


async def pace(asked: Order) -> None:
    async with connected(asked) as monque:
        started = ready("monque", "pymongo")
        for pause in asked.pauses():
            await asyncio.sleep(pause)
            await monque.enqueue("job", {CALLED: time.monotonic()})
        took(started)


async def work(asked: Order) -> None:
    tally, all_done = Tally(asked.jobs), asyncio.Event()

    async def note(job: Job[Any]) -> None:
        tally.entered(job.data[CALLED])

    def count(_: JobCompleteEvent) -> None:
        if tally.done():
            all_done.set()

    async with connected(asked) as monque:
        monque.worker("job", note, concurrency=_CONCURRENCY)
        monque.on("job:complete", count)
        tally.started = ready("monque", "pymongo")
        await monque.start()
        await all_done.wait()


def main() -> None:
    asked = order()
    asyncio.run({"enqueue": enqueue, "pace": pace, "work": work}[asked.role](asked))


if __name__ == "__main__":
    main()
