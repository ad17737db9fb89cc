"""How long it takes from an `enqueue` call in one process until the handler is entered in another, at low load.

Beside it, in the same run: one acknowledged insert, one change event, one claim, with the driver alone.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from pymongo import WriteConcern
from pymongo.errors import OperationFailure

from monque import Monque, Options
from monque.cli._bench import children
from monque.cli._bench.errors import SkippedError
from monque.cli._bench.figures import Findings, percentile, shown, spread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence
    from contextlib import AbstractAsyncContextManager

    from pymongo.asynchronous.change_stream import AsyncChangeStream
    from pymongo.asynchronous.collection import AsyncCollection

    from monque.cli._bench.children import Child
    from monque.cli._bench.settings import Bench

    Stream = AsyncChangeStream[dict[str, Any]]

_PARTS = ("insert", "event", "claim")


async def run(bench: Bench) -> Findings:
    """Measure."""
    late, bare = await measure(bench)
    sums = [sum(parts.values()) for parts in bare]
    ratio = round(statistics.median(late) / statistics.median(sums), 3)
    parts = {part: [each[part] for each in bare] for part in _PARTS}
    return Findings(
        title=f"latency: enqueue call to handler in another process, {bench.settings.rate:g} jobs/s",
        figures={
            **_percentiles(late),
            **_percentiles(sums, "bare_"),
            "ratio": ratio,
            "bare_parts": {part: _percentiles(values) for part, values in parts.items()},
            "spread": {"ms": spread(late), "bare_ms": spread(sums)},
        },
        columns=("ms", "p50", "p99", "from", "to"),
        rows=[
            _row("Monque", late),
            _row("bare: insert + event + claim", sums),
            *(_row(f"  {part}", values) for part, values in parts.items()),
            ["ratio", shown(ratio), "", "", ""],
        ],
    )


def _percentiles(values: Sequence[float], prefix: str = "") -> dict[str, float]:
    return {f"{prefix}p50_ms": percentile(values, 0.5), f"{prefix}p99_ms": percentile(values, 0.99)}


def _row(what: str, values: Sequence[float]) -> list[str]:
    figures = (percentile(values, 0.5), percentile(values, 0.99), min(values), max(values))
    return [what, *map(shown, figures)]


async def measure(bench: Bench) -> tuple[list[float], list[dict[str, float]]]:
    """Milliseconds of each job, and of the parts of each bare pick-up."""
    place, settings = bench.place, bench.settings
    async with place.collection() as collection, place.collection() as bare:
        jobs = place.database.get_collection(bare, write_concern=WriteConcern("majority"))
        async with (
            await watch(jobs) as stream,
            Monque(place.database, Options(collection=collection)) as monque,
            _consumer(bench, collection) as consumer,
        ):
            await consumer.hear("ready")
            bench.say(f"latency: {settings.samples} jobs, {settings.rate:g} per second")
            measured = await Producer(monque, jobs, stream).produce(settings.samples, settings.rate)
            late: list[float] = await consumer.hear("late")
    return late, measured


def _consumer(bench: Bench, collection: str) -> AbstractAsyncContextManager[Child]:
    return children.child(
        children.WORKER,
        role="consume",
        uri=bench.place.uri,
        database=bench.place.database.name,
        collection=collection,
        jobs=bench.settings.samples,
    )


async def watch(collection: AsyncCollection[dict[str, Any]]) -> Stream:
    """The bare side's change stream.

    Raises:
        SkippedError: The server has none.
    """
    try:
        return await collection.watch([{"$match": {"operationType": "insert"}}])
    except OperationFailure as error:
        raise SkippedError(f"the server has no change streams to compare with: {error.code}") from error


class Producer:
    """The process that enqueues, and between two jobs does a bare pick-up.

    Args:
        monque: Enqueues.
        collection: Where the bare side works.
        stream: What it listens to.
    """

    def __init__(self, monque: Monque, collection: AsyncCollection[dict[str, Any]], stream: Stream) -> None:
        self._monque = monque
        self._collection = collection
        self._stream = stream

    async def produce(self, jobs: int, rate: float) -> list[dict[str, float]]:
        """Enqueue at a steady pace, and do a bare pick-up half-way between two jobs."""
        await self.pick_up()
        bare: list[dict[str, float]] = []
        begin = time.monotonic()
        for number in range(jobs):
            await _sleep_until(begin + number / rate)
            await self._monque.enqueue("job", {"called": time.monotonic()})
            await _sleep_until(begin + (number + 0.5) / rate)
            bare.append(await self.pick_up())
        return bare

    async def pick_up(self) -> dict[str, float]:
        """Milliseconds: an insert, the event about it from then on, and a claim."""
        job = ObjectId()
        document = {"_id": job, "name": "job", "data": {"called": time.monotonic()}, "status": "pending"}
        # Nobody else inserts here.
        event = asyncio.ensure_future(timed(self._stream.next()))
        try:
            insert = await timed(self._collection.insert_one(document))
            # What has come before the acknowledgement costs nothing more.
            waited = max(await event - insert, 0.0)
        finally:
            event.cancel()
        change = {"$set": {"status": "processing"}}
        claim = await timed(self._collection.find_one_and_update({"_id": job, "status": "pending"}, change))
        return dict(zip(_PARTS, (insert, waited, claim), strict=True))


async def timed(work: Awaitable[Any]) -> float:
    """Milliseconds that `work` takes."""
    started = time.monotonic()
    await work
    return (time.monotonic() - started) * 1000


async def _sleep_until(moment: float) -> None:
    await asyncio.sleep(max(moment - time.monotonic(), 0))
