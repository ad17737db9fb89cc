"""Monque with its defaults: every write acknowledged by a majority, leases renewed, results fenced by claim tokens."""

from __future__ import annotations

import asyncio
import time

from _protocol import CALLED, Order, Tally, order, ready, took

from monque import Job, JobCompleteEvent, Monque

_AT_ONCE = 1000
_CONCURRENCY = 500


def connection(asked: Order) -> Monque:
    scheme, _, options = asked.uri.partition("?")
    return Monque(f"{scheme.rstrip('/')}/{asked.database}?{options}")


async def enqueue(asked: Order) -> None:
    async with connection(asked) as monque:
        started = ready("monque", "pymongo")
        for start in range(0, asked.jobs, _AT_ONCE):
            number = min(_AT_ONCE, asked.jobs - start)
            await monque.enqueue_many(("job", {CALLED: time.monotonic()}) for _ in range(number))
        took(started)


async def pace(asked: Order) -> None:
    async with connection(asked) as monque:
        started = ready("monque", "pymongo")
        for _ in range(asked.jobs):
            await asyncio.sleep(asked.pause)
            await monque.enqueue("job", {CALLED: time.monotonic()})
        took(started)


async def work(asked: Order) -> None:
    tally, all_done = Tally(asked.jobs), asyncio.Event()
    monque = connection(asked)

    @monque.worker("job", concurrency=_CONCURRENCY)
    async def note(job: Job[dict[str, float]]) -> None:
        tally.entered(job.data[CALLED])

    def count(_: JobCompleteEvent) -> None:
        if tally.done():
            all_done.set()

    monque.on("job:complete", count)
    async with monque:
        tally.started = ready("monque", "pymongo")
        await monque.start()
        await all_done.wait()


def main() -> None:
    asked = order()
    asyncio.run({"enqueue": enqueue, "pace": pace, "work": work}[asked.role](asked))


if __name__ == "__main__":
    main()
