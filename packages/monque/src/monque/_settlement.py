"""From what runs came to, to the changes of state that write it down."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from monque import _transitions as transitions
from monque._cron import Cron
from monque._retry import retry_delay
from monque.errors import InvalidArgumentError
from monque.outcome import Completed, Failed, Outcome, Released

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from bson import ObjectId

    from monque._transitions import Transition
    from monque.job import Job
    from monque.options import Retry


_LONGEST_REASON = 2000


@dataclass(slots=True)
class Finished:
    """A run that has ended and is not written yet. There is one for every job, and a frozen one takes long to make.

    Attributes:
        job: The job, as claimed.
        token: The token of its claim.
        outcome: What came of it.
        duration: How long the handler took, in seconds.
        retry_at: When it runs again because it failed, if it does.
        repeat_at: When its follow-up or its next occurrence is, if there is one and no retry comes before it.
    """

    job: Job[Any]
    token: str
    outcome: Outcome
    duration: float = 0
    retry_at: datetime | None = None
    repeat_at: datetime | None = None

    @property
    def next_run_at(self) -> datetime | None:
        """When it runs again, if it does."""
        return self.retry_at or self.repeat_at


def finish(run: Finished, *, retry: Retry, now: datetime) -> Finished:
    """Decide what follows from an outcome that was reached at `now`."""
    if isinstance(run.outcome, Failed) and not run.outcome.final:
        delay = retry_delay(retry, run.job.fail_count + 1)
        if delay is not None:
            return replace(run, retry_at=now + delay)
    if isinstance(run.outcome, Released):
        return run
    if run.job.follow_up is not None:
        return replace(run, repeat_at=run.job.follow_up.next_run_at)
    if run.job.repeat_interval is None:
        return run
    try:
        return replace(run, repeat_at=_next_occurrence(run.job, run.job.repeat_interval))
    except InvalidArgumentError as error:
        # A schedule that other producers wrote and nobody here can read.
        return replace(run, outcome=Failed(error, final=True))


def _next_occurrence(job: Job[Any], expression: str) -> datetime:
    """The first one after this run began: those missed before are made up for by it, those since by the next."""
    cron = Cron.parse(expression, job.timezone or "UTC")
    return cron.next_from(job.next_run_at, job.locked_at or job.next_run_at)


def plan(finished: Iterable[Finished], *, now: datetime) -> list[Transition]:
    """The changes that write these down at `now`, those that are alike together."""
    completed: defaultdict[str, list[ObjectId]] = defaultdict(list)
    released: defaultdict[str, list[ObjectId]] = defaultdict(list)
    changes: list[Transition] = []
    for run in finished:
        if isinstance(run.outcome, Failed):
            changes.append(_failure(run, run.outcome))
        elif run.repeat_at is not None:
            changes.append(_again(run, run.repeat_at))
        elif isinstance(run.outcome, Completed):
            completed[run.token].append(run.job.id)
        else:
            released[run.token].append(run.job.id)
    changes += [transitions.complete(jobs, token, now=now) for token, jobs in completed.items()]
    changes += [transitions.release(jobs, token) for token, jobs in released.items()]
    return changes


def _again(run: Finished, repeat_at: datetime, reason: str | None = None) -> Transition:
    if run.job.follow_up is not None:
        return transitions.follow(run.job.id, run.token, reason=reason)
    return transitions.repeat(run.job, run.token, next_run_at=repeat_at, reason=reason)


def _failure(run: Finished, outcome: Failed) -> Transition:
    job, fail_count, why = run.job, run.job.fail_count + 1, reason(outcome.error)
    if run.retry_at is not None:
        return transitions.retry(job.id, run.token, fail_count=fail_count, reason=why, next_run_at=run.retry_at)
    if run.repeat_at is not None:
        return _again(run, run.repeat_at, why)
    expression = job.repeat_interval
    return transitions.fail(job.id, run.token, fail_count=fail_count, reason=why, repeat_interval=expression)


def reason(error: BaseException) -> str:
    """What is kept of an error: its kind and its message, bounded, and fit for BSON."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  an exception that cannot be worded is still a failure
        message = "(its message cannot be shown)"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")
