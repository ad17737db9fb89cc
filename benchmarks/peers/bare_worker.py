"""The driver alone: find some, claim them with a guard on their status, complete them, again. What can be had at most.

It calls no handler, renews nothing, retries nothing, and is alone: no queue, but a measure for queues.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from _protocol import CALLED, Order, Tally, order, ready, took
from pymongo import AsyncMongoClient, WriteConcern

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

_AT_ONCE = 1000
_BATCH = 500
_POLL = 0.01


async def collection(client: AsyncMongoClient[dict[str, Any]], asked: Order) -> AsyncCollection[dict[str, Any]]:
    jobs = client[asked.database].get_collection("jobs", write_concern=WriteConcern("majority"))
    await jobs.create_index([("dueAt", 1)], partialFilterExpression={"status": "pending"})
    return jobs


def document() -> dict[str, Any]:
    return {"status": "pending", "dueAt": datetime.now(UTC), "data": {CALLED: time.monotonic()}}


async def enqueue(jobs: AsyncCollection[dict[str, Any]], asked: Order) -> None:
    started = ready("pymongo")
    for start in range(0, asked.jobs, _AT_ONCE):
        await jobs.insert_many([document() for _ in range(min(_AT_ONCE, asked.jobs - start))])
    took(started)


async def pace(jobs: AsyncCollection[dict[str, Any]], asked: Order) -> None:
    started = ready("pymongo")
    for pause in asked.pauses():
        await asyncio.sleep(pause)
        await jobs.insert_one(document())
    took(started)


async def work(jobs: AsyncCollection[dict[str, Any]], asked: Order) -> None:
    tally = Tally(asked.jobs)
    tally.started = ready("pymongo")
    last = False
    while not last:
        due = {"status": "pending", "dueAt": {"$lte": datetime.now(UTC)}}
        found = await jobs.find(due, {"data": 1}).sort("dueAt").limit(_BATCH).to_list()
        if not found:
            await asyncio.sleep(_POLL)
            continue
        ids = {"$in": [job["_id"] for job in found]}
        await jobs.update_many({"_id": ids, "status": "pending"}, {"$set": {"status": "processing", "token": "bare"}})
        for job in found:
            tally.entered(job["data"][CALLED])
        done = {"$set": {"status": "completed"}, "$unset": {"token": ""}}
        await jobs.update_many({"_id": ids, "status": "processing", "token": "bare"}, done)
        last = [tally.done() for _ in found][-1]


async def main() -> None:
    asked = order()
    async with AsyncMongoClient[dict[str, Any]](asked.uri) as client:
        await {"enqueue": enqueue, "pace": pace, "work": work}[asked.role](await collection(client, asked), asked)


if __name__ == "__main__":
    asyncio.run(main())
