"""`monque jobs list|show|watch`: looking at jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from monque import JobOrder
from monque.cli._connect import connected
from monque.cli._errors import UsageError
from monque.cli._jobs.showing import describe
from monque.cli._options import ANY, HERE, Filter, Flag, Json, Server
from monque.cli._output import Output
from monque.cli._times import shown_time

if TYPE_CHECKING:
    from monque import Job

_COLUMNS = ("id", "name", "status", "due", "changed", "attempts", "last failure")
_LIMIT = 50


def _row(job: Job[Any]) -> tuple[object, ...]:
    return (job.id, job.name, str(job.status), job.next_run_at, job.updated_at, job.attempts, job.fail_reason)


async def list_jobs(  # noqa: PLR0913  each is something users say
    *,
    filter: Filter = ANY,  # noqa: A002  what it is
    order: Annotated[JobOrder, Parameter(allow_leading_hyphen=True)] = "-created",
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = _LIMIT,
    all: Flag = False,  # noqa: A002  what it is
    server: Server = HERE,
    json: Json = False,
) -> None:
    """List jobs, the newest first.

    At a terminal it is a table, elsewhere a line each with tabs between the columns: id, name, status, when it is due
    and when it changed, attempts, and what the last failure said.

    Examples:

        monque jobs list --status failed --name send-email
        monque jobs list --status pending --order due --limit 10
        monque jobs list --all --json | jq -r .id

    Args:
        filter: Which jobs.
        order: By when they were enqueued, changed last or are due; with a minus, the latest first.
        limit: How many at most.
        all: All of them, however many.
        json: Print each job as a JSON object on a line of its own.
        server: Where.
    """
    out = Output(as_json=json)
    async with connected(server) as monque:
        found = monque.jobs.find(filter.of_jobs(), order=order, limit=None if all else limit + 1)
        if json:
            shown = 0
            async for job in found:
                if all or shown < limit:
                    out.document(job)
                shown += 1
        else:
            jobs = await found
            shown = len(jobs)
            out.table(_COLUMNS, map(_row, jobs if all else jobs[:limit]))
    if not all and shown > limit:
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
    *, filter: Filter = ANY, server: Server = HERE, json: Json = False  # noqa: A002  what it is
) -> None:
    """Watch jobs change, until Ctrl-C.

    Examples:

        monque jobs watch --name send-email
        monque jobs watch --json

    Args:
        filter: Which jobs.
        json: Print each change as a JSON object on a line of its own.
        server: Where.
    """
    out = Output(as_json=json)
    async with connected(server) as monque:
        async for change in monque.jobs.watch(filter.of_jobs()):
            if json:
                out.document(change)
            else:
                job = change.job
                of_job = f"{job.name} {job.status}" if job else ""
                out.line(f"{shown_time(datetime.now(UTC))} {change.job_id} {change.kind} {of_job}".rstrip())
