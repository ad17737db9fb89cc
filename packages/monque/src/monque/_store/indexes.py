"""The indexes, few and lean: all are partial, so that a settled job is in no index but its own.

monque_claim    which job is next, by name
monque_due      when the next prioritised job is due; for normal ones monque_claim serves
monque_lease    whose lease ran out
monque_unique   one pending or processing job per name and unique key
monque_settled  what has ended, for people: written once, when a job is settled
monque_expiry   what has ended and is to be deleted, and when; only where there is a retention
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo import ASCENDING, DESCENDING, IndexModel

from monque.job import JobStatus

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

CLAIM = "monque_claim"
DUE = "monque_due"
LEASE = "monque_lease"
UNIQUE = "monque_unique"
SETTLED = "monque_settled"
EXPIRY = "monque_expiry"

UNIQUE_FIELDS = ["name", "uniqueKey"]
# Highest priority first, absent (normal) after the negative ones: see `Flow.look` for what follows from that.
CLAIM_ORDER = [("priority", DESCENDING), ("nextRunAt", ASCENDING), ("_id", ASCENDING)]
ACTIVE = [JobStatus.PENDING.value, JobStatus.PROCESSING.value]
ENDED = [JobStatus.COMPLETED.value, JobStatus.FAILED.value, JobStatus.CANCELLED.value]


def models() -> list[IndexModel]:
    """Every index Monque needs."""
    return [
        IndexModel(
            [("name", ASCENDING), *CLAIM_ORDER], name=CLAIM, partialFilterExpression={"status": JobStatus.PENDING.value}
        ),
        IndexModel(
            [("name", ASCENDING), ("nextRunAt", ASCENDING)],
            name=DUE,
            partialFilterExpression={"status": JobStatus.PENDING.value, "priority": {"$exists": True}},
        ),
        IndexModel(
            [("lastHeartbeat", ASCENDING)],
            name=LEASE,
            partialFilterExpression={"status": JobStatus.PROCESSING.value},
        ),
        IndexModel(
            [(field, ASCENDING) for field in UNIQUE_FIELDS],
            name=UNIQUE,
            unique=True,
            partialFilterExpression={"uniqueKey": {"$exists": True}, "status": {"$in": ACTIVE}},
        ),
        IndexModel(
            [("status", ASCENDING), ("name", ASCENDING), ("updatedAt", ASCENDING)],
            name=SETTLED,
            partialFilterExpression={"status": {"$in": ENDED}},
        ),
    ]


def expiry() -> IndexModel:
    """The index by which the server deletes jobs.

    Only what has ended is in it: other programs that make jobs pending again know nothing of `expireAt`.
    """
    return IndexModel(
        [("expireAt", ASCENDING)],
        name=EXPIRY,
        expireAfterSeconds=0,
        partialFilterExpression={"expireAt": {"$exists": True}, "status": {"$in": ENDED}},
    )


async def create(collection: AsyncCollection[dict[str, Any]]) -> None:
    """Create those that are missing."""
    await collection.create_indexes(models())


async def create_expiry(collection: AsyncCollection[dict[str, Any]]) -> None:
    """Create the index by which the server deletes jobs, if it is missing."""
    await collection.create_indexes([expiry()])
