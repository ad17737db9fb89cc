"""How fast one process works off jobs that do nothing, beside a bare loop that claims and completes in batches."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from monque import Monque
from monque._store import indexes
from monque._store.flow import job_collection
from monque.cli._bench import work
from monque.cli._bench.errors import BenchError
from monque.cli._bench.figures import Comparison, Findings, in_turns
from monque.cli._bench.work import Load

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

    from monque.cli._bench.place import Place
    from monque.cli._bench.settings import Bench

Way = Literal["monque", "bare"]

COLUMNS = ("", "Monque", "bare", "ratio")
_FEW = 1000


async def run(bench: Bench) -> Findings:
    """Measure."""
    load = Load(jobs=bench.settings.jobs, concurrency=bench.settings.concurrency)
    compared = await compare(bench, load, "drain")
    return Findings(
        title="drain: one process works off jobs that do nothing",
        figures=compared.as_json(),
        columns=COLUMNS,
        rows=[["jobs/s", *compared.cells()]],
    )


async def compare(bench: Bench, load: Load, label: str) -> Comparison:
    """Monque and the bare loop in turns, each in a fresh collection."""
    ways: dict[str, Way] = {"Monque": "monque", "bare": "bare"}
    bench.say(f"{label}: warming up")
    for way in ways.values():
        await in_fresh(bench.place, few(load), way)
    runs = {name: partial(in_fresh, bench.place, load, way) for name, way in ways.items()}
    measured = await in_turns(runs, bench.settings.repetitions, lambda line: bench.say(f"{label}: {line}"))
    return Comparison(figure="jobs_per_second", measured=measured["Monque"], beside=measured["bare"])


def few(load: Load) -> Load:
    """The same with fewer jobs, to warm up with."""
    return Load(jobs=min(load.jobs, _FEW), concurrency=load.concurrency, names=load.names, payload=load.payload)


async def in_fresh(place: Place, load: Load, way: Way) -> float:
    """Jobs per second in a collection that has nothing else in it."""
    async with place.collection() as collection:
        return await in_collection(place, collection, load, way)


async def in_collection(place: Place, collection: str, load: Load, way: Way) -> float:
    """Jobs per second. Both ways work off documents that Monque made, under the indexes that Monque made."""
    jobs = job_collection(place.database, collection)
    ours: dict[str, Any] = {"status": "completed", "name": {"$in": list(load.names)}}
    before = await jobs.count_documents(ours)
    async with Monque(place.database, load.options(collection)) as monque:
        await load.enqueue(monque)
        seconds = await (work.drain(monque, load) if way == "monque" else drain_bare(jobs, load))
    completed = await jobs.count_documents(ours) - before
    if completed != load.jobs:
        raise BenchError(f"{completed} of {load.jobs} jobs are completed; is somebody else at work in {collection}?")
    return load.jobs / seconds


async def drain_bare(jobs: AsyncCollection[dict[str, Any]], load: Load) -> float:
    """Seconds until nothing is left for: find, claim with a guard on the status, complete."""
    one, *others = load.names
    query: dict[str, Any] = {"name": {"$in": [one, *others]} if others else one, "status": "pending"}
    started = time.perf_counter()
    while True:
        now = datetime.now(UTC)
        found = jobs.find({**query, "nextRunAt": {"$lte": now}}, {"_id": 1}).hint(indexes.CLAIM)
        ids = [row["_id"] for row in await found.sort(indexes.CLAIM_ORDER).limit(load.concurrency).to_list()]
        if not ids:
            return time.perf_counter() - started
        await _claim_and_complete(jobs, ids, now, reads=load.payload > 0)


async def _claim_and_complete(
    jobs: AsyncCollection[dict[str, Any]], ids: list[Any], now: datetime, *, reads: bool
) -> None:
    claim = {"status": "processing", "claimedBy": "bare", "claimToken": "bare", "lockedAt": now}
    await jobs.update_many({"_id": {"$in": ids}, "status": "pending"}, {"$set": claim})
    held = {"_id": {"$in": ids}, "status": "processing", "claimToken": "bare"}
    if reads:
        # Where the payload is what is measured, somebody has to fetch it.
        await jobs.find(held).to_list()
    await jobs.update_many(
        held, {"$set": {"status": "completed"}, "$unset": {"claimedBy": "", "claimToken": "", "lockedAt": ""}}
    )
