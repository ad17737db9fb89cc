"""Of the jobs that are due, those with the higher priority run first.

python examples/priorities.py
"""

from __future__ import annotations

import asyncio

from monque import Job, Monque

monque = Monque()
printed = asyncio.Semaphore(0)


@monque.worker("print", concurrency=1)  # one at a time, so that the order shows
async def print_page(job: Job[str]) -> None:
    print(f"{job.priority:+d} {job.data}")
    printed.release()


async def main() -> None:
    async with monque:
        await monque.enqueue("print", "the archive", priority=-5)
        await monque.enqueue("print", "a letter")
        await monque.enqueue("print", "an invoice", priority=5)
        await monque.enqueue("print", "another letter")
        await monque.start()
        for _ in range(4):
            await printed.acquire()


if __name__ == "__main__":
    asyncio.run(main())
