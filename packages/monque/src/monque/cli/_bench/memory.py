"""Whether a worker process grows: its memory, read again and again over many jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monque import Monque
from monque.cli._bench import children
from monque.cli._bench.figures import Findings, shown
from monque.cli._bench.processes import worker
from monque.cli._bench.work import Load

if TYPE_CHECKING:
    from monque.cli._bench.settings import Bench

_READINGS = 10
_MB = 1_000_000


async def run(bench: Bench) -> Findings:
    """Measure."""
    every = bench.settings.jobs
    megabytes = [reading / _MB for reading in await readings(bench, every)]
    ratio = megabytes[-1] / megabytes[0]
    return Findings(
        title="memory: resident size of a worker process",
        figures={
            "rss_mb": round(megabytes[-1], 2),
            "first_rss_mb": round(megabytes[0], 2),
            "ratio": round(ratio, 3),
            "jobs": every * _READINGS,
            "readings": [round(reading, 2) for reading in megabytes],
        },
        columns=("after jobs", "MB"),
        rows=[
            *([f"{every * number:,}", shown(reading)] for number, reading in enumerate(megabytes, 1)),
            ["last / first", shown(ratio)],
        ],
    )


async def readings(bench: Bench, every: int) -> list[int]:
    """Bytes, after every so many jobs."""
    load = Load(jobs=every * _READINGS, concurrency=bench.settings.concurrency)
    async with (
        bench.place.collection() as collection,
        Monque(bench.place.database, load.options(collection)) as monque,
        worker(bench, collection, load, "warm-up", every=every) as process,
    ):
        await process.hear("ready")
        bench.say(f"memory: enqueueing {load.jobs:,} jobs")
        await load.enqueue(monque)
        process.say("begin")
        read: list[int] = []
        for number in range(_READINGS):
            bench.say(f"memory: {number * every:,} of {load.jobs:,} jobs")
            read.append(await process.hear("bytes", patience=children.PATIENCE + every))
    return read
