"""A job that fails is run again, later each time, until it succeeds or has failed for good.

python examples/retries.py
"""

from __future__ import annotations

import asyncio

from monque import Job, JobFailEvent, Monque, Options, Polling, Retry

# The first retry comes after 2 · base, then 4 · base, … A real one would have a base of a second or more.
monque = Monque(options=Options(retry=Retry(max_retries=3, base=0.02), polling=Polling(interval=0.05)))


@monque.worker("fetch")
async def fetch(job: Job[dict[str, str]]) -> None:
    if job.data["from"] == "nowhere":
        raise LookupError("no such host")
    if job.fail_count < 2:
        raise TimeoutError("no answer")
    print(f"{job.data['from']}: done at attempt {job.attempts}")


def tell(event: JobFailEvent) -> None:
    verdict = "will be retried" if event.will_retry else "has failed for good"
    print(f"{event.job.data['from']}: {event.error}, attempt {event.job.attempts}, {verdict}")


async def main() -> None:
    both_ended = asyncio.Barrier(3)

    async def ended(event: object) -> None:
        if not (isinstance(event, JobFailEvent) and event.will_retry):
            await both_ended.wait()

    monque.on("job:fail", tell)
    monque.on("job:fail", ended)
    monque.on("job:complete", ended)

    async with monque:
        await monque.enqueue("fetch", {"from": "slow-host"})
        await monque.enqueue("fetch", {"from": "nowhere"})
        await monque.start()
        await both_ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
