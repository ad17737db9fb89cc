"""What a run meant. Executing a job returns one of these; nothing is written until the engine settles it.

Handlers return, or raise, four of them to say what they mean: `Snooze`, `RetryIn`, `Cancel` and `Fail`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from monque.errors import InvalidArgumentError, text_of
from monque.options import Duration, is_duration, seconds

__all__ = ["Cancel", "Committed", "Completed", "Fail", "Failed", "Outcome", "Released", "RetryIn", "Snooze", "Verdict"]


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned.

    Attributes:
        result: What it returned, fit to be stored, if it is to be stored.
        problem: Why the result cannot be stored, if it cannot.
    """

    result: object = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised.

    Attributes:
        error: What it raised.
        final: Whether there is no point in trying again.
        delay: Seconds until it is tried again, if that is not for the retry policy to say.
    """

    error: BaseException
    final: bool = False
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """The run was cut short from outside, through no fault of the job: it goes back, no attempt spent."""


@dataclass(frozen=True, slots=True)
class Committed:
    """What came of the run has been written already, in a transaction of the handler's."""


class Verdict(Exception):  # noqa: N818  a handler says with it what its run means, and that need not be an error
    """What a handler has to say about its run, returned or raised."""

    def __init__(self, text: str, *said: object) -> None:
        super().__init__(text)
        self._said = said

    def __reduce__(self) -> tuple[Any, ...]:  # type: ignore[explicit-override]  # typing.override is newer
        return type(self), self._said  # handlers in other processes say it, too


class Snooze(Verdict):
    """Not now: run the job again later. It is no failure, and no attempt is spent.

    Args:
        for_: For how long, as a timedelta or in seconds.

    Raises:
        InvalidArgumentError: `for_` is no length of time.

    Example:
        >>> from monque import Job, Monque
        >>> monque = Monque()
        >>> @monque.worker("report")
        ... async def report(job: Job[dict[str, bool]]) -> Snooze | None:
        ...     return None if job.data["is_ready"] else Snooze(60)
    """

    def __init__(self, for_: Duration) -> None:
        self.for_ = _delay("for_", for_)
        super().__init__(f"snoozed for {self.for_:g} s", self.for_)


class RetryIn(Verdict):
    """This run failed; the next one comes after `delay`, if the retry policy allows for another.

    Args:
        delay: How long to wait, as a timedelta or in seconds, whatever the backoff says.
        reason: Why it failed; an exception or a text.

    Raises:
        InvalidArgumentError: `delay` is no length of time.

    Example:
        >>> RetryIn(30, "rate limited").delay
        30.0
    """

    def __init__(self, delay: Duration, reason: object = None) -> None:
        self.delay = _delay("delay", delay)
        self.reason = reason
        super().__init__(f"to be retried in {self.delay:g} s" if reason is None else text_of(reason), self.delay, reason)


class Cancel(Verdict):
    """There is no point in this job any more: it ends as cancelled. A recurring one ends its schedule.

    Args:
        reason: Why; an exception or a text. It is kept as the job's `fail_reason`.

    Example:
        >>> str(Cancel("the account was closed"))
        'the account was closed'
    """

    def __init__(self, reason: object = None) -> None:
        self.reason = reason
        super().__init__("cancelled by its handler" if reason is None else text_of(reason), reason)


class Fail(Verdict):
    """This job has failed for good: it is not tried again. A recurring one goes on with its next occurrence.

    Args:
        reason: Why; an exception or a text.

    Example:
        >>> str(Fail("no such address"))
        'no such address'
    """

    def __init__(self, reason: object = None) -> None:
        self.reason = reason
        super().__init__("failed for good, says its handler" if reason is None else text_of(reason), reason)


def _delay(argument: str, value: object) -> float:
    if not is_duration(value) or seconds(value) < 0:
        raise InvalidArgumentError(argument, value, "a timedelta or a number of seconds, 0 to 1,000 years")
    return seconds(value)


Outcome = Completed | Failed | Released | Committed | Snooze | Cancel

COMPLETED = Completed()
RELEASED = Released()
COMMITTED = Committed()
