"""What instances are told, and what they say of themselves: for the instances, in a collection beside the jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from monque._store.stream import open_stream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo.asynchronous.collection import AsyncCollection

    from monque._store.stream import Stream
    from monque.job import Job

Document = dict[str, Any]

# Runs that an instance tells of, those that have taken longest.
MOST_RUNNING = 20
# An instance that has vanished is shown as missing for so long.
_REMEMBERED = timedelta(hours=1)
PAUSE, INSTANCE = "pause:", "instance:"
# What begins with these words, by the index that every collection has: `;` comes after `:`.
PAUSES: Document = {"_id": {"$gte": PAUSE, "$lt": "pause;"}}
INSTANCES: Document = {"_id": {"$gte": INSTANCE, "$lt": "instance;"}}
# One that has run out is deleted some time, and is nothing to anybody until then.
IN_FORCE: Document = {"$or": [{"expireAt": {"$exists": False}}, {"$expr": {"$gt": ["$expireAt", "$$NOW"]}}]}
EXPIRED: Document = {"expireAt": {"$exists": True}, "$expr": {"$lte": ["$expireAt", "$$NOW"]}}


@dataclass(frozen=True, slots=True)
class Orders:
    """What an instance was told.

    Attributes:
        paused: Names of which no jobs are claimed, and until when; None if there is no end to it.
        draining: Whether it claims nothing at all.
    """

    paused: Mapping[str, datetime | None] = field(default_factory=dict[str, "datetime | None"])
    draining: bool = False


def fleet_name(jobs: str) -> str:
    """The name of the collection beside that of the jobs."""
    return f"{jobs}_fleet"


def fleet_of(jobs: AsyncCollection[Document]) -> AsyncCollection[Document]:
    """The collection beside that of the jobs, with the same settings."""
    return jobs.database.get_collection(
        fleet_name(jobs.name),
        codec_options=jobs.codec_options.with_options(unicode_decode_error_handler="replace"),
        write_concern=jobs.write_concern,
        read_concern=jobs.read_concern,
        read_preference=jobs.read_preference,
    )


def told(instance: str) -> tuple[Document, Document]:
    """Filter and fields of what an instance was told."""
    mine = {"$and": [{"$or": [{"_id": instance_id(instance)}, PAUSES]}, IN_FORCE]}
    return mine, {"_id": 0, "order": {"name": "$name", "until": "$expireAt", "draining": "$draining"}, "now": "$$NOW"}


def read_orders(rows: Sequence[Document]) -> Orders:
    """What an instance was told, of rows of which some are about that."""
    orders: list[Document] = [row["order"] for row in rows if "order" in row]
    return Orders(
        {order["name"]: date_of(order.get("until")) for order in orders if "name" in order},
        any(order.get("draining") is True for order in orders),
    )


async def watch_orders(fleet: AsyncCollection[Document], instance: str, *, max_await: float) -> Stream:
    """A stream of hints that some instances, this one perhaps, were told something new."""
    wanted = [
        {"documentKey._id": PAUSES["_id"]},
        {"documentKey._id": instance_id(instance), "updateDescription.updatedFields.draining": {"$exists": True}},
    ]
    return await open_stream(fleet, wanted, {"at": "$wallTime", "order": {"$literal": True}}, max_await=max_await)


def instance_id(instance: str) -> str:
    """Under which id an instance is in the collection."""
    return f"{INSTANCE}{instance}"


def sign_of_life(facts: Mapping[str, object], beat: float) -> list[Document]:
    """The update by which an instance says that it lives, and what it does; `beat` seconds later it will again."""
    return [
        {
            "$set": {
                **{name: {"$literal": value} for name, value in facts.items()},
                "beatInterval": round(beat * 1000),
                "startedAt": {"$ifNull": ["$startedAt", "$$NOW"]},
                "lastBeat": "$$NOW",
                "expireAt": {"$add": ["$$NOW", round(_REMEMBERED.total_seconds() * 1000)]},
                "draining": {"$ifNull": ["$draining", False]},
            }
        }
    ]


def running_facts(jobs: Sequence[Job[Any]]) -> list[Document]:
    """What an instance tells of its runs, in the order given."""
    return [{"job": job.id, "name": job.name, "since": job.locked_at} for job in jobs[:MOST_RUNNING]]


def date_of(value: object) -> datetime | None:
    """A date of a document; one beyond the year 9999 is no datetime, and as good as none."""
    return value if isinstance(value, datetime) else None
