"""From what runs came to, to the changes of state that write it down."""

from __future__ import annotations

import traceback
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monque import _transitions as transitions
from monque._cron import Cron
from monque._retry import meaning, retry_delay
from monque.errors import InvalidArgumentError, text_of
from monque.options import seconds
from monque.outcome import COMPLETED, Cancel, Completed, Fail, Failed, Outcome, Released, RetryIn, Snooze

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from bson import ObjectId

    from monque._transitions import Transition
    from monque.job import Job
    from monque.options import Duration, Retention, Retry


_LONGEST_REASON = 2000
_LONGEST_TRACEBACK = 4000
_PACKAGE = str(Path(__file__).parent)


@dataclass(slots=True)
class Finished:
    """A run that has ended and is not written yet. There is one for every job, and a frozen one takes long to make.

    Attributes:
        job: The job, as claimed.
        token: The token of its claim.
        outcome: What came of it.
        duration: How long the handler took, in seconds.
        retry_at: When it runs again because it failed, or was snoozed, if it does.
        repeat_at: When its follow-up or its next occurrence is, if there is one and no retry comes before it.
        failure: What is remembered of it, if it failed.
        retention: How long the job is kept when it has ended, if not for ever.
    """

    job: Job[Any]
    token: str
    outcome: Outcome
    duration: float = 0
    retry_at: datetime | None = None
    repeat_at: datetime | None = None
    failure: dict[str, Any] | None = None
    retention: Retention | None = None

    @property
    def next_run_at(self) -> datetime | None:
        """When it runs again, if it does."""
        return self.retry_at or self.repeat_at


def finish(run: Finished, *, retry: Retry, now: datetime) -> Finished:
    """Decide what follows from an outcome that was reached at `now`."""
    outcome = _meaning(run.outcome, retry)
    if outcome is not run.outcome:
        run = replace(run, outcome=outcome)
    delay = None
    if isinstance(outcome, Failed):
        run = replace(run, failure=_failure(run, outcome, now))
        delay = _delay(run, outcome, retry)
    elif isinstance(outcome, Snooze):
        delay = timedelta(seconds=outcome.for_)
    if delay is not None:
        return replace(run, retry_at=now + delay)
    return run if isinstance(outcome, Released) else _go_on(run, now)


def _go_on(run: Finished, now: datetime) -> Finished:
    """What comes after a run that is not to be repeated: its follow-up, or its next occurrence, if there are any."""
    if run.job.follow_up is not None:
        return replace(run, repeat_at=run.job.follow_up.next_run_at)
    if run.job.repeat_interval is None or isinstance(run.outcome, Cancel):
        return run
    try:
        return replace(run, repeat_at=_next_occurrence(run.job, run.job.repeat_interval))
    except InvalidArgumentError as error:
        # A schedule that other producers wrote and nobody here can read.
        unreadable = Failed(error, final=True)
        return replace(run, outcome=unreadable, failure=run.failure or _failure(run, unreadable, now))


def _meaning(outcome: Outcome, retry: Retry) -> Outcome:
    """What the retry policy makes of an exception."""
    if not isinstance(outcome, Failed) or outcome.final or outcome.delay is not None:
        return outcome
    try:
        said = meaning(retry, outcome.error)
    except Exception as error:  # noqa: BLE001  the policy itself is at fault; the job fails as usual
        if error is not outcome.error:
            error.__cause__ = outcome.error
        return Failed(error)
    return outcome if said is None else outcome_of(said, outcome.error)


def outcome_of(said: object, error: BaseException) -> Outcome:
    """What it means that a handler raised `error`, having `said` this (often the same)."""
    match said:
        case Snooze() | Cancel():
            return said
        case RetryIn():
            return Failed(_cause(said, error), delay=said.delay)
        case Fail():
            return Failed(_cause(said, error), final=True)
        case _:
            return Failed(error)


def _cause(verdict: RetryIn | Fail, error: BaseException) -> BaseException:
    """What is to be remembered as the failure: a reason that is an exception says more than the verdict."""
    if error is not verdict:
        return error
    return verdict.reason if isinstance(verdict.reason, BaseException) else verdict


def without_result(refusal: BaseException) -> Completed:
    """A completion whose result the server refused to store."""
    # The driver's message goes on with the whole write, and the result is in there.
    why = str(refusal).partition(", full error")[0]
    return Completed(problem=f"the server refuses to store it with the job: {why}")


def _delay(run: Finished, outcome: Failed, retry: Retry) -> timedelta | None:
    backoff = None if outcome.final else retry_delay(retry, run.job.fail_count + 1)
    return backoff if backoff is None or outcome.delay is None else timedelta(seconds=outcome.delay)


def _failure(run: Finished, outcome: Failed, now: datetime) -> dict[str, Any]:
    """What is remembered of a failure beside others."""
    said = reason(outcome.error)
    try:
        lines = _traceback(outcome.error)
    except Exception:  # noqa: BLE001  an exception whose traceback cannot be had is still a failure
        lines = said
    if len(lines) > _LONGEST_TRACEBACK:
        lines = "…" + lines[1 - _LONGEST_TRACEBACK :]
    return {"at": now, "attempt": max(run.job.attempts, 1), "error": said, "traceback": _storable(lines)}


