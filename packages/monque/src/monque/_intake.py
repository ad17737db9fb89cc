"""What was asked for, checked and made into a job. Nothing here is written yet."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import bson
from bson import ObjectId

from monque._names import check_job_name, check_tags, check_unique_key
from monque.errors import InvalidArgumentError, InvalidPayloadError, PayloadTooLargeError
from monque.job import COUNTABLE, JobStatus, make_job
from monque.options import Duration, Retry, is_duration, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bson.codec_options import CodecOptions

    from monque._cron import Cron
    from monque.job import Job

__all__ = ["NewJob", "OnConflict"]

# What happens when the unique key is taken: see `Monque.enqueue`.
OnConflict = Literal["return", "replace", "run_after", "raise"]

_MILLISECOND = timedelta(milliseconds=1)
_CONTAINERS = (Mapping, list, tuple)
_FLAT = {str, int, float, bool, type(None), datetime, ObjectId, bytes}
# MongoDB refuses documents of more than 100 levels; the job itself is one of them.
_DEEPEST = 98
_HEADER_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_LARGEST_HEADERS = 8192
# MongoDB's limit for a document, less what the other fields of a job can take; failures with tracebacks need the most.
LARGEST_PAYLOAD = 16 * 1024 * 1024 - 256 * 1024


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """One job to enqueue, for `Monque.enqueue_many`. The fields are the arguments of `Monque.enqueue`.

    Attributes:
        name: The name of the worker that is to run it.
        data: Anything BSON can hold; nothing means an empty document.
        run_at: When it is due; an aware datetime. One in the past is due at once.
        delay: How long from now it is due, instead of `run_at`.
        unique_key: At most one job of this name and key is pending or processing.
        priority: -10 … 10, the higher runs first; None is 0, the normal one.
        on_conflict: What happens if the unique key is taken.
        timeout: How long a run may take, instead of what its worker says.
        retry: What happens after a failure, instead of what its worker says.
        tags: A word or several to find it by.
        headers: Texts that travel along with it, by name, for programs rather than for the handler.

    Example:
        >>> NewJob(name="send-email", data={"to": "a@b.c"}, delay=60).name
        'send-email'
    """

    name: str
    data: Any = None
    run_at: datetime | None = None
    delay: Duration | None = None
    unique_key: str | None = None
    priority: int | None = None
    on_conflict: OnConflict = "return"
    timeout: Duration | None = None
    retry: Retry | None = None
    tags: str | Collection[str] | None = None
    headers: Mapping[str, str] | None = None


_FIELDS = {field.name for field in fields(NewJob)}


def request_of(name: str | NewJob, data: object, **more: Any) -> NewJob:  # noqa: ANN401  the fields of a job
    """What `enqueue` was asked for: a `NewJob`, or all that makes one."""
    if not isinstance(name, NewJob):
        return _request({"name": name, "data": data, **more})
    for argument, value in {"data": data, **more}.items():
        if value is not None and (argument, value) != ("on_conflict", "return"):
            raise InvalidArgumentError(argument, value, "nothing beside a NewJob, which has it as a field")
    return name


def as_new_job(item: NewJob | Mapping[str, Any] | tuple[str, Any]) -> NewJob:
    """Read one item of `enqueue_many`: a `NewJob`, its fields as a mapping, or a pair of name and data."""
    if isinstance(item, NewJob):
        return item
    if isinstance(item, tuple):
        if len(item) == 2:
            return _request({"name": item[0], "data": item[1]})
    elif isinstance(item, Mapping) and "name" in item and _FIELDS.issuperset(item):
        return _request(dict(item))
    raise InvalidArgumentError("jobs", item, "NewJob values, mappings of their fields, or pairs (name, data)")


def _request(said: dict[str, Any]) -> NewJob:
    # Past the generated __init__, which sets the fields of a frozen value one by one, at several times the cost. What
    # is not said is what the class has.
    request = object.__new__(NewJob)
    object.__setattr__(request, "__dict__", said)
    return request


def new_job(request: NewJob, *, now: datetime) -> Job[Any]:
    """Check a request and make the job of it. Whether its data can be stored is for `Payloads` to say."""
    check_job_name(request.name)
    if request.on_conflict != "return":
        _check_on_conflict(request)
    values: dict[str, Any] = {
        "id": ObjectId(),
        "name": request.name,
        "data": {} if request.data is None else request.data,
        "status": JobStatus.PENDING,
        "next_run_at": _due(request.run_at, request.delay, now),
        "fail_count": 0,
        "created_at": now,
        "updated_at": now,
    }
    # What is not said of it, the job does not have either.
    for field, given in vars(request).items():
        if given is not None and field in _CHECKS:
            values[field] = _CHECKS[field](given)
    return make_job(values)


def recurring_job(job: Job[Any], cron: Cron, codec: CodecOptions[Any]) -> Job[Any]:
    """Make a new job a recurring one.

    Without a unique key it gets one made of all that describes it, so that declaring it again, at every start of a
    program for instance, does not make another.
    """
    key = job.unique_key
    if key is None:
        described = bson.encode({"data": job.data}, codec_options=codec)
        key = f"cron:{cron.timezone}:{hashlib.sha256(cron.expression.encode() + described).hexdigest()[:32]}"
    return replace(
        job,
        repeat_interval=cron.expression,
        timezone=None if cron.timezone == "UTC" else cron.timezone,
        unique_key=key,
        next_run_at=cron.next_after(job.next_run_at),
    )


def _check_on_conflict(request: NewJob) -> None:
    words: tuple[str, ...] = get_args(OnConflict)
    if request.on_conflict not in words:
        raise InvalidArgumentError("on_conflict", request.on_conflict, "one of " + ", ".join(map(repr, words)))
    if request.unique_key is None:
        raise InvalidArgumentError("on_conflict", request.on_conflict, "a unique_key beside it: nothing else conflicts")


def _due(run_at: datetime | None, delay: Duration | None, now: datetime) -> datetime:
    if delay is None:
        return now if run_at is None else check_run_at(run_at)
    if run_at is not None:
        raise InvalidArgumentError("delay", delay, "either run_at or delay, not both")
    return _after(delay, now)


def check_run_at(run_at: object) -> datetime:
    """Refuse what is no aware datetime; give it in UTC, cut to milliseconds."""
    moment = check_moment("run_at", run_at)
    # BSON keeps milliseconds; cutting here makes the job returned equal to the job stored.
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def check_moment(argument: str, moment: object) -> datetime:
    """Refuse what is no aware datetime; give it in UTC."""
    try:
        if isinstance(moment, datetime) and moment.utcoffset() is not None:
            return moment.astimezone(UTC)
    except OverflowError:
        pass
    raise InvalidArgumentError(argument, moment, "an aware datetime, such as datetime.now(UTC) + timedelta(minutes=5)")


def _after(delay: object, now: datetime) -> datetime:
    if is_duration(delay) and seconds(delay) >= 0:
        length = delay if isinstance(delay, timedelta) else timedelta(seconds=delay)
        return now + length // _MILLISECOND * _MILLISECOND
    raise InvalidArgumentError("delay", delay, "a timedelta or a number of seconds, 0 to 1,000 years")


def _priority(priority: object) -> int:
    if isinstance(priority, bool) or not isinstance(priority, int) or not -10 <= priority <= 10:
        raise InvalidArgumentError("priority", priority, "a whole number from -10 to 10")
    return priority


def _timeout(timeout: object) -> float:
    """In seconds, cut to the milliseconds that are stored."""
    if is_duration(timeout) and (length := math.floor(seconds(timeout) * 1000)) > 0:
        return length / 1000
    expected = "a timedelta or a number of seconds, at least 0.001, at most 1,000 years"
    raise InvalidArgumentError("timeout", timeout, expected)


def _retry(retry: object) -> Retry:
    if not isinstance(retry, Retry):
        raise InvalidArgumentError("retry", retry, "a Retry")
    if retry.on:
        raise InvalidArgumentError(
            "retry", retry, "a Retry without `on`, since functions cannot be stored; give that one to the worker"
        )
    if retry.max_retries >= COUNTABLE:
        raise InvalidArgumentError("retry", retry, "a Retry with max_retries below 2^53")
    # As it is read again, so that the job returned equals the job stored.
    return Retry(retry.max_retries, seconds(retry.base), seconds(retry.cap), float(retry.jitter))


def check_headers(headers: object) -> dict[str, str]:
    """Refuse what are no headers, or too many."""
    if not isinstance(headers, Mapping):
        raise InvalidArgumentError("headers", headers, "a mapping of names to texts")
    checked = dict(cast("Mapping[str, str]", headers))
    size = sum(_header_size(name, text) for name, text in checked.items())
    if size > _LARGEST_HEADERS:
        expected = f"at most {_LARGEST_HEADERS:,} bytes of names and texts in all; what is larger goes into the data"
        raise InvalidArgumentError("headers", f"{size:,} bytes", expected)
    return checked


def _header_size(name: object, text: object) -> int:
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise InvalidArgumentError("headers", name, "names of 1 to 255 letters, digits, hyphens and underscores")
    if isinstance(text, str):
        with suppress(UnicodeEncodeError):
            return len(name) + len(text.encode())
    raise InvalidArgumentError(f"headers[{name!r}]", text, "a text that UTF-8 can hold")


def with_headers(job: Job[Any], headers: Mapping[str, str]) -> Job[Any]:
    """The same job with more headers; those that it has already stay as they are."""
    return replace(job, headers=check_headers({**headers, **job.headers}))


_CHECKS: dict[str, Callable[[object], object]] = {
    "unique_key": check_unique_key,
    "priority": _priority,
    "timeout": _timeout,
    "retry": _retry,
    "tags": check_tags,
    "headers": check_headers,
}


class Payloads:
    """What can be stored as the data of a job.

    Args:
        codec: How it is to be written.
        limit: The most bytes it may have, if that is less than what the server takes.
    """

    def __init__(self, codec: CodecOptions[Any], limit: int | None) -> None:
        self._codec = codec
        self._maximum = LARGEST_PAYLOAD if limit is None else min(limit, LARGEST_PAYLOAD)

    def size(self, data: object) -> int:
        """How many bytes it has.

        Raises:
            InvalidPayloadError: BSON cannot hold it.
            PayloadTooLargeError: It has too many.
        """
        size = measure("data", data, self._codec)
        if size > self._maximum:
            raise PayloadTooLargeError(size, self._maximum)
        return size

    def fit(self, several: list[Any]) -> bool:
        """Whether all of them can be stored, at a fraction of what it costs to ask one by one.

        If not, each may be so yet: all of them together have no more bytes than one may have.
        """
        if not all(map(_is_shallow, several)):
            return False
        try:
            return len(bson.encode({"data": several}, codec_options=self._codec)) <= self._maximum
        except Exception:  # noqa: BLE001  whatever the encoder says, asking one by one finds out
            return False


def measure(field: str, value: object, codec: CodecOptions[Any]) -> int:
    """How many bytes a field of this value takes.

    Raises:
        InvalidPayloadError: BSON cannot hold it.
    """
    if not _is_shallow(value):
        expected = f"at most {_DEEPEST} levels of nesting, in a value that does not contain itself"
        raise InvalidPayloadError(field, type(value), expected)
    try:
        return len(bson.encode({field: value}, codec_options=codec))
    except Exception as error:
        raise _misfit(value, field, codec, error) from error


def _is_shallow(data: Any) -> bool:  # noqa: ANN401  whatever BSON can hold
    if type(data) is dict and _FLAT.issuperset(map(type, cast("Mapping[str, object]", data).values())):
        return True  # as nearly all are
    level: list[object] = [data]
    for _ in range(_DEEPEST):
        containers = [cast("Iterable[object]", value) for value in level if isinstance(value, _CONTAINERS)]
        if not containers:
            return True
        level = [part for container in containers for part in _children(container)]
    return False


def _children(value: Mapping[Any, object] | Iterable[object]) -> Iterable[object]:
    return cast("Mapping[Any, object]", value).values() if isinstance(value, Mapping) else value


def _misfit(value: object, path: str, codec: CodecOptions[Any], error: Exception) -> InvalidPayloadError:
    """Name the innermost part of `value` that BSON cannot hold."""
    for step, part in _parts(value):
        try:
            bson.encode({"data": part}, codec_options=codec)
        except Exception as inner:  # noqa: BLE001  whatever the encoder says is the finding
            return _misfit(part, f"{path}{step}", codec, inner)
    return InvalidPayloadError(path, value, f"a value BSON can hold ({error})")


def _parts(value: object) -> list[tuple[str, object]]:
    if isinstance(value, Mapping):
        return [(f"[{key!r}]", part) for key, part in value.items()]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple):
        return [(f"[{index}]", part) for index, part in enumerate(value)]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return []
