"""The job: its value in Python, and the one mapping between it and its document in MongoDB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from bson import ObjectId

from monque import _scope
from monque.errors import ConfigurationError, InvalidArgumentError, JobDocumentError, MonqueError
from monque.options import Retry, is_duration, seconds

if TYPE_CHECKING:
    from pymongo.asynchronous.client_session import AsyncClientSession

__all__ = ["FollowUp", "Job", "JobFailure", "JobStatus", "LogLine", "Progress", "current_job"]

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


@dataclass(frozen=True, slots=True)
class JobFailure:
    """One failed run of a job.

    Attributes:
        at: When it failed.
        attempt: Which attempt it was, from 1.
        error: The exception's type and message.
        traceback: Where it was raised, as text; the end of it, if it was long.
    """

    at: datetime
    attempt: int
    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come, as its handler said last.

    Attributes:
        fraction: Between 0 and 1.
        message: What it said beside that.
        at: When it said so.
    """

    fraction: float
    message: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log record that was made inside a handler and is kept with the job.

    Attributes:
        at: When it was made.
        level: Its level's name, such as `"WARNING"`.
        logger: The logger's name.
        message: The message, with its arguments in place.
    """

    at: datetime
    level: str
    logger: str
    message: str


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What a job that is processing is to do once more, after its present run.

    Attributes:
        data: With what data.
        next_run_at: When it is due.
        priority: -10 … 10; the higher runs first.
        timeout: How long the run may take, in seconds, where that was said for it.
        retry: The retry policy, where one was given for it.
        tags: The words it is found by then.
        headers: What travels along with it.

    Example:
        >>> FollowUp({"page": 2}, datetime(2030, 1, 1)).priority
        0
    """

    data: Any
    next_run_at: datetime
    priority: int = 0
    timeout: float | None = None
    retry: Retry | None = None
    tags: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
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
        timeout: How long a run may take, in seconds, where that was said for this job.
        retry: The retry policy, where one was given for this job.
        tags: The words it was given to be found by.
        headers: What travels along with it, for programs rather than for the handler, such as the context of a trace.
        errors: The failures so far, the latest last; no more than five are kept.
        progress_report: How far it has come, as its handler said last.
        result: What the handler returned, if results are stored.
        result_error: Why the result could not be stored.
        logs: Log records of its runs, if they are kept; the latest last.
        follow_up: What it does once its present run is over, if somebody asked for that meanwhile.
        started_at: When it was claimed last; unlike `locked_at` it stays when the run is over.
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
    timeout: float | None = None
    retry: Retry | None = None
    tags: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    errors: tuple[JobFailure, ...] = ()
    progress_report: Progress | None = None
    result: Any = None
    result_error: str | None = None
    logs: tuple[LogLine, ...] = ()
    follow_up: FollowUp | None = None
    started_at: datetime | None = None

    @property
    def is_recurring(self) -> bool:
        """Whether it comes from `schedule()` and runs again after each occurrence."""
        return self.repeat_interval is not None

    @property
    def should_stop(self) -> bool:
        """Whether its handler, at work, has been told to end: its time is up, it was cancelled, or the instance stops.

        A handler in a thread cannot be ended from outside; one that takes long looks at this now and then.

        Example:
            >>> from monque import Monque
            >>> monque = Monque()
            >>> @monque.worker("import")
            ... def import_rows(job: Job[list[int]]) -> None:
            ...     for row in job.data:
            ...         if job.should_stop:
            ...             return
        """
        run = self._run()
        return run is not None and run.should_stop

    @property
    def session(self) -> AsyncClientSession:
        """The session of the transaction in which this run is settled; for workers with `transaction=True`.

        Raises:
            MonqueError: There is none.
        """
        run = self._run()
        if run is None or run.session is None:
            raise MonqueError("there is no transaction here: declare the worker with transaction=True")
        session: AsyncClientSession = run.session
        return session

    def progress(self, fraction: float, message: str | None = None) -> None:
        """Say how far the run has come; it can be read in `progress_report`, from anywhere, a moment later.

        It costs little: of what is said in quick succession the latest is written. Outside of a run it does nothing,
        so that a handler can be called like any other function.

        Args:
            fraction: Between 0 and 1.
            message: Anything to be said beside that, up to 1,000 characters.

        Raises:
            InvalidArgumentError: `fraction` or `message` is nothing of the kind.

        Example:
            >>> from monque import Monque
            >>> monque = Monque()
            >>> @monque.worker("import")
            ... async def import_rows(job: Job[list[int]]) -> None:
            ...     for number, row in enumerate(job.data):
            ...         job.progress(number / len(job.data), f"row {row}")
        """
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
            raise InvalidArgumentError("fraction", fraction, "a number between 0 and 1")
        if message is not None and not isinstance(message, str):
            raise InvalidArgumentError("message", message, "a text")
        run = self._run()
        if run is not None:
            run.note(Progress(float(fraction), message, datetime.now(UTC)))

    def _run(self) -> _scope.Scope | None:
        """Its run, if this code is part of that."""
        run = _scope.current()
        return run if run is not None and run.job.id == self.id else None


