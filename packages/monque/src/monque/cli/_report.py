"""The summary of a run of the demo, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from monque.cli._summary import Percentiles, Summary

_SHOWN_PER_ERROR = 5


def report(summary: Summary) -> RenderableType:
    """All of it, part by part."""
    return Group(*_parts(summary))


def _parts(summary: Summary) -> Iterator[RenderableType]:
    yield Text()
    yield _headline(summary)
    if summary.files > summary.enqueued:
        yield Text(f"{summary.files - summary.enqueued:,} more files were not enqueued.", style="yellow")
    if summary.completed:
        yield Text()
        yield _figures(summary)
        yield Text()
        yield _largest(summary)
    for failure in summary.failures:
        yield Text()
        yield _failure(failure)
    yield Text()
    yield _whereabouts(summary)
    yield Text(f"To look at them: monque jobs list --collection {summary.collection}", style="dim")


def _headline(summary: Summary) -> Text:
    styles = {"completed": "green", "failed": "red", "pending": "yellow", "processing": "yellow", "cancelled": "yellow"}
    counts = {status: getattr(summary, status) for status in styles}
    text = Text.assemble((f"{summary.enqueued:,} jobs", "bold"), f" in {summary.seconds:.1f} s: ")
    said = [Text(f"{number:,} {status}", styles[status]) for status, number in counts.items() if number]
    text.append_text(Text(", ").join(said))
    return text.append(f", {summary.jobs_per_second:,.0f} jobs/s")


def _figures(summary: Summary) -> Table:
    totals = summary.totals
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_row(
        "found",
        f"{totals['lines']:,} lines, {totals['functions']:,} functions, {totals['classes']:,} classes",
    )
    table.add_row("enqueue to completion", _spread(summary.latency_ms))
    table.add_row("time in the handler", _spread(summary.handler_ms))
    return table


def _spread(of: Percentiles) -> str:
    return ", ".join(
        f"p{share} {_duration(value)}"
        for share, value in ((50, of.p50), (95, of.p95), (99, of.p99))
        if value is not None
    )


def _duration(ms: float) -> str:
    return f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.0f} ms"


def _largest(summary: Summary) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("largest files", overflow="fold")
    for name in ("lines", "functions", "classes"):
        table.add_column(name, justify="right")
    for row in summary.largest:
        table.add_row(Text(row["file"]), f"{row['lines']:,}", f"{row['functions']:,}", f"{row['classes']:,}")
    return table


def _failure(failure: dict[str, Any]) -> RenderableType:
    examples = failure["examples"][:_SHOWN_PER_ERROR]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    table.add_column(style="dim", overflow="fold")
    for each in examples:
        table.add_row(Text(each["file"]), Text(_why(each, failure["error"])))
    if failure["count"] > len(examples):
        table.add_row(Text(f"and {failure['count'] - len(examples):,} more", style="dim"))
    return Group(Text(f"{failure['count']:,} × {failure['error']}", style="red"), Padding(table, (0, 0, 0, 2)))


def _why(example: dict[str, str], error: str) -> str:
    """The reason without what stands beside it anyway."""
    name = example["file"].rpartition("/")[2]
    return example["reason"].removeprefix(f"{error}: ").replace(f"({name}, line ", "(line ")


def _whereabouts(summary: Summary) -> Text:
    return Text(
        f"The jobs are in {summary.database}.{summary.collection}, what they found out in {summary.results}, "
        f"on {summary.server}; they are kept for a day.",
        style="dim",
    )
