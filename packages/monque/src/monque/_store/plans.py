"""Which indexes find the jobs of a filter, and which give them in an order.

An index serves an order if it has the names, and then that time: for each name the jobs are in order, and the server
merges them. So all names have to be said, and where a filter says none, whoever asks has to find them out.

    created   monque_created, monque_key, monque_tags
    updated   monque_ended
    due       monque_claim for pending jobs, monque_urgent for those with a priority

What is not served so is read whole and sorted by the server: pending jobs in other orders than `due`, failed and
cancelled ones by `created`, and processing ones, of which there are never many, in any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bson import MinKey

from monque._store import indexes
from monque._store.filters import Document, JobFilter, conditions, job_ids, job_names, span, statuses
from monque._store.search import portions
from monque.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

_IDS = "_id_"
_ORDER_OF = {
    indexes.CREATED: "created",
    indexes.KEY: "created",
    indexes.ENDED_AT: "updated",
    indexes.CLAIM: "due",
    indexes.URGENT: "due",
}
# Where nothing is said about the first field of an index, the server passes over what is said about the others.
_BY_NAME = (indexes.CREATED, indexes.CLAIM)
_ANY_NAME: Document = {"name": {"$gte": MinKey()}}


@dataclass(frozen=True, slots=True)
class Scan:
    """Jobs that one index finds.

    Attributes:
        query: Which jobs.
        index: The name of the index.
    """

    query: Document
    index: str

    def also(self, *conditions: Document) -> Scan:
        """Those of them to which `conditions` apply."""
        return Scan({"$and": [self.query, *conditions]}, self.index)


def scans(filter: JobFilter, allowed: Sequence[JobStatus] | None = None, order: str | None = None) -> list[Scan]:  # noqa: A002
    """How to find the jobs of a filter that have one of the allowed statuses; None allows all, foreign ones included.

    No job has two of them at a time, and they are in the order of a job's life.
    """
    wanted = _wanted(filter, allowed)
    query = conditions(filter)
    if wanted == [] or job_ids(filter) == []:
        return []
    ids = job_ids(filter)
    if ids is not None:
        return [Scan({"_id": {"$in": ids}, **_one_of(wanted), **query}, _IDS)]
    if filter.unique_key is not None:
        return _by_key(query, wanted)
    if filter.tags is not None:
        return [Scan({**_one_of(wanted), **query}, indexes.TAGS)]
    time = _time(filter, order)
    if wanted is None and time != "updated":
        return [_scan(query, indexes.CREATED)]
    several = JobStatus if wanted is None else wanted
    return [_scan({"status": status.value, **query}, _index(status, time)) for status in several]


def walks(filter: JobFilter, order: str, names: Sequence[object]) -> list[Scan]:  # noqa: A002  what it is
    """How to find the jobs of a filter in an order, if all names are these."""
    return [part for scan in scans(filter, order=order) for part in _in_order(scan, order, names)]


def wants_names(filter: JobFilter, order: str) -> bool:  # noqa: A002  what it is
    """Whether names have to be found out for that."""
    return job_names(filter) is None and any(_ORDER_OF.get(scan.index) == order for scan in scans(filter, order=order))


def _in_order(scan: Scan, order: str, names: Sequence[object]) -> list[Scan]:
    if _ORDER_OF.get(scan.index) != order:
        return [scan]
    parts = [Scan({**scan.query, "name": {"$in": list(some)}}, scan.index) for some in portions(names)]
    if scan.index != indexes.CLAIM:
        return parts
    # There, the priority comes before the time.
    normal = [Scan({**part.query, "priority": None}, part.index) for part in parts]
    return normal + [Scan({**part.query, "priority": {"$exists": True}}, indexes.URGENT) for part in parts]


def _scan(query: Document, index: str) -> Scan:
    return Scan({**_ANY_NAME, **query} if index in _BY_NAME else query, index)


def _wanted(filter: JobFilter, allowed: Sequence[JobStatus] | None) -> list[JobStatus] | None:  # noqa: A002
    wanted = statuses(filter)
    if allowed is None:
        return wanted
    return [status for status in JobStatus if status in allowed and (wanted is None or status in wanted)]


def _one_of(wanted: Sequence[JobStatus] | None) -> Document:
    return {} if wanted is None else {"status": {"$in": [status.value for status in wanted]}}


def _by_key(query: Document, wanted: Sequence[JobStatus] | None) -> list[Scan]:
    """One job at most is pending or processing, and any number may have ended."""
    if wanted is None:
        return [Scan(query, indexes.KEY)]
    active = [Scan({"status": s.value, **query}, indexes.UNIQUE) for s in wanted if s.value in indexes.ACTIVE]
    ended = [status for status in wanted if status.value in indexes.ENDED]
    return active + ([Scan({**_one_of(ended), **query}, indexes.KEY)] if ended else [])


def _time(filter: JobFilter, order: str | None) -> str | None:  # noqa: A002  what it is
    """The time by which jobs are best found: limits are worth more than an order."""
    return next((time for time in ("updated", "created", "due") if span(filter, time)), order)


def _index(status: JobStatus, time: str | None) -> str:
    if status is JobStatus.PENDING:
        return indexes.CLAIM
    if status is JobStatus.PROCESSING:
        return indexes.LEASE
    return indexes.CREATED if status is JobStatus.COMPLETED and time == "created" else indexes.ENDED_AT