def current_job() -> Job[Any]:
    """The job whose handler this code is part of, in whatever thread or task of it.

    Raises:
        MonqueError: It is part of none.

    Example:
        >>> from monque import Monque
        >>> monque = Monque()
        >>> @monque.worker("greet")
        ... async def greet(name: str) -> None:
        ...     print("Hello", name, "from job", current_job().id)
    """
    run = _scope.current()
    if run is None:
        raise MonqueError("no job is running here: call it in a handler, or in what a handler calls")
    return run.job


# Beyond it, the doubles of other producers are no longer exact.
COUNTABLE = 2**53


def _nothing_but(expected: str) -> Callable[[object], object]:
    """For fields of which nothing but the usual type will do."""

    def refuse(_: object) -> object:
        raise TypeError(expected)

    return refuse


_text = _nothing_but("a string")
_object_id = _nothing_but("an ObjectId")
# What else BSON calls a date lies outside Python's range.
_date = _nothing_but("a date between the years 1 and 9999")


def _count(value: object) -> int:
    # Producers without an integer type (JavaScript) store whole numbers as doubles.
    if isinstance(value, int | float) and -COUNTABLE < value < COUNTABLE and not isinstance(value, bool):
        whole = int(value)
        if whole == value:
            return whole
    raise TypeError("a whole number")


def _status(value: object) -> JobStatus:
    status = _STATUSES.get(value) if isinstance(value, str) else None
    if status is None:
        raise TypeError("one of " + ", ".join(JobStatus))
    return status


def _follow_up(value: object) -> FollowUp:
    parts = cast("Mapping[str, object]", value if isinstance(value, dict) else {})
    due = parts.get("nextRunAt")
    if not isinstance(due, datetime) or "data" not in parts:
        raise TypeError("a document of data, nextRunAt and maybe priority")
    timeout, retry = parts.get("timeout"), parts.get("retry")
    return FollowUp(
        parts["data"],
        due,
        _count(parts.get("priority") or 0),
        None if timeout is None else _milliseconds(timeout),
        None if retry is None else read_retry(retry),
        _tags(parts.get("tags")),
        _headers(parts.get("headers")),
    )


def follow_up_document(follow_up: FollowUp) -> dict[str, Any]:
    """Write a follow-up; the normal priority stays absent."""
    document = {"data": follow_up.data, "nextRunAt": follow_up.next_run_at, **settings_document(follow_up)}
    return {**document, "priority": follow_up.priority} if follow_up.priority else document


def settings_document(job: Job[Any] | FollowUp) -> dict[str, Any]:
    """Write the time limit, the retry policy, the tags and the headers of a job's own, those that it has."""
    document: dict[str, Any] = {}
    if job.timeout is not None:
        document["timeout"] = round(job.timeout * 1000)
    if job.retry is not None:
        document["retry"] = _retry_document(job.retry)
    if job.tags:
        document["tags"] = list(job.tags)
    if job.headers:
        document["headers"] = dict(job.headers)
    return document


_STATUSES = {status.value: status for status in JobStatus}


def _anything(value: object) -> object:
    return value


def _tags(value: object) -> tuple[str, ...]:
    # They are there for people: what is no tag is passed over. One alone is found like a list of it.
    several = cast("list[object]", value) if isinstance(value, list) else [value]
    return tuple(tag for tag in several if isinstance(tag, str))


