"""`monque jobs list|show|watch`: looking at jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from monque import JobOrder, JobStatus
from monque._store.paging import check_order
from monque.cli._connect import connected
from monque.cli._errors import UsageError
from monque.cli._jobs.showing import describe
from monque.cli._options import ANY, HERE, Filter, Flag, Json, Server
from monque.cli._output import Output
from monque.cli._times import shown_time

if TYPE_CHECKING:
    from monque import Job, JobChange

_COLUMNS = ("id", "name", "status", "due", "changed", "attempts", "last failure")
_LIMIT = 50


def _row(job: Job[Any]) -> tuple[object, ...]:
    return (job.id, job.name, str(job.status), job.next_run_at, job.updated_at, job.attempts, job.fail_reason)


def _row_for_people(job: Job[Any]) -> tuple[object, ...]:
    """The same without what is of no interest any more, which leaves room for the failure."""
    job_id, name, status, due, *rest = _row(job)
    return (job_id, name, status, due if job.status == JobStatus.PENDING else None, *rest)


async def list_jobs(
    *,
    which: Filter = ANY,
    order: Annotated[JobOrder | None, Parameter(allow_leading_hyphen=True)] = None,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = _LIMIT,
    everything: Annotated[Flag, Parameter(name="--all")] = False,
    server: Server = HERE,
    json: Json = False,
) -> None:
    """List jobs: the newest first, or what is due first, or what ended last.

    Jobs of all statuses are in the order in which they were enqueued, pending ones alone in that in which they are due,
    and others in that in which they changed, unless `--order` says otherwise.

    At a terminal it is a table, elsewhere a line each with tabs between the columns: id, name, status, when it is due
    and when it changed, attempts, and what the last failure said.

    Examples:
        monque jobs list --status failed --name send-email
        monque jobs list --status pending --order due --limit 10
        monque jobs list --all --json | jq -r .id

    Args:
        which: Which jobs.
        order: By when they were enqueued, changed last (where no pending ones are meant) or are due (where only those
            are); with a minus, the latest first.
        limit: How many at most.
        everything: All of them, however many.
        json: Print each job as a JSON object on a line of its own.
        server: Where.
    """
    out = Output(as_json=json)
    filter_ = which.of_jobs()
    check_order(order, filter_)
    async with connected(server) as monque:
        found = monque.jobs.find(filter_, order=order, limit=None if everything else limit + 1)
        if json:
            shown = 0
            async for job in found:
                if everything or shown < limit:
                    out.document(job)
                shown += 1
        else:
            jobs = await found
            shown = len(jobs)
            row = _row_for_people if out.console.is_terminal else _row
            out.table(_COLUMNS, map(row, jobs if everything else jobs[:limit]))
    if not everything and shown > limit:
        out.note(f"There are more than these {limit:,}: see --limit and --all.")


async def show(*ids: str, server: Server = HERE, json: Json = False) -> int:
    """Show all there is to know about jobs.

    Examples:
        monque jobs show 6b082f1ba07fefd79cb85698

    Args:
        ids: Their ids.
        json: Print each job as a JSON object on a line of its own.
        server: Where.
    """
    if not ids:
        raise UsageError("which jobs: expected an id at least")
    out = Output(as_json=json)
    missing = False
    async with connected(server) as monque:
        for job_id in ids:
            job = await monque.jobs.get(job_id)
            if job is None:
                missing = True
                out.warn(f"there is no job {job_id}")
            elif json:
                out.document(job)
            else:
                out.show(describe(job, datetime.now(UTC)))
    return int(missing)


async def watch(
    *,
    which: Filter = ANY,
    server: Server = HERE,
    json: Json = False,
) -> None:
    """Watch jobs change, until Ctrl-C.

    Examples:
        monque jobs watch --name send-email
        monque jobs watch --json

    Args:
        which: Which jobs.
        json: Print each change as a JSON object on a line of its own.
        server: Where.
    """
    out = Output(as_json=json)
    async with connected(server) as monque, monque.jobs.watch(which.of_jobs()) as changes:
        out.note("Watching; Ctrl-C ends it.")
        async for change in changes:
            if json:
                out.document(change)
            else:
                out.line(f"{shown_time(datetime.now(UTC))} {_told(change)}")


def _told(change: JobChange) -> str:
    job = change.job
    if job is None:
        return f"{change.job_id} {change.error or change.kind}"
    progress = f" {job.progress_report.fraction:.0%}" if job.progress_report else ""
    return f"{change.job_id} {job.name} {job.status}{progress}"
