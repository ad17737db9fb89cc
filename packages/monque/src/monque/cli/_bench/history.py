"""The drain with many settled and many future jobs lying in the collection, beside the same without."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from monque import Monque
from monque._store.flow import job_collection
from monque.cli._bench import work
from monque.cli._bench.drain import few, in_collection, in_fresh
from monque.cli._bench.figures import Comparison, Findings, in_turns
from monque.cli._bench.work import Load

if TYPE_CHECKING:
    from monque.cli._bench.settings import Bench

_BATCH = 5000
_DAY = 86_400.0


async def run(bench: Bench) -> Findings:
    """Measure."""
    settings, place = bench.settings, bench.place
    load = Load(jobs=settings.jobs, concurrency=settings.concurrency)
    async with place.collection() as full:
        await fill(bench, full)
        await in_collection(place, full, few(load), "monque")
        await in_fresh(place, few(load), "monque")
        runs = {
            "full": partial(in_collection, place, full, load, "monque"),
            "empty": partial(in_fresh, place, load, "monque"),
        }
        measured = await in_turns(runs, settings.repetitions, lambda line: bench.say(f"history: {line}"))
    compared = Comparison(figure="jobs_per_second", measured=measured["full"], beside=measured["empty"], other="empty")
    return Findings(
        title=f"history: drain beside {settings.history:,} settled and {settings.history:,} future jobs",
        figures={"settled": settings.history, "future": settings.history, **compared.as_json()},
        columns=("", "with history", "empty", "ratio"),
        rows=[["jobs/s", *compared.cells()]],
    )


async def fill(bench: Bench, collection: str) -> None:
    """Put as many settled and as many future jobs into `collection`, all like some that Monque made."""
    jobs = job_collection(bench.place.database, collection)
    one = Load(jobs=1, concurrency=1)
    async with Monque(bench.place.database, one.options(collection)) as monque:
        await one.enqueue(monque)
        await work.drain(monque, one)
        settled = await jobs.find_one({"status": "completed"}) or {}
        await Load(jobs=1, concurrency=1, delay=_DAY).enqueue(monque)
        future = await jobs.find_one({"status": "pending"}) or {}
    # One of each is there already.
    for start in range(1, bench.settings.history, _BATCH):
        bench.say(f"history: filling, {start:,} of {bench.settings.history:,}")
        numbers = range(start, min(start + _BATCH, bench.settings.history))
        await jobs.insert_many([_alike(settled, "updatedAt", -number) for number in numbers], ordered=False)
        await jobs.insert_many([_alike(future, "nextRunAt", number) for number in numbers], ordered=False)


def _alike(template: dict[str, Any], field: str, later: int) -> dict[str, Any]:
    """A job like `template`, with an id of its own and a time so many seconds later."""
    return {**template, "_id": ObjectId(), field: template[field] + timedelta(seconds=later)}
