"""What came of a run of the demo, asked of the database."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monque import JobStatus
from monque._store.errors import driver_errors
from monque.cli._paths import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pymongo.asynchronous.collection import AsyncCollection

    from monque.cli._place import Place

Rows = list[dict[str, Any]]

LARGEST = 5
EXAMPLES = 10
_FOUND = ("lines", "functions", "classes", "bytes")


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a number of durations in milliseconds; None where there are none."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What came of a run.

    Attributes:
        files: Files that were found.
        enqueued: Jobs; fewer than `files` if the run was interrupted early.
        completed: Jobs in this state, as in the next four.
        seconds: From the first enqueue to the last change of any job.
        jobs_per_second: Jobs that ended, by `seconds`.
        latency_ms: From enqueue to completion.
        handler_ms: How long the handlers took.
        totals: Sums over all files that were analysed.
        largest: Those with the most lines.
        failures: By kind of error: how many, and examples.
        interrupted: Whether it was stopped by a signal.
        server: Where the database is.
        database: Its name.
        collection: The collection of the jobs.
        results: The collection of what they found out.
    """

    files: int
    enqueued: int
    completed: int
    failed: int
    pending: int
    processing: int
    cancelled: int
    seconds: float
    jobs_per_second: float
    latency_ms: Percentiles
    handler_ms: Percentiles
    totals: dict[str, int]
    largest: Rows
    failures: Rows
    interrupted: bool
    server: str
    database: str
    collection: str
    results: str

    @property
    def all_ended(self) -> bool:
        """Whether there is a job for every file, and each has ended."""
        return self.completed + self.failed + self.cancelled == self.enqueued >= self.files


async def summarize(place: Place, root: Path, *, files: int, interrupted: bool) -> Summary:
    """Ask the database.

    Args:
        place: Where the run was.
        root: What file names are shown relative to.
        files: How many files were found.
        interrupted: Whether a signal stopped it.

    Raises:
        ConnectionError: The database does not answer.
    """
    with driver_errors("read the summary"):
        counts = await _counts(place.jobs)
        seconds = await _seconds(place.jobs)
        ended = counts["completed"] + counts["failed"]
        return Summary(
            files=files,
            enqueued=sum(counts.values()),
            **counts,
            seconds=seconds,
            jobs_per_second=round(ended / seconds, 1) if seconds else 0.0,
            latency_ms=percentiles(await _latencies(place.jobs)),
            handler_ms=percentiles(await _durations(place.results)),
            totals=await _totals(place.results),
            largest=await _largest(place.results, root),
            failures=await _failures(place.jobs, root),
            interrupted=interrupted,
            server=place.server,
            database=place.database.name,
            collection=place.jobs.name,
            results=place.results.name,
        )


def percentiles(durations: Sequence[float]) -> Percentiles:
    """The values that 50, 95 and 99 % of `durations`, which are sorted, do not exceed."""

    def at(share: float) -> float | None:
        return round(durations[math.ceil(share * len(durations)) - 1], 1) if durations else None

    return Percentiles(at(0.5), at(0.95), at(0.99))


async def _rows(collection: AsyncCollection[dict[str, Any]], *stages: dict[str, Any]) -> Rows:
    return await (await collection.aggregate(list(stages))).to_list()


async def _counts(jobs: AsyncCollection[dict[str, Any]]) -> dict[str, int]:
    rows = await _rows(jobs, {"$group": {"_id": "$status", "number": {"$sum": 1}}})
    return {status.value: 0 for status in JobStatus} | {row["_id"]: row["number"] for row in rows}


async def _seconds(jobs: AsyncCollection[dict[str, Any]]) -> float:
    rows = await _rows(
        jobs,
        {"$group": {"_id": None, "first": {"$min": "$createdAt"}, "last": {"$max": "$updatedAt"}}},
        {"$project": {"ms": {"$subtract": ["$last", "$first"]}}},
    )
    return rows[0]["ms"] / 1000 if rows else 0.0


async def _latencies(jobs: AsyncCollection[dict[str, Any]]) -> list[float]:
    rows = await _rows(
        jobs,
        {"$match": {"status": JobStatus.COMPLETED.value}},
        {"$project": {"_id": 0, "ms": {"$subtract": ["$updatedAt", "$createdAt"]}}},
        {"$sort": {"ms": 1}},
    )
    return [row["ms"] for row in rows]


async def _durations(results: AsyncCollection[dict[str, Any]]) -> list[float]:
    rows = await results.find({}, {"_id": 0, "ms": 1}).sort("ms").to_list()
    return [row["ms"] for row in rows]


async def _totals(results: AsyncCollection[dict[str, Any]]) -> dict[str, int]:
    sums = {name: {"$sum": f"${name}"} for name in _FOUND}
    rows = await _rows(results, {"$group": {"_id": None, **sums}}, {"$project": {"_id": 0}})
    return rows[0] if rows else dict.fromkeys(_FOUND, 0)


async def _largest(results: AsyncCollection[dict[str, Any]], root: Path) -> Rows:
    fields = dict.fromkeys(("path", *_FOUND), 1)
    rows = await results.find({}, {"_id": 0, **fields}).sort([("lines", -1), ("_id", 1)]).limit(LARGEST).to_list()
    return [{"file": shown(row.pop("path"), root), **row} for row in rows]


async def _failures(jobs: AsyncCollection[dict[str, Any]], root: Path) -> Rows:
    example = {"path": "$data.path", "reason": "$failReason"}
    rows = await _rows(
        jobs,
        {"$match": {"status": JobStatus.FAILED.value}},
        {"$sort": {"_id": 1}},
        {
            "$group": {
                "_id": {"$first": {"$split": ["$failReason", ":"]}},
                "count": {"$sum": 1},
                "examples": {"$firstN": {"input": example, "n": EXAMPLES}},
            }
        },
        {"$sort": {"count": -1, "_id": 1}},
    )
    return [
        {
            "error": row["_id"],
            "count": row["count"],
            "examples": [{"file": shown(each["path"], root), "reason": each["reason"]} for each in row["examples"]],
        }
        for row in rows
    ]
