"""`monque jobs cancel|retry|reschedule|run-now|delete`: changing jobs, some by their ids or many by a filter."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Group, Parameter

from monque.cli._connect import connected
from monque.cli._errors import UsageError
from monque.cli._input import interruptible
from monque.cli._options import ANY, HERE, Filter, Flag, Json, Server, Time
from monque.cli._output import Output, counted
from monque.errors import AggregationTimeoutError, MonqueError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from monque import BulkResult, JobFilter, Jobs


@Parameter(name="*", group=Group("Many at once", sort_key=2))
@dataclass(frozen=True, kw_only=True)
class Many:
    """What is said when a filter takes the place of ids.

    Attributes:
        all: All jobs are meant; has to be said if there is neither an id nor a filter.
        yes: Do not ask at a terminal whether that is meant.
    """

    all: Flag = False
    yes: Flag = False


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is done to jobs.

    Attributes:
        verb: In a word.
        done: How they are afterwards.
        one: Does it to one; what it returns is false if there is none.
        many: Does it to those of a filter.
    """

    verb: str
    done: str
    one: Callable[[Jobs, str], Awaitable[object]]
    many: Callable[[Jobs, JobFilter, bool], Awaitable[BulkResult]]


_ASK = Many()
# How many are counted before somebody is asked whether they are meant, and for how many seconds.
_COUNTED = 10_000
_PATIENCE = 0.2


async def cancel(
    *ids: str,
    which: Filter = ANY,
    many: Many = _ASK,
    server: Server = HERE,
    json: Json = False,
) -> int:
    """Keep jobs from running, or from going on running.

    Examples:
        monque jobs cancel 6b082f1ba07fefd79cb85698
        monque jobs cancel --name send-email --due-from tomorrow
        monque jobs cancel --all --yes

    Args:
        ids: Their ids; or else a filter says which.
        which: Which jobs.
        many: What is said beside a filter.
        json: Print what came of it as JSON.
        server: Where.
    """
    change = Change(
        verb="cancel",
        done="cancelled",
        one=lambda jobs, job_id: jobs.cancel(job_id),
        many=lambda jobs, which, every: jobs.cancel_many(which, all=every),
    )
    return await _carry_out(change, ids, Selection(which, many), server, Output(as_json=json))


async def retry(
    *ids: str,
    which: Filter = ANY,
    many: Many = _ASK,
    server: Server = HERE,
    json: Json = False,
) -> int:
    """Let failed or cancelled jobs run after all, at once and with all their attempts.

    Examples:
        monque jobs retry 6b082f1ba07fefd79cb85698
        monque jobs retry --name send-email --error timeout --updated-from "2h ago"

    Args:
        ids: Their ids; or else a filter says which.
        which: Which jobs.
        many: What is said beside a filter.
        json: Print what came of it as JSON.
        server: Where.
    """
    change = Change(
        verb="retry",
        done="pending again",
        one=lambda jobs, job_id: jobs.retry(job_id),
        many=lambda jobs, which, every: jobs.retry_many(which, all=every),
    )
    return await _carry_out(change, ids, Selection(which, many), server, Output(as_json=json))


async def reschedule(
    *ids: str,
    to: Time,
    which: Filter = ANY,
    many: Many = _ASK,
    server: Server = HERE,
    json: Json = False,
) -> int:
    """Let pending jobs run at another time. Of a recurring job that is its next run only.

    Examples:
        monque jobs reschedule 6b082f1ba07fefd79cb85698 --to "in 10m"
        monque jobs reschedule --name report --to "tomorrow 9:00"

    Args:
        ids: Their ids; or else a filter says which.
        to: When they are due then: `in 10m`, `tomorrow 9:00`, `2026-11-26T09:00:00Z`.
        which: Which jobs.
        many: What is said beside a filter.
        json: Print what came of it as JSON.
        server: Where.
    """
    change = Change(
        verb="reschedule",
        done="rescheduled",
        one=lambda jobs, job_id: jobs.reschedule(job_id, to),
        many=lambda jobs, which, every: jobs.reschedule_many(which, to, all=every),
    )
    return await _carry_out(change, ids, Selection(which, many), server, Output(as_json=json))


