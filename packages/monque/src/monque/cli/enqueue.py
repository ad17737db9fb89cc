"""`monque enqueue` and `monque schedule`: asking for jobs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from monque import NewJob, OnConflict
from monque.cli._connect import connected
from monque.cli._data import STDIN, read_data, read_lines
from monque.cli._errors import UsageError
from monque.cli._input import interruptible
from monque.cli._options import HERE, Duration, Json, Server, Texts, Time
from monque.cli._output import Output, counted, extended
from monque.cli._times import shown_from_now, shown_time

if TYPE_CHECKING:
    from monque import Job

_Data = Annotated[str, Parameter(allow_leading_hyphen=True)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is said of a job beside its name and data.

    Attributes:
        in_: How long from now it is due: `10m`, `1h30m`.
        at: When it is due: `in 10m`, `tomorrow 9:00`, `2026-11-26T09:00:00Z`.
        key: A unique key: while a job of this name and key is pending or processing, no other is made.
        priority: -10 to 10, the higher runs first.
        tag: A tag; may be given several times.
        on_conflict: What happens to the job that has the unique key.
    """

    in_: Annotated[Duration | None, Parameter(name="--in")] = None
    at: Time | None = None
    key: str | None = None
    priority: Annotated[int | None, Parameter(allow_leading_hyphen=True)] = None
    tag: Texts = ()
    on_conflict: OnConflict = "return"

    def job(self, name: str, data: Any) -> NewJob:  # noqa: ANN401  whatever JSON holds
        """The job that is asked for."""
        return NewJob(
            name=name,
            data=data,
            delay=self.in_,
            run_at=self.at,
            unique_key=self.key,
            priority=self.priority,
            on_conflict=self.on_conflict,
            **tagged(self.tag),
        )


_NONE = Wishes()


def tagged(tags: tuple[str, ...]) -> dict[str, Any]:
    """The argument that says the tags, if there are any."""
    return {"tags": tags} if tags else {}


async def enqueue(
    name: str,
    /,
    *data: _Data,
    wishes: Wishes = _NONE,
    wait: Duration | None = None,
    server: Server = HERE,
    json: Json = False,
) -> None:
    """Ask for a job to be run.

    Its id is the first word that is printed. Data are JSON, or MongoDB's Extended JSON where JSON has no such type.

    Examples:
        monque enqueue send-email to=a@b.c attempts:=3
        monque enqueue send-email '{"to": "a@b.c"}' --in 10m
        monque enqueue report '{"since": {"$date": "2026-11-26T00:00:00Z"}}' --at "tomorrow 9:00"
        monque enqueue sync --key customer-7 --on-conflict replace
        monque enqueue count '[1, 2, 3]' --wait 30s      # and print its result
        monque enqueue resize - < pages.jsonl            # a job for each line

    Args:
        name: The name of the worker that is to run it.
        data: One JSON document; or pairs, name=text and name:=JSON; or - for one document on each line of stdin.
        wishes: What else there is to say.
        wait: For how long to wait for it to end; its result is printed, as JSON.
        json: Print the job as a JSON object.
        server: Where.
    """
    out = Output(as_json=json)
    if list(data) == [STDIN]:
        if wait is not None:
            raise UsageError("--wait: expected a single job, got one for each line of stdin")
        await _enqueue_lines(name, wishes, server, out)
        return
    job = wishes.job(name, read_data(data))
    async with connected(server, makes_jobs=True) as monque:
        enqueued = await monque.enqueue(job)
        if wait is None:
            tell(enqueued, out)
        else:
            result = await monque.jobs.result(enqueued.id, timeout=wait)
            out.document(extended(result))
            if result is None:
                out.note("It has completed. A result is there if its worker is declared with store_result=True.")


async def _enqueue_lines(name: str, wishes: Wishes, server: Server, out: Output) -> None:
    count = 0
    jobs = (wishes.job(name, data) for data in read_lines(sys.stdin))
    try:
        async with connected(server, makes_jobs=True) as monque:
            with interruptible():
                async for stored in monque.enqueue_stream(jobs):
                    count += len(stored)
                    for job in stored if out.as_json else ():
                        out.document(job)
    except UsageError as error:
        raise UsageError(f"{error}; {count:,} before it are stored") from None
    if not out.as_json:
        out.line(f"{counted(count)} enqueued")


async def schedule(  # noqa: PLR0913  each is something users say
    expression: str,
    name: str,
    /,
    *data: _Data,
    timezone: str = "UTC",
    key: str | None = None,
    tag: Texts = (),
    server: Server = HERE,
    json: Json = False,
) -> None:
    """Ask for a job to be run again and again.

    Scheduling it again under the same key changes the schedule that is there.

    Examples:
        monque schedule "0 9 * * 1-5" report kind=daily --timezone Europe/Berlin
        monque schedule @hourly sync --key customer-7

    Args:
        expression: A cron expression: five fields, six with seconds first, or @daily and the like.
        name: The name of the worker that is to run it.
        data: One JSON document; or pairs, name=text and name:=JSON.
        timezone: The zone whose clock the expression is read on.
        key: The unique key that stands for this schedule.
        tag: A tag; may be given several times.
        json: Print the job as a JSON object.
        server: Where.
    """
    out = Output(as_json=json)
    given = read_data(data)
    async with connected(server, makes_jobs=True) as monque:
        job = await monque.schedule(expression, name, given, timezone=timezone, unique_key=key, **tagged(tag))
        tell(job, out)


def tell(job: Job[Any], out: Output) -> None:
    """Say what has been stored."""
    if out.as_json:
        out.document(job)
        return
    due = f"due {shown_time(job.next_run_at)} ({shown_from_now(job.next_run_at, datetime.now(UTC))})"
    out.line(f"{job.id} {job.name} {job.status}, {due}")
