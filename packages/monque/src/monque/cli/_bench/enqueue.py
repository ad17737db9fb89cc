"""How fast jobs get in: `enqueue_many` beside `insert_many`, many `enqueue` calls beside as many `insert_one`."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from monque import Monque, Options
from monque._store.flow import job_collection
from monque.cli._bench.figures import Comparison, Findings, in_turns

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pymongo.asynchronous.collection import AsyncCollection

    from monque.cli._bench.settings import Bench

    Way = Callable[[Monque, AsyncCollection[dict[str, Any]], int], Coroutine[Any, Any, float]]

COLUMNS = ("jobs/s", "Monque", "bare", "ratio")
CALLERS = 100
_BATCH = 1000
_JOBS_PER_CALLER = 1000


async def run(bench: Bench) -> Findings:
    """Measure."""
    many = await _compare(bench, {"enqueue_many": many_with_monque, "insert_many": many_bare}, bench.settings.jobs)
    # One by one takes its time; a tenth tells as much.
    rounds = max(1, bench.settings.jobs // _JOBS_PER_CALLER)
    ways: dict[str, Way] = {"enqueue": calls, "tasks": tasks, "one by one": one_by_one}
    single = await _compare(bench, ways, rounds)
    by_tasks = _beside(single["enqueue"], single["tasks"])
    by_one = _beside(single["enqueue"], single["one by one"])
    whole = _beside(many["enqueue_many"], many["insert_many"])
    return Findings(
        title="enqueue: jobs get in, acknowledged by a majority",
        figures={
            "many": whole.as_json(),
            "concurrent": by_tasks.as_json(),
            "concurrent_beside_one_by_one": by_one.as_json(),
        },
        columns=COLUMNS,
        rows=[
            ["enqueue_many, beside insert_many", *whole.cells()],
            [f"{CALLERS} enqueue calls at once, beside insert_one by as many tasks", *by_tasks.cells()],
            ["the same, beside insert_one one by one", *by_one.cells()],
        ],
    )


def _beside(measured: list[float], beside: list[float]) -> Comparison:
    return Comparison(figure="jobs_per_second", measured=measured, beside=beside)


async def _compare(bench: Bench, ways: dict[str, Way], amount: int) -> dict[str, list[float]]:
    bench.say("enqueue: warming up")
    for way in ways.values():
        await in_fresh(bench, way, 1)
    runs = {name: partial(in_fresh, bench, way, amount) for name, way in ways.items()}
    return await in_turns(runs, bench.settings.repetitions, lambda line: bench.say(f"enqueue: {line}"))


async def in_fresh(bench: Bench, way: Way, amount: int) -> float:
    """Jobs per second of one way, in a collection with nothing but Monque's indexes."""
    database = bench.place.database
    async with (
        bench.place.collection() as collection,
        Monque(database, Options(collection=collection)) as monque,
    ):
        return await way(monque, job_collection(database, collection), amount)


async def many_with_monque(monque: Monque, _: AsyncCollection[dict[str, Any]], jobs: int) -> float:
    """`enqueue_many`, batch by batch."""
    batches = [[("job", {"n": n}) for n in batch] for batch in _batches(jobs)]
    started = time.perf_counter()
    for batch in batches:
        await monque.enqueue_many(batch)
    return jobs / (time.perf_counter() - started)


async def many_bare(monque: Monque, collection: AsyncCollection[dict[str, Any]], jobs: int) -> float:
    """`insert_many` of the documents that Monque would make; making them is part of it there, too."""
    template = await _template(monque, collection)
    started = time.perf_counter()
    for batch in _batches(jobs):
        await collection.insert_many([_document(template, n) for n in batch], ordered=False)
    return jobs / (time.perf_counter() - started)


async def calls(monque: Monque, _: AsyncCollection[dict[str, Any]], rounds: int) -> float:
    """`enqueue`, called by many at once, which Monque coalesces."""

    async def enqueue(number: int) -> None:
        await monque.enqueue("job", {"n": number})

    return await _by_tasks(enqueue, rounds)


async def tasks(monque: Monque, collection: AsyncCollection[dict[str, Any]], rounds: int) -> float:
    """`insert_one`, called by many at once."""
    template = await _template(monque, collection)

    async def insert(number: int) -> None:
        await collection.insert_one(_document(template, number))

    return await _by_tasks(insert, rounds)


async def one_by_one(monque: Monque, collection: AsyncCollection[dict[str, Any]], rounds: int) -> float:
    """`insert_one`, one after the other."""
    template = await _template(monque, collection)
    started = time.perf_counter()
    for number in range(rounds * CALLERS):
        await collection.insert_one(_document(template, number))
    return rounds * CALLERS / (time.perf_counter() - started)


async def _by_tasks(act: Callable[[int], Coroutine[Any, Any, None]], rounds: int) -> float:
    started = time.perf_counter()
    for _ in range(rounds):
        await asyncio.gather(*(act(number) for number in range(CALLERS)))
    return rounds * CALLERS / (time.perf_counter() - started)


def _batches(jobs: int) -> list[range]:
    return [range(start, min(start + _BATCH, jobs)) for start in range(0, jobs, _BATCH)]


async def _template(monque: Monque, collection: AsyncCollection[dict[str, Any]]) -> dict[str, Any]:
    job = await monque.enqueue("job", {"n": 0})
    return await collection.find_one({"_id": job.id}) or {}


def _document(template: dict[str, Any], number: int) -> dict[str, Any]:
    return {**template, "_id": ObjectId(), "data": {"n": number}}
