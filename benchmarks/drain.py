"""How fast one process works off jobs that do nothing, beside a bare loop that claims and completes in batches."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from _common import Document, Row, parser, report, scratch, server, spread

from monque import Job, JobCompleteEvent, Monque, Options
from monque._store import indexes
from monque._store.flow import job_collection

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

_AT_ONCE = 1000


async def fill(monque: Monque, jobs: int) -> None:
    """Both sides work off documents that Monque made, under the indexes that Monque made."""
    for start in range(0, jobs, _AT_ONCE):
        await monque.enqueue_many(("job", {"n": n}) for n in range(start, min(start + _AT_ONCE, jobs)))


async def drain_with_monque(monque: Monque, jobs: int, concurrency: int) -> float:
    """Seconds from `start()` until the last job is settled."""
    completed = 0
    all_completed = asyncio.Event()

    async def do_nothing(job: Job[Any]) -> None:
        pass

    def count(_: JobCompleteEvent) -> None:
        nonlocal completed
        completed += 1
        if completed == jobs:
            all_completed.set()

    monque.worker("job", do_nothing, concurrency=concurrency)
    monque.on("job:complete", count)
    started = time.perf_counter()
    await monque.start()
    await all_completed.wait()
    return time.perf_counter() - started


async def drain_bare(collection: AsyncCollection[Document], batch: int) -> float:
    """Seconds until nothing is left for: find, claim with a guard on the status, complete."""
    query: Document = {"name": "job", "status": "pending"}
    started = time.perf_counter()
    while True:
        now = datetime.now(UTC)
        found = collection.find({**query, "nextRunAt": {"$lte": now}}, {"_id": 1}).hint(indexes.CLAIM)
        ids = [row["_id"] for row in await found.sort(indexes.CLAIM_ORDER).limit(batch).to_list()]
        if not ids:
            return time.perf_counter() - started
        claim = {"status": "processing", "claimedBy": "bare", "claimToken": "bare", "lockedAt": now}
        await collection.update_many({"_id": {"$in": ids}, "status": "pending"}, {"$set": claim})
        await collection.update_many(
            {"_id": {"$in": ids}, "status": "processing", "claimToken": "bare"},
            {"$set": {"status": "completed"}, "$unset": {"claimedBy": "", "claimToken": "", "lockedAt": ""}},
        )


async def measure(database: AsyncDatabase[Document], way: str, jobs: int, concurrency: int) -> float:
    """Jobs per second, in a fresh collection."""
    options = Options(collection=f"jobs_{time.monotonic_ns()}")
    collection = job_collection(database, options.collection)
    async with Monque(database, options) as monque:
        await fill(monque, jobs)
        if way == "monque":
            seconds = await drain_with_monque(monque, jobs, concurrency)
        else:
            seconds = await drain_bare(collection, concurrency)
    assert await collection.count_documents({"status": "completed"}) == jobs
    await collection.drop()
    return jobs / seconds


async def run(uri: str | None, *, jobs: int, concurrency: int, repetitions: int) -> list[Row]:
    """Both ways in turns, so that what else goes on in the machine meets both."""
    rates: dict[str, list[float]] = {"bare loop": [], "monque": []}
    async with server(uri) as address, scratch(address) as database:
        for way in rates:
            await measure(database, way, min(jobs, concurrency), concurrency)
        for number in range(repetitions):
            for way in sorted(rates, reverse=number % 2 == 1):
                rates[way].append(await measure(database, way, jobs, concurrency))
    ratios = [monque / bare for bare, monque in zip(rates["bare loop"], rates["monque"], strict=True)]
    rows: list[Row] = [{"": f"{way}, jobs/s", **spread(of_way, 0)} for way, of_way in rates.items()]
    return [*rows, {"": "ratio", **spread(ratios)}]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--jobs", type=int, default=10_000)
    options.add_argument("--concurrency", type=int, default=500, help="slots, and the size of a bare batch")
    options.add_argument("--repetitions", type=int, default=5)
    chosen = options.parse_args()
    settings = {"jobs": chosen.jobs, "concurrency": chosen.concurrency, "repetitions": chosen.repetitions}
    rows = asyncio.run(run(chosen.uri, **settings))
    report("drain", rows, as_json=chosen.json, **settings)


if __name__ == "__main__":
    main()
