"""How long it takes from an `enqueue` call in one process until the handler is entered in another, at low load.

Beside it, in the same run: one acknowledged insert, one change event, one claim, with the driver alone.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from _common import Document, Row, parser, percentile, report, scratch, server
from bson import ObjectId
from pymongo import AsyncMongoClient, WriteConcern

from monque import Job, Monque

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pymongo.asynchronous.change_stream import AsyncChangeStream
    from pymongo.asynchronous.collection import AsyncCollection

CONSUME = "consume"
PARTS = ("insert", "event", "claim")


async def consume(uri: str, database: str, jobs: int) -> None:
    """The other process: says when it listens, and in the end how late each job was, in milliseconds."""
    late: list[float] = []
    listening, done = asyncio.Event(), asyncio.Event()
    async with AsyncMongoClient[Document](uri, tz_aware=True) as client, Monque(client[database]) as monque:

        @monque.worker("job", concurrency=100)
        async def note(job: Job[dict[str, float]]) -> None:
            # The monotonic clock is that of the machine, and the same in all its processes.
            late.append((time.monotonic() - job.data["called"]) * 1000)
            if len(late) == jobs:
                done.set()

        monque.on("changestream:connected", lambda _: listening.set())
        await monque.start()
        await listening.wait()
        print("listening", flush=True)
        await done.wait()
    print(json.dumps(late), flush=True)


async def timed(work: Awaitable[Any]) -> float:
    started = time.monotonic()
    await work
    return (time.monotonic() - started) * 1000


async def bare_pick_up(
    collection: AsyncCollection[Document], stream: AsyncChangeStream[Document], document: Document
) -> dict[str, float]:
    """Milliseconds: an insert, the event about it from then on, and a claim."""
    job = ObjectId()
    event = asyncio.ensure_future(timed(_event_of(stream, job)))
    started = time.monotonic()
    await collection.insert_one({**document, "_id": job})
    insert = (time.monotonic() - started) * 1000
    # What has come before the acknowledgement costs nothing more.
    until_event = await event
    claim = await timed(
        collection.find_one_and_update({"_id": job, "status": "pending"}, {"$set": {"status": "processing"}})
    )
    return {"insert": insert, "event": max(until_event - insert, 0.0), "claim": claim}


async def _event_of(stream: AsyncChangeStream[Document], job: ObjectId) -> None:
    async for change in stream:
        if change["documentKey"]["_id"] == job:
            return


async def produce(uri: str, database: str, jobs: int, rate: float) -> list[dict[str, float]]:
    """Enqueue at a steady pace, and do a bare pick-up half-way between two jobs."""
    bare: list[dict[str, float]] = []
    async with AsyncMongoClient[Document](uri, tz_aware=True) as client, Monque(client[database]) as monque:
        majority = WriteConcern("majority")
        collection = client[database].get_collection("bare", write_concern=majority)
        document = {"name": "job", "data": {"called": time.monotonic()}, "status": "pending"}
        async with await collection.watch([{"$match": {"operationType": "insert"}}]) as stream:
            await bare_pick_up(collection, stream, document)
            begin = time.monotonic()
            for number in range(jobs):
                await _sleep_until(begin + number / rate)
                await monque.enqueue("job", {"called": time.monotonic()})
                await _sleep_until(begin + (number + 0.5) / rate)
                bare.append(await bare_pick_up(collection, stream, document))
    return bare


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(moment - time.monotonic(), 0))


async def run(uri: str | None, *, jobs: int, rate: float) -> list[Row]:
    async with server(uri) as address, scratch(address) as database:
        command = (sys.executable, __file__, CONSUME, address, database.name, str(jobs))
        consumer = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert consumer.stdout is not None
        try:
            assert await consumer.stdout.readline() == b"listening\n"
            bare = await produce(address, database.name, jobs, rate)
            late: list[float] = json.loads(await consumer.stdout.readline())
        finally:
            if consumer.returncode is None and not consumer.stdout.at_eof():
                consumer.terminate()
            await consumer.wait()
    sums = [sum(parts.values()) for parts in bare]
    rows = [_row(f"bare {part}", [parts[part] for parts in bare]) for part in PARTS]
    ratio = statistics.median(late) / statistics.median(sums)
    return [
        *rows,
        _row("bare sum", sums),
        _row("monque", late),
        {"": "ratio", "p50, ms": round(ratio, 2), "p99, ms": ""},
    ]


def _row(what: str, milliseconds: list[float]) -> Row:
    p50, p99 = (round(percentile(milliseconds, share), 2) for share in (0.5, 0.99))
    return {"": what, "p50, ms": p50, "p99, ms": p99}


def main() -> None:
    if sys.argv[1:2] == [CONSUME]:
        _, _, uri, database, jobs = sys.argv
        asyncio.run(consume(uri, database, int(jobs)))
        return
    options = parser(__doc__)
    options.add_argument("--jobs", type=int, default=100)
    options.add_argument("--rate", type=float, default=10, help="jobs per second")
    chosen = options.parse_args()
    settings = {"jobs": chosen.jobs, "rate": chosen.rate}
    report("latency", asyncio.run(run(chosen.uri, **settings)), as_json=chosen.json, **settings)


if __name__ == "__main__":
    main()
