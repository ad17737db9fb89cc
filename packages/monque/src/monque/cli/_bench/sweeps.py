"""The drain again, with one thing changed at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monque.cli._bench.drain import compare
from monque.cli._bench.figures import Findings
from monque.cli._bench.work import Load

if TYPE_CHECKING:
    from collections.abc import Mapping

    from monque.cli._bench.settings import Bench

CONCURRENCIES = (1, 5, 20, 100, 500)
NAMES = (1, 10, 100)
# Bytes, and by how much fewer jobs.
PAYLOADS = {"100 B": (100, 1), "10 kB": (10_000, 10), "1 MB": (1_000_000, 200)}
# One at a time is some hundred times as slow as many.
_JOBS_PER_SLOT = 200


async def concurrency(bench: Bench) -> Findings:
    """By how many jobs run at once, which is also the size of a bare batch."""
    loads = {
        str(number): Load(jobs=min(bench.settings.jobs, number * _JOBS_PER_SLOT), concurrency=number)
        for number in CONCURRENCIES
    }
    return await _sweep(bench, "concurrency", "jobs at once", loads)


async def payload(bench: Bench) -> Findings:
    """By the size of the data; the bare loop reads them, too."""
    loads = {
        size: Load(jobs=max(1, bench.settings.jobs // fewer), concurrency=bench.settings.concurrency, payload=length)
        for size, (length, fewer) in PAYLOADS.items()
    }
    return await _sweep(bench, "payload", "data per job", loads)


async def names(bench: Bench) -> Findings:
    """By the number of job names, with a worker for each; together they run as many jobs at once as one would."""
    loads = {
        str(number): Load(
            jobs=bench.settings.jobs,
            concurrency=bench.settings.concurrency,
            names=tuple(f"job-{index}" for index in range(number)),
        )
        for number in NAMES
    }
    return await _sweep(bench, "names", "job names", loads)


async def _sweep(bench: Bench, part: str, what: str, loads: Mapping[str, Load]) -> Findings:
    compared = {label: await compare(bench, load, f"{part}: {label}") for label, load in loads.items()}
    return Findings(
        title=f"{part}: drain in jobs/s by {what}",
        figures={label: {"jobs": loads[label].jobs, **each.as_json()} for label, each in compared.items()},
        columns=(what, "jobs", "Monque", "bare", "ratio"),
        rows=[[label, f"{loads[label].jobs:,}", *each.cells()] for label, each in compared.items()],
    )