def _headers(value: object) -> dict[str, str]:
    """Those that are texts; no job is refused for what others have put beside them."""
    headers = cast("Mapping[str, object]", value if isinstance(value, Mapping) else {})
    return {name: text for name, text in headers.items() if isinstance(text, str)}


def _milliseconds(value: object) -> float:
    length = _count(value) / 1000
    if length > 0 and is_duration(length):
        return seconds(length)
    raise TypeError("a number of milliseconds, at least 1, at most 1,000 years")


def read_retry(value: object) -> Retry:
    """Read a retry policy; anything else raises TypeError with what was expected."""
    if isinstance(value, Mapping):
        policy = cast("Mapping[str, Any]", value)
        with suppress(KeyError, TypeError, ConfigurationError):
            return Retry(_count(policy["maxRetries"]), policy["base"], policy["cap"], policy["jitter"])
    raise TypeError("a retry policy as Monque writes it")


def _retry_document(retry: Retry) -> dict[str, Any]:
    return {
        "maxRetries": retry.max_retries,
        "base": seconds(retry.base),
        "cap": seconds(retry.cap),
        "jitter": retry.jitter,
    }


# The types of what the small documents in a job are made of; what may be None may be absent, too.
_PARTS: dict[type[Any], tuple[tuple[type, ...], ...]] = {
    JobFailure: ((datetime,), (int, float), (str,), (str,)),
    Progress: ((int, float), (str, NoneType), (datetime,)),
    LogLine: ((datetime,), (str,), (str,), (str,)),
}


def _each(kind: type[Any]) -> Callable[[object], object]:
    """For lists of small documents, which are there for people to look at: what is none is passed over."""

    def read(value: object) -> object:
        parts = cast("list[object]", value) if isinstance(value, list) else []
        return tuple(one for one in (_small(kind, part) for part in parts) if one is not None)

    return read


def _small(kind: type[Any], value: object) -> Any:  # noqa: ANN401  a `kind`, or None
    if not isinstance(value, Mapping):
        return None
    document = cast("Mapping[str, Any]", value)
    parts = [document.get(field.name) for field in fields(kind)]
    return kind(*parts) if all(map(isinstance, parts, _PARTS[kind])) else None


def small_document(part: Progress | LogLine) -> dict[str, Any]:
    """Write one of the small parts of a job; what is unset stays absent."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    return {name: value for name, value in values.items() if value is not None}


class _Field(NamedTuple):
    """How a field of the document becomes an attribute of the job.

    Attributes:
        attribute: The attribute's name.
        usual: The type whose values are right as they are.
        read: Makes the attribute's value of any other, or raises TypeError with what was expected.
        optional: Whether it may be absent.
    """

    attribute: str
    usual: type | None
    read: Callable[[object], object]
    optional: bool = True


_FIELDS = {
    "_id": _Field("id", ObjectId, _object_id, optional=False),
    "name": _Field("name", str, _text, optional=False),
    "data": _Field("data", dict, _anything, optional=False),
    "status": _Field("status", None, _status, optional=False),
    "nextRunAt": _Field("next_run_at", datetime, _date, optional=False),
    "failCount": _Field("fail_count", None, _count, optional=False),
    "createdAt": _Field("created_at", datetime, _date, optional=False),
    "updatedAt": _Field("updated_at", datetime, _date, optional=False),
    "uniqueKey": _Field("unique_key", str, _text),
    "repeatInterval": _Field("repeat_interval", str, _text),
    "timezone": _Field("timezone", str, _text),
    "failReason": _Field("fail_reason", str, _text),
    "lockedAt": _Field("locked_at", datetime, _date),
    "claimedBy": _Field("claimed_by", str, _text),
    "claimToken": _Field("claim_token", str, _text),
    "lastHeartbeat": _Field("last_heartbeat", datetime, _date),
    "heartbeatInterval": _Field("heartbeat_interval", int, _count),
    "priority": _Field("priority", int, _count),
    "attempts": _Field("attempts", int, _count),
    "timeout": _Field("timeout", None, _milliseconds),
    "retry": _Field("retry", None, read_retry),
    "tags": _Field("tags", None, _tags),
    "headers": _Field("headers", None, _headers),
    "errors": _Field("errors", None, _each(JobFailure)),
    "progress": _Field("progress_report", None, partial(_small, Progress)),
    "result": _Field("result", None, _anything),
    "resultError": _Field("result_error", str, _text),
    "logs": _Field("logs", None, _each(LogLine)),
    "followUp": _Field("follow_up", None, _follow_up),
    "startedAt": _Field("started_at", datetime, _date),
}
# Without their names, which make a tuple slow to take apart.
_READING = {wire: (field.attribute, field.usual, field.read, field.optional) for wire, field in _FIELDS.items()}
_REQUIRED = {field.attribute for field in _FIELDS.values() if not field.optional}
_Job: type[Job[Any]] = Job


class _NoHeaders(dict[str, str]):
    """Of nearly every job: one for them all, since a dictionary for each is work for Python's garbage collector."""

    def __setitem__(self, name: str, text: str) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        raise TypeError("the headers of a job cannot be changed")

    def __reduce__(self) -> str:  # type: ignore[explicit-override]  # likewise
        return "NO_HEADERS"


