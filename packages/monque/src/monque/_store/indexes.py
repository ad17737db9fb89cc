"""The indexes. What a claim or a settle has to write is kept small: most indexes are partial, and hold few jobs.

For the engine:

monque_claim    which job is next, by name
monque_urgent   when the next prioritised job is due; for normal ones monque_claim serves
monque_lease    whose lease ran out
monque_unique   one pending or processing job per name and unique key
monque_expiry   what has ended and is to be deleted, and when; only where there is a retention

For people:

monque_ended    what has ended, by when: written once, when a job is settled
monque_created  all jobs, by when they were made: written once, when they are
monque_planned  all jobs, by when they are due, or were
monque_undone   the failed and cancelled ones, by when they were made: a job that completes is never in it
monque_key      jobs with a unique key, whatever their status
monque_tags     jobs with tags
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo import ASCENDING, DESCENDING, IndexModel

from monque.job import JobStatus

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

CLAIM = "monque_claim"
URGENT = "monque_urgent"
LEASE = "monque_lease"
UNIQUE = "monque_unique"
EXPIRY = "monque_expiry"
ENDED_AT = "monque_ended"
CREATED = "monque_created"
PLANNED = "monque_planned"
UNDONE = "monque_undone"
KEY = "monque_key"
TAGS = "monque_tags"

UNIQUE_FIELDS = ["name", "uniqueKey"]
# Highest priority first, absent (normal) after the negative ones: see `Flow.look` for what follows from that.
CLAIM_ORDER = [("priority", DESCENDING), ("nextRunAt", ASCENDING), ("_id", ASCENDING)]
ACTIVE = [JobStatus.PENDING.value, JobStatus.PROCESSING.value]
ENDED = [JobStatus.COMPLETED.value, JobStatus.FAILED.value, JobStatus.CANCELLED.value]


def models() -> list[IndexModel]:
    """Every index Monque needs."""
    pending = {"status": JobStatus.PENDING.value}
    return [
        IndexModel([("name", ASCENDING), *CLAIM_ORDER], name=CLAIM, partialFilterExpression=pending),
        _index(URGENT, "name", "nextRunAt", "_id", only={**pending, "priority": {"$exists": True}}),
        _index(LEASE, "lastHeartbeat", only={"status": JobStatus.PROCESSING.value}),
        IndexModel(
            [(field, ASCENDING) for field in UNIQUE_FIELDS],
            name=UNIQUE,
            unique=True,
            partialFilterExpression={"uniqueKey": {"$exists": True}, "status": {"$in": ACTIVE}},
        ),
        _index(ENDED_AT, "status", "name", "updatedAt", "_id", only={"status": {"$in": ENDED}}),
        _index(CREATED, "name", "createdAt", "_id"),
        _index(PLANNED, "name", "nextRunAt", "_id"),
        _index(UNDONE, "status", "name", "createdAt", "_id", only={"status": {"$in": ENDED[1:]}}),
        _index(KEY, *UNIQUE_FIELDS, "createdAt", "_id", only={"uniqueKey": {"$exists": True}}),
        _index(TAGS, "tags", "createdAt", "_id", only={"tags": {"$exists": True}}),
    ]


def _index(name: str, *fields: str, only: dict[str, Any] | None = None) -> IndexModel:
    partial = {"partialFilterExpression": only} if only else {}
    return IndexModel([(field, ASCENDING) for field in fields], name=name, **partial)


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
