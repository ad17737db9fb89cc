"""Which jobs are meant."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from monque._intake import check_moment
from monque._names import check_tags
from monque.errors import InvalidArgumentError, InvalidJobIdentifierError
from monque.job import JobStatus

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["JobFilter"]

Document = dict[str, Any]

_LONGEST_ERROR = 1000
# The field of the document for each of the times of a job.
TIMES = {"created": "createdAt", "updated": "updatedAt", "due": "nextRunAt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs are meant: those to which all of this applies. What is None does not matter.

    Attributes:
        name: One job name, or several.
        status: One status, or several.
        ids: Job ids, as ObjectIds or their 24 hexadecimal digits; an empty collection means no job at all.
        unique_key: The key they were enqueued with; it needs `name` beside it, since a key belongs to a name.
        tags: A tag, or several, of which they have all.
        created_from: They were enqueued then or later; an aware datetime, like all times here.
        created_until: They were enqueued before.
        updated_from: Their state changed last then or later.
        updated_until: Their state changed last before.
        due_from: They are due then or later, or were.
        due_until: They are due before, or were.
        error: Text that is somewhere in `fail_reason`, whatever the case of its letters. No index helps with that:
            the jobs to which the rest applies are read, some thousands at a time.

    Raises:
        InvalidArgumentError: One of them makes no sense.

    Example:
        >>> JobFilter(name="send-email", status=JobStatus.FAILED, error="timed out").name
        'send-email'
    """

    name: str | Collection[str] | None = None
    status: JobStatus | Collection[JobStatus] | None = None
    ids: Collection[ObjectId | str] | None = None
    unique_key: str | None = None
    tags: str | Collection[str] | None = None
    created_from: datetime | None = None
    created_until: datetime | None = None
    updated_from: datetime | None = None
    updated_until: datetime | None = None
    due_from: datetime | None = None
    due_until: datetime | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        job_names(self)
        statuses(self)
        job_ids(self)
        for time in TIMES:
            span(self, time)
        if self.unique_key is not None and (self.name is None or not isinstance(self.unique_key, str)):
            raise InvalidArgumentError("unique_key", self.unique_key, "a string, and a name beside it")
        if self.tags is not None and not check_tags(self.tags):
            raise InvalidArgumentError("tags", self.tags, "one tag at least")
        if self.error is not None:
            _check_error(self.error)


def check_filter(filter: object, *, all: bool = True) -> None:  # noqa: A002  what they are
    """Refuse what is no filter, and an empty one unless all jobs are meant."""
    if not isinstance(filter, JobFilter):
        raise InvalidArgumentError("filter", filter, "a JobFilter")
    if filter == JobFilter() and not all:
        raise InvalidArgumentError("filter", filter, "a filter that is not empty, or all=True if all jobs are meant")


def conditions(filter: JobFilter, prefix: str = "") -> Document:  # noqa: A002  what it is
    """All of a filter but the status and the ids, as a query; for documents that lie under `prefix`."""
    query: Document = {}
    names = job_names(filter)
    if names is not None:
        query[f"{prefix}name"] = {"$in": names}
    if filter.unique_key is not None:
        query[f"{prefix}uniqueKey"] = filter.unique_key
    if filter.tags is not None:
        query[f"{prefix}tags"] = {"$all": list(check_tags(filter.tags))}
    for time, field in TIMES.items():
        if limits := span(filter, time):
            query[f"{prefix}{field}"] = limits
    if filter.error is not None:
        query[f"{prefix}failReason"] = {"$regex": re.escape(filter.error), "$options": "i"}
    return query


def only(filter: JobFilter, *names: str) -> bool:  # noqa: A002  what it is
    """Whether nothing but these is said in a filter."""
    return all(getattr(filter, field.name) is None for field in fields(filter) if field.name not in names)


def job_names(filter: JobFilter) -> list[str] | None:  # noqa: A002  what it is
    """The names in a filter, if it has any."""
    if filter.name is None:
        return None
    names: object = [filter.name] if isinstance(filter.name, str) else filter.name
    if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        raise InvalidArgumentError("name", filter.name, "a job name, or a collection of them")
    return list(dict.fromkeys(str(name) for name in names))


def statuses(filter: JobFilter) -> list[JobStatus] | None:  # noqa: A002  what it is
    """The statuses in a filter, if it has any, in the order of a job's life."""
    if filter.status is None:
        return None
    try:
        wanted = {
            JobStatus(status) for status in ([filter.status] if isinstance(filter.status, str) else filter.status)
        }
    except (TypeError, ValueError):
        raise InvalidArgumentError(
            "status", filter.status, "a status, or a collection of them: " + ", ".join(JobStatus)
        ) from None
    return [status for status in JobStatus if status in wanted]


def job_ids(filter: JobFilter) -> list[ObjectId] | None:  # noqa: A002  what it is
    """The ids in a filter, if it has any."""
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


def span(filter: JobFilter, time: str) -> Document:  # noqa: A002  what it is
    """Between which limits a time of the jobs is to be, if it matters."""
    values = {word: getattr(filter, f"{time}_{word}") for word in ("from", "until")}
    limits = {word: _limit(f"{time}_{word}", value) for word, value in values.items() if value is not None}
    if len(limits) == 2 and limits["from"] >= limits["until"]:
        raise InvalidArgumentError(f"{time}_until", values["until"], f"a time after {time}_from, {values['from']!r}")
    return {{"from": "$gte", "until": "$lt"}[word]: limit for word, limit in limits.items()}


def _limit(argument: str, value: object) -> datetime:
    moment = check_moment(argument, value)
    try:
        # What is stored has whole milliseconds: all from the next one on, or all before it.
        return moment + timedelta(microseconds=-moment.microsecond % 1000)
    except OverflowError:
        return moment


def _check_error(text: object) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= _LONGEST_ERROR or not _is_storable(text):
        raise InvalidArgumentError("error", text, f"a text of 1 to {_LONGEST_ERROR:,} characters, and no NUL")


def _is_storable(text: str) -> bool:
    return "\0" not in text and text == text.encode("utf-8", "replace").decode("utf-8")