async def run_now(
    *ids: str,
    which: Filter = ANY,
    many: Many = _ASK,
    server: Server = HERE,
    json: Json = False,
) -> int:
    """Let pending jobs run at once.

    Examples:
        monque jobs run-now 6b082f1ba07fefd79cb85698
        monque jobs run-now --name report --key weekly

    Args:
        ids: Their ids; or else a filter says which.
        which: Which jobs.
        many: What is said beside a filter.
        json: Print what came of it as JSON.
        server: Where.
    """
    change = Change(
        verb="run",
        done="due now",
        one=lambda jobs, job_id: jobs.run_now(job_id),
        many=lambda jobs, which, every: jobs.run_now_many(which, all=every),
    )
    return await _carry_out(change, ids, Selection(which, many), server, Output(as_json=json))


async def delete(
    *ids: str,
    which: Filter = ANY,
    many: Many = _ASK,
    server: Server = HERE,
    json: Json = False,
) -> int:
    """Remove jobs that are not running; cancel them first if they are.

    Examples:
        monque jobs delete 6b082f1ba07fefd79cb85698
        monque jobs delete --status completed --status cancelled --updated-until "1w ago"

    Args:
        ids: Their ids; or else a filter says which.
        which: Which jobs.
        many: What is said beside a filter.
        json: Print what came of it as JSON.
        server: Where.
    """
    change = Change(
        verb="delete",
        done="deleted",
        one=lambda jobs, job_id: jobs.delete(job_id),
        many=lambda jobs, which, every: jobs.delete_many(which, all=every),
    )
    return await _carry_out(change, ids, Selection(which, many), server, Output(as_json=json))


@dataclass(frozen=True)
class Selection:
    """Which jobs, if it is not said by their ids.

    Attributes:
        filter: A filter.
        many: What is said beside it.
    """

    filter: Filter
    many: Many

    def check(self, ids: tuple[str, ...], verb: str) -> None:
        """Refuse what leaves doubts.

        Raises:
            UsageError: There are ids and a filter, or neither.
        """
        by_filter = not self.filter.is_empty or self.many.all
        if ids and by_filter:
            raise UsageError("which jobs: expected ids, or a filter, not both")
        if not ids and not by_filter:
            raise UsageError(f"which jobs: expected their ids, a filter such as --name, or --all to {verb} all of them")


async def _carry_out(change: Change, ids: tuple[str, ...], selection: Selection, server: Server, out: Output) -> int:
    selection.check(ids, change.verb)
    async with connected(server) as monque:
        if ids:
            outcomes = [await _change_one(change, monque.jobs, job_id, out) for job_id in ids]
            return int(not all(outcomes))
        return await _change_many(change, monque.jobs, selection, out)


async def _change_one(change: Change, jobs: Jobs, job_id: str, out: Output) -> bool:
    """Change one, and say what came of it; an error is no reason to leave out the others."""
    try:
        error = None if await change.one(jobs, job_id) else f"there is no job {job_id}"
    except MonqueError as problem:
        error = str(problem)
    if error:
        out.warn(error)
    if out.as_json:
        out.document({"id": job_id, "done": not error, **({"error": error} if error else {})})
    elif not error:
        out.line(f"{job_id} {change.done}")
    return not error


async def _change_many(change: Change, jobs: Jobs, selection: Selection, out: Output) -> int:
    which = selection.filter.of_jobs()
    if sys.stdin.isatty() and not selection.many.yes and not await _agreed(change, jobs, which):
        out.warn("nothing was changed")
        return 1
    result = await change.many(jobs, which, selection.many.all)
    for error in result.errors.values():
        out.warn(str(error))
    if out.as_json:
        out.document(result)
    else:
        out.line(f"{counted(result.count)} {change.done}")
    return int(bool(result.errors))


async def _agreed(change: Change, jobs: Jobs, which: JobFilter) -> bool:
    sys.stderr.write(f"{change.verb.capitalize()} what can be of {await _number(jobs, which)}? [y/N] ")
    sys.stderr.flush()
    with interruptible():
        return sys.stdin.readline().strip().lower() in ("y", "yes")


async def _number(jobs: Jobs, which: JobFilter) -> str:
    try:
        count = await jobs.count(which, limit=_COUNTED + 1, timeout=_PATIENCE)
    except AggregationTimeoutError:
        return "an unknown number of jobs"
    return counted(count) if count <= _COUNTED else f"more than {counted(_COUNTED)}"
