"""The processes of the soak: one that enqueues, and some that work. Each ends when its standard input does.

The one that enqueues begins when a line comes in.

    python _soak_programs.py produce '{"uri": …, "database": …, "rate": …, "seed": …}'
    python _soak_programs.py work '{"uri": …, "database": …, "label": …, "lease": …}'

What happens is told on standard output, one JSON object per line. What a handler does is told in the collection
`entries`, before it returns: what is settled has left its entry there, whatever became of the process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from typing import TYPE_CHECKING, Any

from _common import Document
from pymongo import AsyncMongoClient, WriteConcern

from monque import Concurrency, Job, Lease, Monque, Options, Retry

if TYPE_CHECKING:
    from monque.events import Event

CRON, CRON_SECONDS = "tick", 5
MAX_RETRIES = 5
# How often the handler of each kind is entered, if no process is killed meanwhile.
RUNS = {"nothing": 1, "retried": 2, "hopeless": MAX_RETRIES, "slow": 1, "future": 1, "keyed": 1, "large": 1}
# Of 20 jobs, how many are of each kind.
MIX = {"nothing": 10, "retried": 2, "hopeless": 1, "slow": 1, "future": 2, "keyed": 2, "large": 2}
_TOLD = ("job:error", "job:lost", "stale:recovered", "changestream:error", "changestream:fallback")


def tell(what: str, **facts: object) -> None:
    print(json.dumps({"what": what, **facts}, default=str), flush=True)


async def end_of_input() -> None:
    await asyncio.to_thread(sys.stdin.read)


# --- enqueueing -------------------------------------------------------------------------------------------------------


async def produce(given: dict[str, Any]) -> None:
    dice = random.Random(given["seed"])  # noqa: S311  it mixes jobs
    async with AsyncMongoClient[Document](given["uri"]) as client, Monque(client[given["database"]]) as monque:
        await monque.schedule(f"*/{CRON_SECONDS} * * * * *", CRON, unique_key=CRON)
        tell("ready")
        await asyncio.to_thread(sys.stdin.readline)
        ending = asyncio.create_task(end_of_input())
        begin, number = time.monotonic(), 0
        while not ending.done():
            kind = dice.choices(list(MIX), list(MIX.values()))[0]
            job = await enqueue(monque, kind, dice)
            tell("enqueued", job=str(job.id))
            number += 1
            await asyncio.wait([ending], timeout=max(begin + number / given["rate"] - time.monotonic(), 0))


async def enqueue(monque: Monque, kind: str, dice: random.Random) -> Job[Any]:
    data: Document = {"kind": kind}
    if kind == "large":
        data["text"] = dice.randbytes(5_000).hex()
    delay = dice.uniform(1, 5) if kind == "future" else None
    # Few keys, so that some are taken.
    unique_key = f"key-{dice.randrange(10)}" if kind == "keyed" else None
    return await monque.enqueue(kind, data, delay=delay, unique_key=unique_key)


# --- working ----------------------------------------------------------------------------------------------------------


async def work(given: dict[str, Any]) -> None:
    options = Options(
        concurrency=Concurrency(20),
        lease=Lease(given["lease"]),
        retry=Retry(max_retries=MAX_RETRIES, base=0.05),
    )
    async with AsyncMongoClient[Document](given["uri"], tz_aware=True) as client:
        database = client[given["database"]]
        entries = database.get_collection("entries", write_concern=WriteConcern("majority"))

        async def handle(job: Job[Any]) -> None:
            late = (time.time() - job.next_run_at.timestamp()) * 1000
            entry = {"job": job.id, "kind": job.name, "by": given["label"], "due": job.next_run_at}
            await entries.insert_one({**entry, "attempt": job.attempts, "late": late})
            await _act(job)

        monque = Monque(database, options)
        for event in _TOLD:
            monque._events.on(event, _report)
        for kind in (*RUNS, CRON):
            monque.worker(kind, handle)
        async with monque:
            await monque.start()
            tell("ready")
            await end_of_input()


async def _act(job: Job[Any]) -> None:
    if job.name == "hopeless" or (job.name == "retried" and job.fail_count == 0):
        raise RuntimeError("as arranged")
    if job.name == "slow":
        await asyncio.sleep(1)


def _report(event: Event) -> None:
    facts = {name: getattr(event, name) for name in ("job", "error", "count", "reason") if hasattr(event, name)}
    tell(event.name, **facts)


def main() -> None:
    # What goes wrong here goes wrong on purpose, and what does not is told.
    logging.getLogger("monque").setLevel(logging.CRITICAL)
    _, task, given = sys.argv
    asyncio.run({"produce": produce, "work": work}[task](json.loads(given)))


if __name__ == "__main__":
    main()
