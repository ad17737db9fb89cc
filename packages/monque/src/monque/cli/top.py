"""`monque top`: how things stand, live."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.text import Text

from monque.cli import stats as figures
from monque.cli._connect import connected
from monque.cli._options import ANY, HERE, Duration, Filter, Flag, Json, Server
from monque.cli._output import Output, table
from monque.cli._times import shown_from_now, shown_time
from monque.cli.fleet import INSTANCE_COLUMNS, instance_row
from monque.errors import MonqueError, redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from monque import Instance, JobStats, Monque, Pause

_EVERY = timedelta(seconds=2)


@dataclass(frozen=True)
class View:
    """What is seen at one time.

    Attributes:
        stats: Of the jobs.
        instances: Who works.
        paused: What is not claimed.
    """

    stats: JobStats
    instances: list[Instance]
    paused: list[Pause]


async def command(
    *,
    which: Filter = ANY,
    interval: Duration = _EVERY,
    once: Flag = False,
    server: Server = HERE,
    json: Json = False,
) -> None:
    """Watch jobs and instances, until Ctrl-C. Where there is no terminal it looks once.

    Examples:
        monque top
        monque top --name send-email --interval 10s
        monque top --once --json

    Args:
        which: Which jobs.
        interval: How long to wait before looking again.
        once: Look once.
        json: Look once, and print what is seen as a JSON object.
        server: Where.
    """
    out = Output(as_json=json)
    async with connected(server) as monque:
        view = await _look(monque, which)
        if json:
            out.document({"stats": figures.facts(view.stats), "instances": view.instances, "paused": view.paused})
        elif once or not out.console.is_terminal:
            out.show(shown(view))
        else:
            await _go_on(monque, which, view, interval, out)


async def _look(monque: Monque, which: Filter) -> View:
    return View(
        await monque.jobs.stats(which.of_jobs(), window=figures.HOUR),
        await monque.fleet.instances(),
        await monque.fleet.paused(),
    )


async def _go_on(monque: Monque, which: Filter, view: View, interval: timedelta, out: Output) -> None:
    """Look again and again; when that fails, go on showing what was seen last, and say so."""
    with Live(shown(view), console=out.console, screen=True, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(interval.total_seconds())
            problem = None
            try:
                view = await _look(monque, which)
            except MonqueError as error:
                problem = redact(str(error))
            live.update(shown(view, problem), refresh=True)


def shown(view: View, problem: str | None = None) -> RenderableType:
    """A view for people."""
    return Group(*_parts(view, problem))


def _parts(view: View, problem: str | None) -> Iterator[RenderableType]:
    now = datetime.now(UTC)
    yield Text(shown_time(view.stats.at), style="dim")
    if problem:
        yield Text(f"this is what was seen then: {problem}", style="red")
    yield table(figures.COLUMNS, figures.rows(view.stats))
    for line in figures.lines(view.stats):
        yield Text(line, style="dim")
    for pause in view.paused:
        until = f" until {shown_time(pause.until)}" if pause.until else ""
        yield Text(f"{pause.name} is paused{until}" + (f": {pause.reason}" if pause.reason else ""), style="yellow")
    yield Text()
    yield table(INSTANCE_COLUMNS, map(instance_row, view.instances)) if view.instances else Text("no instances")
    for instance in view.instances:
        for job in instance.running:
            since = f", {shown_from_now(job.since, now)}" if job.since else ""
            yield Text(f"  {job.job_id} {job.name}{since} on {instance.host}, {instance.pid}", style="cyan")
