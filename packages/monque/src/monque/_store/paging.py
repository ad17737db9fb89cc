"""Pages of jobs, and the cursors that lead from one to the next."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from bson import ObjectId

from monque._store.filters import TIMES, job_ids, job_names, span, statuses
from monque.errors import InvalidArgumentError, InvalidCursorError, JobDocumentError
from monque.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monque._store.filters import Document, JobFilter
    from monque.job import Job

__all__ = ["JobOrder", "Page"]

# By which time jobs are sorted, and by their ids where that is the same; with a minus the latest come first.
JobOrder = Literal["created", "-created", "updated", "-updated", "due", "-due"]

LARGEST_PAGE = 1000
# What a cursor is made of: see `write_cursor`.
_TYPES = [str, bool, str, int, str, bool, bool]
_ORDERS: tuple[str, ...] = get_args(JobOrder)


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs of many, in an order.

    Attributes:
        jobs: The jobs.
        next: The cursor of the page after this one; None if there was none. While there is one, there may be more jobs,
            also if this page has fewer than were asked for, or none.
        previous: The cursor of the page before this one; None at the beginning.
        unreadable: What is on this page, too, but cannot be read as a job: why, by id.
    """

    jobs: list[Job[Any]]
    next: str | None
    previous: str | None
    unreadable: dict[ObjectId, JobDocumentError] = field(default_factory=dict[ObjectId, JobDocumentError])


@dataclass(frozen=True, slots=True)
class Order:
    """A sort order.

    Attributes:
        time: `"created"`, `"updated"` or `"due"`.
        descending: Whether the latest come first.
    """

    time: str
    descending: bool

    @property
    def field(self) -> str:
        """The field of the document."""
        return TIMES[self.time]

    def reversed(self) -> Order:
        """The other way round."""
        return replace(self, descending=not self.descending)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: after a job, or before it; or at it, if it is `inclusive`.

    Attributes:
        time: The job's time, in milliseconds since 1970.
        job: Its id.
        backward: Whether the page is the one before.
        inclusive: Whether the job belongs to it.
    """

    time: int
    job: ObjectId
    backward: bool = False
    inclusive: bool = False

    def turned(self) -> Place:
        """The same place on the way back."""
        return replace(self, backward=not self.backward, inclusive=not self.inclusive)


def check_order(order: object, filter: JobFilter) -> Order:  # noqa: A002  what it is
    """Read a sort order that fits a filter; None is the one that an index gives by itself."""
    wanted = statuses(filter)
    if order is None:
        return _natural(wanted)
    if order not in _ORDERS:
        raise InvalidArgumentError("order", order, "None, or one of " + ", ".join(map(repr, _ORDERS)))
    text = str(order)
    if "due" in text and wanted != [JobStatus.PENDING]:
        # Of the others it would say when they were due, and an index of all jobs is dear.
        expected = "another one; or, beside it, a filter for pending jobs alone, with status='pending'"
        raise InvalidArgumentError("order", order, expected)
    if "updated" in text and (wanted is None or JobStatus.PENDING in wanted):
        # Each claim would have to write to an index of pending jobs by that time.
        expected = "another one; or, beside it, a filter by status, but not for pending jobs, such as status='failed'"
        raise InvalidArgumentError("order", order, expected)
    return Order(text.removeprefix("-"), text.startswith("-"))


def _natural(wanted: Sequence[JobStatus] | None) -> Order:
    if wanted == [JobStatus.PENDING]:
        return Order("due", descending=False)
    return Order("updated" if wanted and JobStatus.PENDING not in wanted else "created", descending=True)


def check_size(argument: str, size: object, largest: int | None = None) -> int:
    """Refuse what is no number of jobs to ask for."""
    if isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= (largest or size):
        return size
    raise InvalidArgumentError(argument, size, "a whole number from 1" + (f" to {largest:,}" if largest else ""))


def check_limit(limit: object) -> int | None:
    """Refuse what is no number of jobs to stop at."""
    return None if limit is None else check_size("limit", limit)


def write_cursor(place: Place, order: Order, filter: JobFilter) -> str:  # noqa: A002  what it is
    """A place, for somebody to keep."""
    return _encoded([*_parts(order, filter), place.time, str(place.job), place.backward, place.inclusive])


def read_cursor(cursor: object, order: Order, filter: JobFilter) -> Place:  # noqa: A002  what it is
    """The place that a cursor says, provided that it belongs to this order and this filter."""
    parts = _decoded(cursor)
    if parts[:3] != _parts(order, filter):
        raise InvalidCursorError("cursor", cursor, "a cursor of a page in the same order and with the same filter")
    return Place(parts[3], ObjectId(parts[4]), parts[5], parts[6])


def _parts(order: Order, filter: JobFilter) -> list[Any]:  # noqa: A002  what it is
    return [order.time, order.descending, _fingerprint(filter)]


def _encoded(parts: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")


def _decoded(cursor: object) -> list[Any]:
    try:
        text = cursor if isinstance(cursor, str) else ""
        parts: Any = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if [type(part) for part in parts] == _TYPES and ObjectId.is_valid(parts[4]) and _encoded(parts) == text:
            return list(parts)
    except (ValueError, TypeError, RecursionError):
        pass
    raise InvalidCursorError("cursor", cursor, "`next` or `previous` of a page, as it is")


def _fingerprint(filter: JobFilter) -> str:  # noqa: A002  what it is
    """What is the same for filters that mean the same."""
    names, wanted, ids = job_names(filter), statuses(filter), job_ids(filter)
    tags = [filter.tags] if isinstance(filter.tags, str) else filter.tags
    limits: list[Document] = [span(filter, time) for time in TIMES]
    said = [
        None if names is None else sorted(names),
        wanted,
        None if ids is None else sorted(str(job) for job in ids),
        filter.unique_key,
        None if tags is None else sorted(set(tags)),
        [{word: limit.isoformat() for word, limit in one.items()} for one in limits],
        filter.error,
    ]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=6).hexdigest()