NO_HEADERS = _NoHeaders()
# What a job does not have, the class has. With all of its fields in it the dictionary of each job would be twice as
# large, and twice the work for Python's garbage collector.
type.__setattr__(Job, "headers", NO_HEADERS)


def from_document(document: Mapping[str, Any]) -> Job[Any]:
    """Read a job; a field of a foreign type raises `JobDocumentError`, unknown fields are passed over.

    Dates have to be aware, as they are in every collection of `monque._store`.
    """
    values: dict[str, Any] = {}
    wire = "?"
    try:
        for wire, value in document.items():
            field = _READING.get(wire)
            if field is not None:
                attribute, usual, read, optional = field
                # What is of the usual type needs no reading, and nearly every field of every job is.
                if type(value) is usual:
                    values[attribute] = value
                elif value is not None or not optional:
                    values[attribute] = read(value)
    except TypeError as mismatch:
        came = type(document[wire]).__name__
        raise JobDocumentError(document.get("_id"), wire, f"expected {mismatch}, got {came}") from None
    if "locked_at" in values:
        values["started_at"] = values["locked_at"]
    if not _REQUIRED.issubset(values):
        missing = next(wire for wire, field in _FIELDS.items() if field.attribute not in values)
        raise JobDocumentError(document.get("_id"), missing, f"expected {_expected(missing)}, it is absent")
    return make_job(values)


def make_job(values: dict[str, Any]) -> Job[Any]:
    """A job with these fields, which it keeps; those that are not given are unset. They are not checked."""
    # Past the generated __init__, which sets the fields of a frozen value one by one, at several times the cost.
    job = object.__new__(_Job)
    object.__setattr__(job, "__dict__", values)
    return job


def _expected(wire: str) -> str:
    try:
        _FIELDS[wire].read(None)
    except TypeError as expected:
        return str(expected)
    return "a value"


def to_document(job: Job[Any]) -> dict[str, Any]:
    """Write a job; what is unset stays absent, and so does the normal priority."""
    values = vars(job)
    document = dict(zip(_ALWAYS, _values_of_always(values), strict=True))
    document["status"] = job.status.value
    # Nearly every new job has nothing else.
    if len(values) > len(_ALWAYS):
        said = ((wire, values.get(attribute, usual), usual) for wire, (attribute, usual) in _SOMETIMES.items())
        document.update((wire, value) for wire, value, usual in said if value is not None and value != usual)
        document.update(settings_document(job))
        if job.follow_up is not None:
            document["followUp"] = follow_up_document(job.follow_up)
    return document


_ALWAYS = {wire: field.attribute for wire, field in _FIELDS.items() if not field.optional}
# What `settings_document` writes.
_OF_SETTINGS = ("timeout", "retry", "tags", "headers")
# What comes of runs is not among what is written for a new job.
_OF_RUNS = ("errors", "progress", "result", "resultError", "logs", "startedAt")
# With what they are in nearly every job.
_SOMETIMES = {
    wire: (field.attribute, getattr(Job, field.attribute))
    for wire, field in _FIELDS.items()
    if field.optional and wire not in (*_OF_SETTINGS, "followUp", *_OF_RUNS)
}
_values_of_always = itemgetter(*_ALWAYS.values())
