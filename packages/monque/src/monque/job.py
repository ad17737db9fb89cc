"""The job: its value in Python, and the one mapping between it and its document in MongoDB."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from bson import DatetimeMS, ObjectId

from monque.errors import JobDocumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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


class _Absent:
    """What stands in for a field the document does not have."""


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
    try:
        return JobStatus(_text(value))
    except (TypeError, ValueError):
        raise TypeError("one of " + ", ".join(JobStatus)) from None


def _anything(value: object) -> object:
    return value


_REQUIRED: tuple[tuple[str, str, Callable[[object], object]], ...] = (
    ("_id", "id", _object_id),
    ("name", "name", _text),
    ("data", "data", _anything),
    ("status", "status", _status),
    ("nextRunAt", "next_run_at", _date),
    ("failCount", "fail_count", _count),
    ("createdAt", "created_at", _date),
    ("updatedAt", "updated_at", _date),
)
_OPTIONAL: tuple[tuple[str, str, Callable[[object], object]], ...] = (
    ("uniqueKey", "unique_key", _text),
    ("repeatInterval", "repeat_interval", _text),
    ("timezone", "timezone", _text),
    ("failReason", "fail_reason", _text),
    ("lockedAt", "locked_at", _date),
    ("claimedBy", "claimed_by", _text),
    ("claimToken", "claim_token", _text),
    ("lastHeartbeat", "last_heartbeat", _date),
    ("heartbeatInterval", "heartbeat_interval", _count),
    ("priority", "priority", _count),
    ("attempts", "attempts", _count),
)


def from_document(document: Mapping[str, Any]) -> Job[Any]:
    """Read a job; a field of a foreign type raises `JobDocumentError`, unknown fields are passed over."""
    values: dict[str, Any] = {}
    wire = ""
    value: object = _Absent
    try:
        for wire, attribute, read in _REQUIRED:
            value = document.get(wire, _Absent)
            values[attribute] = read(value)
        for wire, attribute, read in _OPTIONAL:
            value = document.get(wire)
            if value is not None:
                values[attribute] = read(value)
    except TypeError as mismatch:
        came = "it is absent" if value is _Absent else f"got {type(value).__name__}"
        raise JobDocumentError(document.get("_id"), wire, f"expected {mismatch}, {came}") from None
    if values["data"] is _Absent:
        raise JobDocumentError(document["_id"], "data", "expected a value, it is absent")
    return Job(**values)


def to_document(job: Job[Any]) -> dict[str, Any]:
    """Write a job; what is unset stays absent, and so does the normal priority."""
    document = {wire: getattr(job, attribute) for wire, attribute, _ in _REQUIRED}
    document["status"] = str(job.status)
    for wire, attribute, _ in _OPTIONAL:
        value = getattr(job, attribute)
        if value is not None and not (value == 0 and wire in ("priority", "attempts")):
            document[wire] = value
    return document
