from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from monque.cli._report import report
from monque.cli._summary import Percentiles, Summary, percentiles

SUMMARY = Summary(
    files=100,
    enqueued=100,
    completed=88,
    failed=12,
    pending=0,
    processing=0,
    cancelled=0,
    seconds=2.5,
    jobs_per_second=40,
    latency_ms=Percentiles(12.3, 1234.5, 2345.6),
    handler_ms=Percentiles(1.0, 2.0, 3.0),
    totals={"lines": 1234, "functions": 56, "classes": 7, "bytes": 89},
    largest=[{"file": "[big].py", "lines": 1000, "functions": 50, "classes": 5, "bytes": 80}],
    failures=[{"error": "OSError", "count": 12, "examples": [{"file": "a/b.py", "reason": "OSError: gone"}] * 10}],
    interrupted=False,
    server="here",
    database="monque",
    collection="demo",
    results="demo_results",
)


def shown(summary: Summary) -> str:
    console = Console(file=StringIO(), width=120)
    console.print(report(summary))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_all_of_it_is_there() -> None:
    text = shown(SUMMARY)
    assert "100 jobs in 2.5 s: 88 completed, 12 failed, 40 jobs/s" in text
    assert "p50 12 ms, p95 1.23 s, p99 2.35 s" in text
    assert "[big].py" in text
    assert "12 × OSError" in text
    assert text.count("a/b.py") == 5
    assert "and 7 more" in text


def test_nothing_is_made_up_where_nothing_was_done() -> None:
    nothing = replace(SUMMARY, enqueued=40, completed=0, failed=0, pending=40, failures=[])
    text = shown(nothing)
    assert "40 pending" in text
    assert "60 more files were not enqueued" in text
    assert "p50" not in text
    assert not nothing.all_ended


@pytest.mark.parametrize(
    ("durations", "expected"),
    [([], (None, None, None)), ([7], (7, 7, 7)), (list(range(1, 101)), (50, 95, 99))],
)
def test_percentiles(durations: list[float], expected: tuple[float | None, ...]) -> None:
    of = percentiles(durations)
    assert (of.p50, of.p95, of.p99) == expected
