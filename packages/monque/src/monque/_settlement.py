"""From what runs came to, to the changes of state that write it down."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monque import _transitions as transitions
from monque._execution import reason
from monque._retry import retry_delay
from monque.outcome import Completed, Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from bson import ObjectId

    from monque._transitions import Transition
    from monque.job import Job
    from monque.options import Retry


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that has ended and is not written yet.

    Attributes:
        job: The job, as claimed.
        token: The token of its claim.
        outcome: What came of it.
        duration: How long the handler took, in seconds.
        retry_at: When it runs again, if it failed and does.
    """

    job: Job[Any]
    token: str
    outcome: Outcome
    duration: float
    retry_at: datetime | None = None


def finish(job: Job[Any], token: str, outcome: Outcome, duration: float, *, retry: Retry, now: datetime) -> Finished:
    """Decide what follows from an outcome that was reached at `now`."""
    retry_at = None
    if isinstance(outcome, Failed) and not outcome.final:
        delay = retry_delay(retry, job.fail_count + 1)
        retry_at = None if delay is None else now + delay
    return Finished(job, token, outcome, duration, retry_at)


def plan(finished: Iterable[Finished]) -> list[Transition]:
    """The changes that write these down, those that are alike together."""
    completed: defaultdict[str, list[ObjectId]] = defaultdict(list)
    released: defaultdict[str, list[ObjectId]] = defaultdict(list)
    changes: list[Transition] = []
    for run in finished:
        if isinstance(run.outcome, Completed):
            completed[run.token].append(run.job.id)
        elif isinstance(run.outcome, Failed):
            changes.append(_failure(run, run.outcome))
        else:
            released[run.token].append(run.job.id)
    changes += [transitions.complete(jobs, token) for token, jobs in completed.items()]
    changes += [transitions.release(jobs, token) for token, jobs in released.items()]
    return changes


def _failure(run: Finished, outcome: Failed) -> Transition:
    job, fail_count, why = run.job, run.job.fail_count + 1, reason(outcome.error)
    if run.retry_at is None:
        return transitions.fail(job.id, run.token, fail_count=fail_count, reason=why)
    return transitions.retry(job.id, run.token, fail_count=fail_count, reason=why, next_run_at=run.retry_at)
