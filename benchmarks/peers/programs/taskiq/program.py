"""taskiq with its MongoDB broker."""

from __future__ import annotations

import asyncio
import time

from _protocol import Order, Tally, order, ready, took
from taskiq.api import run_receiver_task
from taskiq_mongodb import MongoBroker

PACKAGES = ("taskiq", "taskiq-mongodb", "pymongo")
ASKED = order()
TALLY = Tally(ASKED.jobs)
ALL_DONE = asyncio.Event()
broker = MongoBroker(ASKED.uri, ASKED.database, {"name": "jobs", "poll_interval": 0.1})


@broker.task("job")
async def job(called: float) -> None:
    TALLY.entered(called)
    if TALLY.done():
        ALL_DONE.set()


async def enqueue(asked: Order) -> None:
    await broker.startup()
    started = ready(*PACKAGES)
    left = iter(range(asked.jobs))

    async def one() -> None:
        for _ in left:
            await job.kiq(time.monotonic())

    await asyncio.gather(*(one() for _ in range(50)))
    took(started)
    await broker.shutdown()


async def pace(asked: Order) -> None:
    await broker.startup()
    started = ready(*PACKAGES)
    for pause in asked.pauses():
        await asyncio.sleep(pause)
        await job.kiq(time.monotonic())
    took(started)
    await broker.shutdown()


async def work(_: Order) -> None:
    broker.is_worker_process = True
    await broker.startup()
    TALLY.started = ready(*PACKAGES)
    receiver = asyncio.create_task(run_receiver_task(broker, max_async_tasks=100))
    await ALL_DONE.wait()
    receiver.cancel()
    await asyncio.gather(receiver, return_exceptions=True)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run({"enqueue": enqueue, "pace": pace, "work": work}[ASKED.role](ASKED))
