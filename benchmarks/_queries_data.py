"""A collection like one that has been in use for a month: nearly all jobs have ended, some wait, a few run."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from bson import ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _common import Document
    from pymongo.asynchronous.database import AsyncDatabase

NAMES = [f"task-{number:02}" for number in range(20)]
PROCESSING = 50
CUSTOMERS = 1000
MONTH = timedelta(days=30)
_BATCH = 5000
_REASONS = ["TimeoutError: no answer within 30 s", "ValueError: no such customer", "ConnectionError: refused"]


async def fill(database: AsyncDatabase[Document], ended: int, pending: int, now: datetime) -> None:
    """Put jobs there: so many that have ended, over a month, and so many that wait, of which a tenth is due."""
    collection = database["monque_jobs"]
    batch: list[Document] = []
    for document in _documents(ended, pending, now):
        batch.append(document)
        if len(batch) == _BATCH:
            await collection.insert_many(batch, ordered=False)
            batch = []
    await collection.insert_many(batch, ordered=False)


def _documents(ended: int, pending: int, now: datetime) -> Iterator[Document]:
    chance = random.Random(0)  # noqa: S311  the same data every time
    for number in range(ended):
        yield _ended(chance, number, now - MONTH + MONTH * (number / ended))
    for number in range(pending):
        due = now - timedelta(minutes=5) if number % 10 == 0 else now + timedelta(hours=chance.uniform(0, 100))
        yield _job(chance, now - timedelta(hours=chance.uniform(0, 100)), due, status="pending")
    for _ in range(PROCESSING):
        began = now - timedelta(seconds=chance.uniform(0, 60))
        held = {"claimedBy": "somebody", "claimToken": "t", "lockedAt": began, "lastHeartbeat": now}
        yield _job(chance, began, began, status="processing", startedAt=began, attempts=1, **held)


def _ended(chance: random.Random, number: int, created: datetime) -> Document:
    started = created + timedelta(seconds=chance.expovariate(1))
    ended = started + timedelta(seconds=chance.expovariate(0.5))
    status = "completed"
    more: Document = {}
    if chance.random() < 0.02:
        status, more = "failed", {"failReason": chance.choice(_REASONS), "failCount": 3}
    elif chance.random() < 0.01:
        status = "cancelled"
    if number % 50 == 0:
        more["tags"] = [f"customer-{chance.randrange(CUSTOMERS)}", chance.choice(["eu", "us"])]
    if number % 100 == 0:
        more["uniqueKey"] = f"key-{number}"
    rest = {"updatedAt": ended, "startedAt": started, "settledBy": "t", "attempts": 1, **more}
    return _job(chance, created, created, status=status, **rest)


def _job(chance: random.Random, created: datetime, due: datetime, **more: object) -> Document:
    return {
        "_id": ObjectId(),
        # The later a name comes, the rarer it is.
        "name": NAMES[min(int(chance.expovariate(0.3)), len(NAMES) - 1)],
        "data": {"number": chance.randrange(10**6)},
        "nextRunAt": due,
        "failCount": 0,
        "createdAt": created,
        "updatedAt": created,
        **more,
    }
