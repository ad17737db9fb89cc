"""A job for people, with all there is to know about it."""

from __future__ import annotations

import json
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from monque.cli._output import STYLES, extended
from monque.cli._times import shown_duration, shown_from_now, shown_time

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from rich.console import RenderableType

    from monque import Job


def describe(job: Job[Any], now: datetime) -> RenderableType:
    """All of it: facts, then failures and log lines."""
    facts = Table.grid(padding=(0, 2, 0, 0))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for name, fact in _facts(job, now):
        facts.add_row(name, Text(fact, style=STYLES.get(fact, "")))
    return Group(facts, *_history(job, now))


def _facts(job: Job[Any], now: datetime) -> list[tuple[str, str]]:
    """What there is to say, each under a word; what is unset is left out."""

    def when(moment: datetime) -> str:
        return f"{shown_time(moment)} ({shown_from_now(moment, now)})"

    progress, claimed = job.progress_report, job.locked_at
    facts = [
        ("id", str(job.id)),
        ("name", job.name),
        ("status", str(job.status)),
        ("data", _json(job.data)),
        ("due", when(job.next_run_at)),
        ("enqueued", when(job.created_at)),
        ("changed", when(job.updated_at)),
        ("attempts", f"{job.attempts:,}, {job.fail_count:,} failed"),
        ("schedule", job.repeat_interval and f"{job.repeat_interval} ({job.timezone or 'UTC'})"),
        ("unique key", job.unique_key),
        ("tags", ", ".join(job.tags)),
        ("headers", _json(dict(job.headers)) if job.headers else None),
        ("priority", job.priority and str(job.priority)),
        ("time limit", None if job.timeout is None else shown_duration(job.timeout)),
        ("claimed by", claimed and f"{job.claimed_by}, {when(claimed)}"),
        ("progress", progress and f"{progress.fraction:.0%} {progress.message or ''}, {when(progress.at)}"),
        ("result", None if job.result is None else _json(job.result)),
        ("result error", job.result_error),
        ("failure", job.fail_reason),
    ]
    return [(name, str(fact)) for name, fact in facts if fact]


def _json(value: object) -> str:
    return json.dumps(extended(value), ensure_ascii=False)


def _history(job: Job[Any], now: datetime) -> Iterator[RenderableType]:
    if job.errors:
        yield Text()
    for failure, following in zip_longest(job.errors, job.errors[1:]):
        yield Text(f"attempt {failure.attempt}, {shown_from_now(failure.at, now)}: {failure.error}", style="red")
        # Most jobs fail in the same way again and again.
        if not following or failure.traceback != following.traceback:
            yield Text(failure.traceback.rstrip(), style="dim")
    if job.logs:
        yield Text()
    for line in job.logs:
        yield Text(f"{shown_time(line.at)} {line.level} {line.logger}: {line.message}")
