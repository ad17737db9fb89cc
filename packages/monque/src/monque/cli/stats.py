"""`monque stats`: how things stand, once."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from monque import JobStatus
from monque.cli._connect import connected
from monque.cli._options import ANY, HERE, Duration, Filter, Flag, Json, Server
from monque.cli._output import Output, plain, shown_number
from monque.cli._times import shown_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from monque import JobCount, JobStats

HOUR = timedelta(hours=1)
_LONGEST = timedelta(minutes=1)
COLUMNS = ("name", *map(str, JobStatus))


async def command(
    *, which: Filter = ANY, window: Duration = HOUR, exact: Flag = False, server: Server = HERE, json: Json = False
) -> None:
    """Count jobs by name and status, and say how long they wait and run.

    Of each name and status no more than 10,000 are counted; `10,000+` means that there are more.

    Examples:
        monque stats
        monque stats --name send-email --window 10m
        monque stats --json | jq .oldest_wait

    Args:
        which: Which jobs.
        window: How far to look back for what comes and goes.
        exact: Count all, however many; it takes a second for some million jobs, and a minute at most.
        json: Print the figures as a JSON object.
        server: Where.
    """
    out = Output(as_json=json)
    bounds: dict[str, Any] = {"limit": None, "timeout": _LONGEST} if exact else {}
    async with connected(server) as monque:
        stats = await monque.jobs.stats(which.of_jobs(), window=window, **bounds)
    if json:
        out.document(facts(stats))
        return
    out.table(COLUMNS, rows(stats))
    for line in lines(stats):
        out.line(line)


def facts(stats: JobStats) -> dict[str, Any]:
    """All figures, for scripts, and of which of them there may be more."""
    names = {name: _unfinished(counts) for name, counts in stats.names.items()}
    at_least = {
        "statuses": _unfinished(stats.statuses),
        "names": {name: statuses for name, statuses in names.items() if statuses},
        "created": stats.created.at_least,
        "ended": _unfinished(stats.ended),
    }
    rates = {"created_rate": stats.created_rate, "ended_rate": stats.ended_rate}
    return {**plain(stats), **rates, "at_least": plain(at_least)}


def _unfinished(counts: Mapping[JobStatus, JobCount]) -> list[JobStatus]:
    return [status for status, count in counts.items() if count.at_least]


def rows(stats: JobStats) -> Iterator[tuple[object, ...]]:
    """A row for each name, and one for all."""
    for name, counts in stats.names.items():
        yield _row("(no name)" if name is None else name, counts)
    yield _row("all", stats.statuses)


def _row(name: str, counts: Mapping[JobStatus, JobCount]) -> tuple[object, ...]:
    return (name, *(counts.get(status, 0) for status in JobStatus))


def lines(stats: JobStats) -> Iterator[str]:
    """What else there is to say, in words."""
    yield f"oldest wait {shown_duration(stats.oldest_wait)}, longest run {shown_duration(stats.longest_run)}"
    ended = ", ".join(f"{shown_number(count)} {status}" for status, count in stats.ended.items())
    yield f"in the last {shown_duration(stats.window)}: {shown_number(stats.created)} enqueued, {ended}"
    if stats.runs and stats.waits:
        for what, of in (("runs", stats.runs), ("waits", stats.waits)):
            spread = ", ".join(shown_duration(each) for each in (of.median, of.p95, of.p99))
            yield f"{what} of the latest {of.count:,}: median, 95 % and 99 % within {spread}"
