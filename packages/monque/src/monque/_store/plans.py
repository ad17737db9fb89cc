"""Which indexes find the jobs of a filter, and which give them in an order.

An index serves an order if it has the names, and then that time: for each name the jobs are in order, and the server
merges them. So all names have to be said, and where a filter says none, whoever asks has to find them out.

    created   monque_created; monque_key or monque_tags where the filter has a key or a tag
    updated   monque_ended; the jobs that are processing, of which there are never many, are read whole
    due       monque_claim for pending jobs, monque_urgent for those with a priority

Of a filter, an index answers something by its keys. For the rest the jobs have to be read to which the keys lead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bson import MinKey

from monque._names import check_tags
from monque._store import indexes
from monque._store.filters import Document, JobFilter, conditions, job_ids, span, statuses
from monque._store.search import portions
from monque.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

_IDS = "_id_"
_PENDING: Document = {"status": JobStatus.PENDING.value}
# What each index answers by its keys, or by what is in it at all.
_ANSWERED = {
    _IDS: {"_id"},
    indexes.CREATED: {"name", "createdAt"},
    indexes.KEY: {"name", "uniqueKey", "createdAt"},
    indexes.TAGS: {"tags", "createdAt"},
    indexes.ENDED_AT: {"status", "name", "updatedAt"},
    indexes.CLAIM: {"status", "name", "priority", "nextRunAt"},
    indexes.URGENT: {"status", "name", "priority", "nextRunAt"},
    indexes.LEASE: {"status"},
    indexes.UNIQUE: {"status", "name", "uniqueKey"},
}
# Where nothing is said about the first field of an index, the server passes over what is said about the others.
_BY_NAME = (indexes.CREATED, indexes.CLAIM)
_ANY_NAME: Document = {"name": {"$gte": MinKey()}}


@dataclass(frozen=True, slots=True)
class Scan:
    """Jobs that one index finds.

    Attributes:
        index: The name of the index.
        keys: Which jobs, as far as the index answers it by its keys.
        rest: What else they have to be, for which they are read.
        is_whole: Whether there are few to which the keys lead, so that all of them may be read.
    """

    index: str
    keys: Document
    rest: Document = field(default_factory=dict[str, object])
    is_whole: bool = False

    @property
    def query(self) -> Document:
        """Which jobs."""
        return {"$and": [self.keys, self.rest]} if self.rest else self.keys

    @property
    def tally(self) -> Document:
        """What has the server count as many as `keys` do, by keys alone wherever it can."""
        # That a job is pending is in no key, and it would read each: but there is nothing else in that index.
        is_all = self.index == indexes.CLAIM and self.keys == {**_ANY_NAME, **_PENDING}
        return {} if is_all else self.keys

    @property
    def is_open(self) -> bool:
        """Whether more jobs may have to be read than are found, however many."""
        return bool(self.rest) and not self.is_whole

    @property
    def needs_names(self) -> bool:
        """Whether names have to be said for it to be in order."""
        return not self.is_whole and self.index != indexes.TAGS

    def also(self, *conditions: Document) -> Scan:
        """Those of them to which `conditions` apply, which the index answers."""
        return Scan(self.index, {"$and": [self.keys, *conditions]}, self.rest, self.is_whole)


def scans(filter: JobFilter, allowed: Sequence[JobStatus] | None = None) -> list[Scan]:  # noqa: A002  what it is
    """How to find the jobs of a filter that have one of the allowed statuses; None allows all, foreign ones included.

    No job has two of them at a time, and they are in the order of a job's life.
    """
    wanted, ids = _wanted(filter, allowed), job_ids(filter)
    if wanted == [] or ids == []:
        return []
    if ids is not None:
        return [_scan(_IDS, filter, {"_id": {"$in": ids}, **_one_of(wanted)}, is_whole=True)]
    if filter.unique_key is not None:
        return _by_key(filter, wanted)
    if filter.tags is not None or wanted is None:
        return [_by_creation(filter, wanted)]
    return [_scan(_index(status, filter), filter, {"status": status.value}) for status in wanted]


def walks(filter: JobFilter, order: str) -> list[Scan]:  # noqa: A002  what it is
    """How to find the jobs of a filter that fits an order by the indexes that serve it; `by_names` has them do so."""
    wanted = _wanted(filter)
    if wanted == [] or filter.ids is not None:
        return scans(filter)
    if order == "created":
        return [_by_creation(filter, wanted)]
    if order == "due":
        # In its index the priority comes before the time.
        kinds: dict[str, Document] = {
            indexes.CLAIM: {"priority": None},
            indexes.URGENT: {"priority": {"$exists": True}},
        }
        return [_scan(index, filter, {**_PENDING, **kind}) for index, kind in kinds.items()]
    return [
        _scan(indexes.LEASE, filter, {"status": status.value}, is_whole=True)
        if status is JobStatus.PROCESSING
        else _scan(indexes.ENDED_AT, filter, {"status": status.value})
        for status in wanted or ()
    ]


def by_names(scan: Scan, names: Sequence[object]) -> list[Scan]:
    """The same in an order, if all names are these."""
    if not scan.needs_names:
        return [scan]
    return [Scan(scan.index, {**scan.keys, "name": {"$in": list(some)}}, scan.rest) for some in portions(names)]


def _scan(index: str, filter: JobFilter, wanted: Document, *, is_whole: bool = False) -> Scan:  # noqa: A002
    query = {**wanted, **conditions(filter)}
    if index == indexes.TAGS:
        query |= _tagged(filter)
    keys = {name: condition for name, condition in query.items() if name in _ANSWERED[index]}
    rest = {name: condition for name, condition in query.items() if name not in keys}
    return Scan(index, {**_ANY_NAME, **keys} if index in _BY_NAME else keys, rest, is_whole)


def _tagged(filter: JobFilter) -> Document:  # noqa: A002  what it is
    """One tag for the index, and the others so that the server does not take one of those instead."""
    first, *others = check_tags(filter.tags)
    if not others:
        return {"tags": first}
    has = {"$cond": [{"$isArray": "$tags"}, "$tags", ["$tags"]]}
    return {"tags": first, "$expr": {"$setIsSubset": [{"$literal": others}, has]}}


def _wanted(filter: JobFilter, allowed: Sequence[JobStatus] | None = None) -> list[JobStatus] | None:  # noqa: A002
    wanted = statuses(filter)
    if allowed is not None:
        return [status for status in JobStatus if status in allowed and (wanted is None or status in wanted)]
    # When they changed is known by status.
    return list(JobStatus) if wanted is None and span(filter, "updated") else wanted


def _one_of(wanted: Sequence[JobStatus] | None) -> Document:
    return {} if wanted is None else {"status": {"$in": [status.value for status in wanted]}}


def _by_key(filter: JobFilter, wanted: Sequence[JobStatus] | None) -> list[Scan]:  # noqa: A002  what it is
    """One job at most is pending or processing, and any number may have ended."""
    if wanted is None:
        return [_by_creation(filter, wanted)]
    active = [status for status in wanted if status.value in indexes.ACTIVE]
    ended = [status for status in wanted if status.value in indexes.ENDED]
    found = [_scan(indexes.UNIQUE, filter, {"status": status.value}) for status in active]
    return found + ([_by_creation(filter, ended)] if ended else [])


def _by_creation(filter: JobFilter, wanted: Sequence[JobStatus] | None) -> Scan:  # noqa: A002  what it is
    index = indexes.CREATED if filter.tags is None else indexes.TAGS
    return _scan(index if filter.unique_key is None else indexes.KEY, filter, _one_of(wanted))


def _index(status: JobStatus, filter: JobFilter) -> str:  # noqa: A002  what it is
    if status is JobStatus.PENDING:
        return indexes.CLAIM
    if status is JobStatus.PROCESSING:
        return indexes.LEASE
    # Nearly all jobs complete: of those the ones that were made in some time are found by that.
    by_creation = status is JobStatus.COMPLETED and span(filter, "created") and not span(filter, "updated")
    return indexes.CREATED if by_creation else indexes.ENDED_AT
