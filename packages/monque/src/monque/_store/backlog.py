"""What waits and what runs, by name: for those who watch, at a bounded cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pymongo

from monque._store.indexes import CLAIM, LEASE
from monque.job import JobStatus

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

__all__ = ["Backlog"]

# Seconds: whoever asks looks again some time later, and the jobs go first.
_LONGEST_LOOK = 2.0
_MOST_NAMES = 1000
_IS_DUE = {"$lte": ["$nextRunAt", "$$NOW"]}
# What others may have put there is no date, and is none to reckon with.
_DATE = {"$cond": [{"$eq": [{"$type": "$nextRunAt"}, "date"]}, "$nextRunAt", None]}
_PENDING: list[dict[str, Any]] = [
    {"$match": {"status": JobStatus.PENDING.value}},
    {
        "$group": {
            "_id": "$name",
            "pending": {"$sum": 1},
            "due": {"$sum": {"$cond": [_IS_DUE, 1, 0]}},
            "oldest": {"$min": _DATE},
        }
    },
    {"$sort": {"pending": -1}},
    {"$limit": _MOST_NAMES},
    {"$set": {"lag": {"$max": [0, {"$subtract": ["$$NOW", "$oldest"]}]}}},
]
_PROCESSING: list[dict[str, Any]] = [
    {"$match": {"status": JobStatus.PROCESSING.value}},
    {"$group": {"_id": "$name", "processing": {"$sum": 1}}},
    {"$sort": {"processing": -1}},
    {"$limit": _MOST_NAMES},
]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits and what runs under one job name, in all instances.

    Attributes:
        name: The job name.
        pending: How many jobs are pending, those for the future included.
        due: How many of them could start now.
        processing: How many are processing.
        lag: For how long the one that has waited longest has been due; 0 if none is due.

    Example:
        >>> Backlog("send-email", pending=3, due=1).processing
        0
    """

    name: str
    pending: int = 0
    due: int = 0
    processing: int = 0
    lag: timedelta = field(default_factory=timedelta)


async def backlog(jobs: AsyncCollection[dict[str, Any]]) -> list[Backlog]:
    """Count what waits and what runs, by the server's clock, in the order of the names."""
    found: dict[str, dict[str, Any]] = {}
    with pymongo.timeout(_LONGEST_LOOK):
        for pipeline, index in ((_PENDING, CLAIM), (_PROCESSING, LEASE)):
            async for group in await jobs.aggregate(pipeline, hint=index):
                name, _ = group.pop("_id"), group.pop("oldest", None)
                found.setdefault(str(name), {}).update(group)
    return [_backlog(name, **counts) for name, counts in sorted(found.items())]


def _backlog(name: str, lag: float = 0, **counts: int) -> Backlog:
    return Backlog(name, lag=timedelta(milliseconds=lag), **counts)
