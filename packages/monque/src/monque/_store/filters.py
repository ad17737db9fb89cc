"""Which jobs are meant, and the indexes that find them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from monque._store import indexes
from monque.errors import InvalidArgumentError, InvalidJobIdentifierError
from monque.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["JobFilter"]

Document = dict[str, Any]

_INDEX_OF = {
    JobStatus.PENDING: indexes.CLAIM,
    JobStatus.PROCESSING: indexes.LEASE,
    JobStatus.COMPLETED: indexes.SETTLED,
    JobStatus.FAILED: indexes.SETTLED,
    JobStatus.CANCELLED: indexes.SETTLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs are meant: those to which all of this applies. What is None does not matter.

    Attributes:
        name: One job name, or several.
        status: One status, or several.
        ids: Job ids, as ObjectIds or their 24 hexadecimal digits; an empty collection means no job at all.
        unique_key: The key they were enqueued with; it needs `name` beside it, since a key belongs to a name.

    Raises:
        InvalidArgumentError: One of them makes no sense.

    Example:
        >>> JobFilter(name="send-email", status=JobStatus.FAILED).name
        'send-email'
    """

    name: str | Collection[str] | None = None
    status: JobStatus | Collection[JobStatus] | None = None
    ids: Collection[ObjectId | str] | None = None
    unique_key: str | None = None

    def __post_init__(self) -> None:
        job_names(self)
        _statuses(self)
        _ids(self)
        if self.unique_key is not None and (self.name is None or not isinstance(self.unique_key, str)):
            raise InvalidArgumentError("unique_key", self.unique_key, "a string, and a name beside it")


@dataclass(frozen=True, slots=True)
class Scan:
    """Jobs that one index finds: the server takes a partial index only if the query names one status.

    Attributes:
        query: Which jobs.
        index: The name of the index.
    """

    query: Document
    index: str

    def also(self, condition: Document) -> Scan:
        """Those of them to which `condition` applies."""
        return Scan({"$and": [self.query, condition]}, self.index)


def scans(filter: JobFilter, allowed: Sequence[JobStatus]) -> list[Scan]:  # noqa: A002  what it is
    """How to find the jobs of a filter that have one of the allowed statuses."""
    names, wanted, ids = job_names(filter), _statuses(filter), _ids(filter)
    statuses = [status for status in allowed if wanted is None or status in wanted]
    query: Document = {}
    if names is not None:
        query["name"] = {"$in": names}
    if filter.unique_key is not None:
        query["uniqueKey"] = filter.unique_key
    if ids is not None:
        status = {"$in": [status.value for status in statuses]}
        return [Scan({"_id": {"$in": ids}, "status": status, **query}, "_id_")] if ids and statuses else []
    return [Scan({"status": status.value, **query}, _index(status, filter)) for status in statuses]


def _index(status: JobStatus, filter: JobFilter) -> str:  # noqa: A002  what it is
    if filter.unique_key is not None and status in indexes.ACTIVE:
        return indexes.UNIQUE
    return _INDEX_OF[status]


def check_filter(filter: object, *, all: bool) -> None:  # noqa: A002  what they are
    """Refuse what is no filter, and an empty one unless all jobs are meant."""
    if not isinstance(filter, JobFilter):
        raise InvalidArgumentError("filter", filter, "a JobFilter")
    if filter == JobFilter() and not all:
        raise InvalidArgumentError("filter", filter, "a filter that is not empty, or all=True if all jobs are meant")


def job_names(filter: JobFilter) -> list[str] | None:  # noqa: A002  what it is
    """The names in a filter, if it has any."""
    if filter.name is None:
        return None
    names: object = [filter.name] if isinstance(filter.name, str) else filter.name
    if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        raise InvalidArgumentError("name", filter.name, "a job name, or a collection of them")
    return [str(name) for name in names]


def _statuses(filter: JobFilter) -> list[JobStatus] | None:  # noqa: A002  what it is
    if filter.status is None:
        return None
    try:
        return [JobStatus(status) for status in ([filter.status] if isinstance(filter.status, str) else filter.status)]
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            "status", filter.status, "a status, or a collection of them: " + ", ".join(JobStatus)
        ) from None


def _ids(filter: JobFilter) -> list[ObjectId] | None:  # noqa: A002  what it is
    if filter.ids is None:
        return None
    if isinstance(filter.ids, str | bytes) or not isinstance(filter.ids, Collection):
        raise InvalidArgumentError("ids", filter.ids, "a collection of job ids")
    return [object_id(job_id) for job_id in filter.ids]


def object_id(job_id: object) -> ObjectId:
    """Read a job id."""
    if isinstance(job_id, ObjectId):
        return job_id
    if isinstance(job_id, str) and ObjectId.is_valid(job_id):
        return ObjectId(job_id)
    raise InvalidJobIdentifierError("job_id", job_id, "an ObjectId, or its 24 hexadecimal digits")
