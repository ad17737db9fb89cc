"""What more processes bring: all of them start, connect, warm up, and are let loose on the same jobs at once."""

from __future__ import annotations

import asyncio
import statistics
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from monque import Monque
from monque._store import indexes
from monque._store.flow import job_collection
from monque.cli._bench import children
from monque.cli._bench.errors import BenchError
from monque.cli._bench.figures import Comparison, Findings, in_turns, with_spread
from monque.cli._bench.work import Load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

    from monque.cli._bench.children import Child
    from monque.cli._bench.settings import Bench

_LOOK_AGAIN = 0.02
# Jobs per second below which it is not worth to wait any longer.
_LEAST_RATE = 10
_MILLISECOND = 0.001


async def run(bench: Bench) -> Findings:
    """Measure."""
    load = Load(jobs=bench.settings.jobs, concurrency=bench.settings.concurrency)
    numbers = sorted({1, *bench.settings.processes})
    conflicts: dict[int, list[float]] = {number: [] for number in numbers}

    async def jobs_per_second(number: int) -> float:
        rate, found = await measure(bench, load, number)
        conflicts[number] += [] if found is None else [found]
        return rate

    runs = {f"{number:3} processes": partial(jobs_per_second, number) for number in numbers}
    measured = await in_turns(runs, bench.settings.repetitions, lambda line: bench.say(f"processes: {line}"))
    return _findings(dict(zip(numbers, measured.values(), strict=True)), conflicts)


def _findings(rates: Mapping[int, Sequence[float]], conflicts: Mapping[int, Sequence[float]]) -> Findings:
    compared = {
        number: Comparison(figure="jobs_per_second", measured=measured, beside=rates[1], other="one_process")
        for number, measured in rates.items()
    }
    return Findings(
        title="processes: jobs/s of several processes on the same jobs",
        figures={
            str(number): {**each.as_json(), "write_conflicts_per_1000_jobs": _median(conflicts[number])}
            for number, each in compared.items()
        },
        columns=("processes", "jobs/s", "one process", "ratio", "write conflicts per 1,000 jobs"),
        rows=[
            [str(number), *each.cells(), with_spread(conflicts[number]) if conflicts[number] else "unknown"]
            for number, each in compared.items()
        ],
    )


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 1) if values else None


async def measure(bench: Bench, load: Load, number: int) -> tuple[float, float | None]:
    """Jobs per second, and write conflicts per 1,000 jobs where the server tells."""
    database = bench.place.database
    async with (
        bench.place.collection() as collection,
        Monque(database, load.options(collection)) as monque,
        AsyncExitStack() as stack,
    ):
        workers = [
            await stack.enter_async_context(worker(bench, collection, load, f"warm-up-{index}"))
            for index in range(number)
        ]
        for each in workers:
            await each.hear("ready")
        await load.enqueue(monque)
        before = await write_conflicts(database)
        seconds = await drain(job_collection(database, collection), workers, load)
        after = await write_conflicts(database)
    conflicts = None if before is None or after is None else (after - before) * 1000 / load.jobs
    return load.jobs / seconds, conflicts


def worker(
    bench: Bench, collection: str, load: Load, warm_up: str, *, every: int = 0
) -> AbstractAsyncContextManager[Child]:
    """A process that works off jobs once it is told to begin."""
    return children.child(
        children.WORKER,
        role="drain",
        uri=bench.place.uri,
        database=bench.place.database.name,
        collection=collection,
        jobs=load.jobs,
        concurrency=load.concurrency,
        warm_up=warm_up,
        every=every,
    )


async def drain(jobs: AsyncCollection[dict[str, Any]], workers: Sequence[Child], load: Load) -> float:
    """Seconds from when the workers are let loose until the last job is settled, both by the server's clock."""
    released: datetime = (await jobs.database.client.admin.command("hello"))["localTime"]
    for each in workers:
        each.say("begin")
    try:
        async with asyncio.timeout(children.PATIENCE + load.jobs / _LEAST_RATE):
            await _until_none_is_open(jobs, workers, load)
    except TimeoutError as error:
        raise BenchError("the jobs take too long") from error
    ours = {"status": "completed", "name": {"$in": list(load.names)}}
    if await jobs.count_documents(ours) != load.jobs:
        raise BenchError(f"not all jobs are completed; is somebody else at work in {jobs.name}?")
    latest = jobs.find(ours, {"updatedAt": 1}).sort("updatedAt", -1).limit(1)
    last: datetime = (await latest.next())["updatedAt"]
    took = last.replace(tzinfo=None) - released.replace(tzinfo=None)
    return max(took.total_seconds(), _MILLISECOND)


async def _until_none_is_open(jobs: AsyncCollection[dict[str, Any]], workers: Sequence[Child], load: Load) -> None:
    while await _is_any_open(jobs, load):
        for each in workers:
            each.check()
        await asyncio.sleep(_LOOK_AGAIN)


async def _is_any_open(jobs: AsyncCollection[dict[str, Any]], load: Load) -> bool:
    # Two queries that each read one key at most, since those who work are not to be disturbed.
    pending = {"status": "pending", "name": {"$in": list(load.names)}}
    if await jobs.find_one(pending, {"_id": 1}, hint=indexes.CLAIM):
        return True
    return await jobs.find_one({"status": "processing"}, {"_id": 1}, hint=indexes.LEASE) is not None


async def write_conflicts(database: AsyncDatabase[dict[str, Any]]) -> int | None:
    """How many there have been since the server started; None where it does not tell."""
    try:
        status = await database.client.admin.command("serverStatus")
    except OperationFailure:
        return None
    conflicts: int | None = status["metrics"].get("operation", {}).get("writeConflicts")
    return conflicts