def _traceback(error: BaseException) -> str:
    """What Python prints of an exception, but without the way through this package to the handler."""
    described = traceback.TracebackException.from_exception(error)
    chain = [described]
    while chain:
        part = chain.pop()
        leading = sum(1 for _ in takewhile(_is_ours, part.stack))
        if leading < len(part.stack):
            del part.stack[:leading]
        chain += [other for other in (part.__cause__, part.__context__, *(part.exceptions or ())) if other is not None]
    return "".join(described.format())


def _is_ours(frame: traceback.FrameSummary) -> bool:
    # Not those of subpackages: programs of ours have handlers like anybody's.
    return str(Path(frame.filename).parent) == _PACKAGE


def _next_occurrence(job: Job[Any], expression: str) -> datetime:
    """The first one after this run began: those missed before are made up for by it, those since by the next."""
    cron = Cron.parse(expression, job.timezone or "UTC")
    return cron.next_from(job.next_run_at, job.locked_at or job.next_run_at)


def plan(finished: Iterable[Finished], *, now: datetime) -> list[Transition]:
    """The changes that write these down at `now`, those that are alike together."""
    completed: defaultdict[tuple[str, Retention | None], list[ObjectId]] = defaultdict(list)
    released: defaultdict[str, list[ObjectId]] = defaultdict(list)
    changes: list[Transition] = []
    for run in finished:
        if run.outcome is COMPLETED and run.repeat_at is None:
            completed[run.token, run.retention].append(run.job.id)
        elif isinstance(run.outcome, Released):
            released[run.token].append(run.job.id)
        else:
            changes.append(_change(run, now))
    changes += [_completed(jobs, token, retention, now) for (token, retention), jobs in completed.items()]
    changes += [transitions.release(jobs, token) for token, jobs in released.items()]
    return changes


def _completed(jobs: Sequence[ObjectId], token: str, retention: Retention | None, now: datetime) -> Transition:
    change = transitions.complete(jobs, token, now=now)
    return change if retention is None else transitions.with_expiry(change, after(now, retention.completed))


def after(now: datetime, duration: Duration | None) -> datetime | None:
    """When so much time will have gone by; None if there is no end to it."""
    return None if duration is None else now + timedelta(seconds=seconds(duration))


def _change(run: Finished, now: datetime) -> Transition:
    """The change that writes down one run by itself."""
    job, token = run.job, run.token
    if isinstance(run.outcome, Failed):
        change = _failed(run, reason(run.outcome.error), now)
        return change if run.failure is None else transitions.with_failure(change, run.failure, is_first=not job.errors)
    if isinstance(run.outcome, Snooze) and run.retry_at is not None:
        return transitions.snooze(job.id, token, next_run_at=run.retry_at)
    if run.repeat_at is not None:
        change = _again(run, run.repeat_at)
    elif isinstance(run.outcome, Cancel):
        change = transitions.withdraw(job.id, token, reason=_why(run.outcome))
        if run.retention is not None:
            change = transitions.with_expiry(change, after(now, run.retention.cancelled))
    else:
        change = _completed([job.id], token, run.retention, now)
    if isinstance(run.outcome, Completed) and run.outcome is not COMPLETED:
        return transitions.with_result(change, run.outcome.result, run.outcome.problem)
    return change


def _again(run: Finished, repeat_at: datetime, reason: str | None = None) -> Transition:
    if run.job.follow_up is not None:
        return transitions.follow(run.job.id, run.token, reason=reason)
    return transitions.repeat(run.job, run.token, next_run_at=repeat_at, reason=reason)


def _failed(run: Finished, why: str, now: datetime) -> Transition:
    job, fail_count = run.job, run.job.fail_count + 1
    if run.retry_at is not None:
        return transitions.retry(job.id, run.token, fail_count=fail_count, reason=why, next_run_at=run.retry_at)
    if run.repeat_at is not None:
        return _again(run, run.repeat_at, why)
    expression = job.repeat_interval
    change = transitions.fail(job.id, run.token, fail_count=fail_count, reason=why, repeat_interval=expression)
    return change if run.retention is None else transitions.with_expiry(change, after(now, run.retention.failed))


def reason(error: BaseException) -> str:
    """What is kept of an error: its kind and its message, bounded, and fit for BSON."""
    message = text_of(error)
    return _bounded(f"{type(error).__name__}: {message}" if message else type(error).__name__)


def _why(verdict: Cancel) -> str:
    """What is kept of a cancellation; of an exception, as much as of a failure."""
    return reason(verdict.reason) if isinstance(verdict.reason, BaseException) else _bounded(text_of(verdict))


def _bounded(text: str) -> str:
    return _storable(text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 1] + "…")


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
