"""Options: small frozen values that check themselves and each other.

Every length of time is a `timedelta` or a number of seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeGuard

from monque.errors import ConfigurationError

__all__ = ["Concurrency", "Lease", "Options", "Polling", "Retention", "Retry", "Timeout"]

Duration = timedelta | float

# 1,000 years: whatever is added to a date of today gives a date.
_LONGEST = 1000 * 366 * 86_400.0
# For a handler that was told to end, in seconds.
_GRACE = 5.0


def seconds(duration: Duration) -> float:
    """`duration` in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


def is_duration(value: object) -> TypeGuard[Duration]:
    """Whether `value` is a length of time that can be waited for."""
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        return False
    try:
        return abs(seconds(value)) <= _LONGEST
    except OverflowError:
        return False


def _check_duration(option: str, value: object, *, least: float = 0.001) -> None:
    if not is_duration(value) or seconds(value) < least:
        raise ConfigurationError(
            option, value, f"a timedelta or a number of seconds, at least {least:g}, at most 1,000 years"
        )


def check_count(option: str, value: object, *, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigurationError(option, value, f"a whole number, at least {least}")


def _check_type(option: str, value: object, wanted: type) -> None:
    if not isinstance(value, wanted):
        raise ConfigurationError(option, value, f"a {wanted.__name__}")


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How many handlers run at once in one instance. The limits are never exceeded.

    Attributes:
        per_worker: For each worker that does not say otherwise.
        per_instance: For all workers together; None for no limit beyond those of the workers.

    Raises:
        ConfigurationError: A limit is not a whole number of at least 1.

    Example:
        >>> Concurrency(per_worker=20, per_instance=50)
        Concurrency(per_worker=20, per_instance=50)
    """

    per_worker: int = 5
    per_instance: int | None = None

    def __post_init__(self) -> None:
        check_count("concurrency.per_worker", self.per_worker)
        if self.per_instance is not None:
            check_count("concurrency.per_instance", self.per_instance)


@dataclass(frozen=True, slots=True)
class Retry:
    """What happens after a failure: the job runs again after `base · 2^fail_count`, at most `cap`.

    With the default of one second the first retry comes after 2 s, then 4 s, 8 s, …

    Attributes:
        max_retries: A job has failed for good once `fail_count` reaches it; it therefore counts executions.
        base: The unit of the formula.
        cap: The longest delay.
        jitter: The share of the delay, 0 … 1, by which it is randomly lengthened or shortened.
        on: What exceptions of certain types mean instead of that: `Fail` and `Cancel`, or any function that makes an
            outcome of the exception, or None for what it means usually. The most special type counts.

    Raises:
        ConfigurationError: A value makes no sense, or `cap` is shorter than `base`.

    Example:
        >>> from monque import Fail, RetryIn
        >>> Retry(max_retries=3, base=0.5).max_retries
        3
        >>> retry = Retry(on={ValueError: Fail, ConnectionResetError: lambda error: RetryIn(5)})
    """

    max_retries: int = 10
    base: Duration = timedelta(seconds=1)
    cap: Duration = timedelta(hours=24)
    jitter: float = 0
    # Mappings have no hash; policies that are equal have the same in any case.
    on: Mapping[type[BaseException], Callable[[Any], object]] = field(default_factory=dict[Any, Any], hash=False)

    def __post_init__(self) -> None:
        check_count("retry.max_retries", self.max_retries)
        _check_duration("retry.base", self.base)
        _check_duration("retry.cap", self.cap)
        if seconds(self.cap) < seconds(self.base):
            raise ConfigurationError("retry.cap", self.cap, f"no less than retry.base ({self.base!r})")
        share = self.jitter
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigurationError("retry.jitter", share, "a share between 0 and 1")
        _check_type("retry.on", self.on, Mapping)
        for kind, meaning in self.on.items():
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ConfigurationError("retry.on", kind, "types of exceptions as keys")
            if not callable(meaning):
                raise ConfigurationError("retry.on", meaning, "what makes an outcome of the exception, such as Fail")
        # Frozen: what happens to the mapping that was given changes nothing here.
        object.__setattr__(self, "on", dict(self.on))


@dataclass(frozen=True, slots=True)
class Timeout:
    """How long a run may take.

    Attributes:
        soft: After it the handler is told to end: an async one is cancelled, one in a process gets a `JobTimeoutError`
            raised inside it, one in a thread sees `job.should_stop`.
        hard: After it nobody waits for the handler any longer, and a process is killed. It counts from the beginning
            of the run; None is five seconds after `soft`.

    Raises:
        ConfigurationError: A value is no length of time, or `hard` is shorter than `soft`.

    Example:
        >>> Timeout(30).hard_after
        35.0
    """

    soft: Duration
    hard: Duration | None = None

    def __post_init__(self) -> None:
        _check_duration("timeout.soft", self.soft)
        if self.hard is not None:
            _check_duration("timeout.hard", self.hard)
            if seconds(self.hard) < seconds(self.soft):
                raise ConfigurationError("timeout.hard", self.hard, f"no less than timeout.soft ({self.soft!r})")

    @property
    def hard_after(self) -> float:
        """Seconds from the beginning of the run until nobody waits for the handler any longer."""
        return seconds(self.soft) + _GRACE if self.hard is None else seconds(self.hard)


@dataclass(frozen=True, slots=True)
class Lease:
    """For how long a claim is believed without being renewed.

    Renewals come every third of it; there is nothing else to set, so that the two cannot disagree.

    Attributes:
        timeout: The lease, at least 0.3 s.

    Raises:
        ConfigurationError: The lease is too short or no length of time.

    Example:
        >>> Lease(timeout=30).heartbeat_interval
        10.0
    """

    timeout: Duration = timedelta(seconds=30)

    def __post_init__(self) -> None:
        _check_duration("lease.timeout", self.timeout, least=0.3)

    @property
    def heartbeat_interval(self) -> float:
        """Seconds between two renewals."""
        return seconds(self.timeout) / 3


@dataclass(frozen=True, slots=True)
class Polling:
    """How often an instance looks for due jobs, whatever else tells it about them.

    Attributes:
        interval: Between looks on a server without change streams.
        safety: Between looks on one with change streams.

    Raises:
        ConfigurationError: A value is no length of time of at least 10 ms.

    Example:
        >>> Polling(interval=0.2)
        Polling(interval=0.2, safety=datetime.timedelta(seconds=30))
    """

    interval: Duration = timedelta(seconds=1)
    safety: Duration = timedelta(seconds=30)

    def __post_init__(self) -> None:
        _check_duration("polling.interval", self.interval, least=0.01)
        _check_duration("polling.safety", self.safety, least=0.01)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long jobs that have ended are kept, results included. The server deletes them, about once a minute.

    Attributes:
        completed: For jobs that have completed; None keeps them for ever.
        failed: For those that have failed for good, likewise.
        cancelled: For those that were cancelled, likewise.

    Raises:
        ConfigurationError: A value is no length of time.

    Example:
        >>> from datetime import timedelta
        >>> Retention(completed=timedelta(days=7)).failed is None
        True
    """

    completed: Duration | None = None
    failed: Duration | None = None
    cancelled: Duration | None = None

    def __post_init__(self) -> None:
        for name in ("completed", "failed", "cancelled"):
            if getattr(self, name) is not None:
                _check_duration(f"retention.{name}", getattr(self, name))

    def __bool__(self) -> bool:
        """Whether anything is ever deleted."""
        return (self.completed, self.failed, self.cancelled) != (None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that can be set about a `Monque`.

    Attributes:
        collection: Name of the collection the jobs live in.
        instance_id: A label for this instance; a fresh unique id is made of it at every process start.
        concurrency: How many handlers run at once.
        retry: What happens after a failure.
        lease: For how long a claim is believed.
        recover: Whether this instance takes back jobs whose lease ran out.
        polling: How often it looks for due jobs.
        shutdown_timeout: For how long `stop()` waits for running handlers; 0 cancels them at once.
        retention: How long jobs that have ended are kept.
        max_payload_bytes: Largest `data`, as BSON of `{data}`; None for MongoDB's own limit.
        max_result_bytes: Largest result that is stored, as BSON of `{result}`.
        create_indexes: Whether indexes that are missing are created when connecting.

    Raises:
        ConfigurationError: A value makes no sense.

    Example:
        >>> Options(retry=Retry(max_retries=3), shutdown_timeout=10).collection
        'monque_jobs'
    """

    collection: str = "monque_jobs"
    instance_id: str | None = None
    concurrency: Concurrency = field(default_factory=Concurrency)
    retry: Retry = field(default_factory=Retry)
    lease: Lease = field(default_factory=Lease)
    recover: bool = True
    polling: Polling = field(default_factory=Polling)
    shutdown_timeout: Duration = timedelta(seconds=30)
    retention: Retention = field(default_factory=Retention)
    max_payload_bytes: int | None = None
    max_result_bytes: int = 1_000_000
    create_indexes: bool = True

    def __post_init__(self) -> None:
        _check_collection(self.collection)
        label = self.instance_id
        if label is not None and not (isinstance(label, str) and 1 <= len(label) <= 255 and label.isprintable()):
            raise ConfigurationError("instance_id", label, "a printable string of 1–255 characters")
        _check_type("concurrency", self.concurrency, Concurrency)
        _check_type("retry", self.retry, Retry)
        _check_type("lease", self.lease, Lease)
        _check_type("recover", self.recover, bool)
        _check_type("polling", self.polling, Polling)
        _check_duration("shutdown_timeout", self.shutdown_timeout, least=0)
        _check_type("retention", self.retention, Retention)
        if self.max_payload_bytes is not None:
            check_count("max_payload_bytes", self.max_payload_bytes)
        check_count("max_result_bytes", self.max_result_bytes)
        _check_type("create_indexes", self.create_indexes, bool)


def _check_collection(name: object) -> None:
    # MongoDB's own rules for collection names.
    wrong = (
        not isinstance(name, str)
        or not 1 <= len(name.encode("utf-8", "surrogatepass")) <= 200
        or any("\ud800" <= character <= "\udfff" for character in name)
        or "$" in name
        or ".." in name
        or "\0" in name
        or name.startswith(("system.", "."))
        or name.endswith(".")
    )
    if wrong:
        raise ConfigurationError("collection", name, "a collection name: no '$', no NUL, not 'system.…', 1–200 bytes")
