"""The job: its value in Python, and the one mapping between it and its document in MongoDB."""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003  NamedTuple reads its annotations
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from bson import DatetimeMS, ObjectId

from monque.errors import JobDocumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Job", "JobStatus"]

T = TypeVar("T")


class JobStatus(StrEnum):
    """The states of a job.

    There is no "scheduled" state: a job for the future is pending, with a later `next_run_at`.

    Example:
        >>> JobStatus("pending") is JobStatus.PENDING
        True
    """

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Generic[T]):
    """A job as it was when it was read; later changes in the database do not show in it.

    All times are aware and in UTC, cut to milliseconds. Fields that are unset are None.

    Attributes:
        id: The document's `_id`.
        name: The name of the worker that runs it.
        data: What was enqueued.
        status: Its state.
        next_run_at: When it is due, or was.
        fail_count: Failed runs so far.
        created_at: When it was enqueued.
        updated_at: When its state changed last.
        unique_key: The key that keeps it from existing twice while pending or processing.
        repeat_interval: The cron expression of a recurring job, verbatim.
        timezone: The IANA zone of `repeat_interval`.
        fail_reason: What the last failure said.
        locked_at: When it was claimed, while processing.
        claimed_by: Id of the instance that holds it, while processing.
        claim_token: The token of that claim, while processing.
        last_heartbeat: When its lease was last renewed, while processing.
        heartbeat_interval: Milliseconds between renewals, while processing.
        priority: -10 … 10; the higher runs first.
        attempts: How often it was claimed, not counting claims given back without running.
    """

    id: ObjectId
    name: str
    data: T
    status: JobStatus
    next_run_at: datetime
    fail_count: int
    created_at: datetime
    updated_at: datetime
    unique_key: str | None = None
    repeat_interval: str | None = None
    timezone: str | None = None
    fail_reason: str | None = None
    locked_at: datetime | None = None
    claimed_by: str | None = None
    claim_token: str | None = None
    last_heartbeat: datetime | None = None
    heartbeat_interval: int | None = None
    priority: int = 0
    attempts: int = 0

    @property
    def is_recurring(self) -> bool:
        """Whether it comes from `schedule()` and runs again after each occurrence."""
        return self.repeat_interval is not None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a string")
    return value


def _count(value: object) -> int:
    # Producers without an integer type (JavaScript) store whole numbers as doubles.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("a whole number")
    return int(value)


def _date(value: object) -> datetime:
    if isinstance(value, DatetimeMS) or not isinstance(value, datetime):
        raise TypeError("a date between the years 1 and 9999")
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def _object_id(value: object) -> ObjectId:
    if not isinstance(value, ObjectId):
        raise TypeError("an ObjectId")
    return value


def _status(value: object) -> JobStatus:
    status = _STATUSES.get(value) if isinstance(value, str) else None
    if status is None:
        raise TypeError("one of " + ", ".join(JobStatus))
    return status


_STATUSES = {status.value: status for status in JobStatus}


def _anything(value: object) -> object:
    return value


class _Field(NamedTuple):
    """How a field of the document becomes an attribute of the job.

    Attributes:
        attribute: The attribute's name.
        read: Makes its value, or raises TypeError with what was expected.
        usual: A type whose values are right as they are; None if each has to be read.
        optional: Whether it may be absent.
    """

    attribute: str
    read: Callable[[object], object]
    usual: type | None = None
    optional: bool = True


_FIELDS = {
    "_id": _Field("id", _object_id, ObjectId, optional=False),
    "name": _Field("name", _text, str, optional=False),
    "data": _Field("data", _anything, dict, optional=False),
    "status": _Field("status", _status, optional=False),
    "nextRunAt": _Field("next_run_at", _date, optional=False),
    "failCount": _Field("fail_count", _count, int, optional=False),
    "createdAt": _Field("created_at", _date, optional=False),
    "updatedAt": _Field("updated_at", _date, optional=False),
    "uniqueKey": _Field("unique_key", _text, str),
    "repeatInterval": _Field("repeat_interval", _text, str),
    "timezone": _Field("timezone", _text, str),
    "failReason": _Field("fail_reason", _text, str),
    "lockedAt": _Field("locked_at", _date),
    "claimedBy": _Field("claimed_by", _text, str),
    "claimToken": _Field("claim_token", _text, str),
    "lastHeartbeat": _Field("last_heartbeat", _date),
    "heartbeatInterval": _Field("heartbeat_interval", _count, int),
    "priority": _Field("priority", _count, int),
    "attempts": _Field("attempts", _count, int),
}


def from_document(document: Mapping[str, Any]) -> Job[Any]:
    """Read a job; a field of a foreign type raises `JobDocumentError`, unknown fields are passed over."""
    values: dict[str, Any] = {}
    for wire, value in document.items():
        field = _FIELDS.get(wire)
        if field is None or (value is None and field.optional):
            continue
        # What is of the usual type needs no reading; this is the way of nearly every field of every job.
        values[field.attribute] = value if type(value) is field.usual else _read(document, wire, field, value)
    if len(values) < len(_FIELDS):
        for wire, field in _FIELDS.items():
            if not field.optional and field.attribute not in values:
                raise JobDocumentError(document.get("_id"), wire, "expected a value, it is absent")
    return Job(**values)


def _read(document: Mapping[str, Any], wire: str, field: _Field, value: object) -> object:
    try:
        return field.read(value)
    except TypeError as mismatch:
        raise JobDocumentError(document.get("_id"), wire, f"expected {mismatch}, got {type(value).__name__}") from None


def to_document(job: Job[Any]) -> dict[str, Any]:
    """Write a job; what is unset stays absent, and so does the normal priority."""
    document: dict[str, Any] = {}
    for wire, field in _FIELDS.items():
        value = getattr(job, field.attribute)
        if not field.optional or (value is not None and not (value == 0 and wire in _ABSENT_IF_ZERO)):
            document[wire] = value
    document["status"] = job.status.value
    return document


_ABSENT_IF_ZERO = ("priority", "attempts")
