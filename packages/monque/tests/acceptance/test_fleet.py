"""Several processes, one word: what is paused is paused for all of them, and a drained one stands aside."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from monque import Monque
from monque.testing import eventually

from .support import PATIENCE, Process, entries, patiently, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

OPTIONS = {"concurrency": 5}
# A machine that does ten other things; on an idle one a pause is heard within milliseconds.
SOON = 10


async def _working(monque: Monque, number: int) -> list[str]:
    """The ids of so many instances at work, once there are."""
    while True:
        ids = [instance.id for instance in await monque.fleet.instances() if instance.status == "working"]
        if len(ids) == number:
            return ids
        await asyncio.sleep(0.05)


def _is_quiet(database: Database[Any]) -> Callable[[], bool]:
    """Whether no job was at work, ten times in a row."""
    times = 0

    def look() -> bool:
        nonlocal times
        times = 0 if statuses(database).get("processing") else times + 1
        return times >= 10

    return look


async def test_a_pause_is_obeyed_by_all_and_outlives_them(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    names = ["paused", "free"]
    processes = [start_process(options=OPTIONS, names=names) for _ in range(3)]
    for process in processes:
        await process.until_told("changestream:connected")
    async with Monque(monque_uri) as monque:
        await monque.enqueue_many({"name": "paused", "data": {"seconds": 0.1}} for _ in range(1500))
        await patiently(lambda: len(monque_database.entries.distinct("pid")) == 3)
        await monque.fleet.pause("paused")
        # All slots are taken all the time, until nobody claims any more.
        await eventually(_is_quiet(monque_database), timeout=SOON, poll=0.02)
        begun = len(entries(monque_database))
        assert begun < 1500
        assert statuses(monque_database) == {"pending": 1500 - begun, "completed": begun}

        await monque.enqueue_many([("free", {"n": 1})] * 200)
        await patiently(lambda: statuses(monque_database)["completed"] == begun + 200)
        # Others take their places, and know.
        for process in processes:
            await process.stopped()
        others = [start_process(options=OPTIONS, names=names) for _ in range(2)]
        for process in others:
            await process.until_told("changestream:connected")
        await monque.enqueue_many([("free", {"n": 1})] * 200)
        await patiently(lambda: statuses(monque_database)["completed"] == begun + 400)
        assert statuses(monque_database) == {"pending": 1500 - begun, "completed": begun + 400}

        assert await monque.fleet.resume("paused")
        await patiently(lambda: len(entries(monque_database)) > begun + 400)
        await patiently(lambda: statuses(monque_database) == {"completed": 1900})
    assert set(entries(monque_database).values()) == {1}


async def test_all_go_on_when_the_time_of_a_pause_is_over(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    async with Monque(monque_uri) as monque:
        pause = await monque.fleet.pause("job", 5)
        assert pause.until is not None
        await monque.enqueue_many({"name": "job", "data": {"seconds": 0.2}} for _ in range(100))
        processes = [start_process(options={**OPTIONS, "safety": 60}) for _ in range(3)]
        for process in processes:
            await process.until_told("ready")
        await patiently(lambda: statuses(monque_database) == {"completed": 100})
    first = min(entry["_id"].generation_time for entry in monque_database.entries.find())
    assert pause.until - timedelta(seconds=1) <= first <= pause.until + timedelta(seconds=30)


async def test_a_drained_process_leaves_the_work_to_the_others(
    start_process: Callable[..., Process], monque_uri: str, monque_database: Database[Any]
) -> None:
    processes = [start_process(options=OPTIONS) for _ in range(3)]
    async with Monque(monque_uri) as monque:
        await _working(monque, 3)
        drained, *_ = await monque.fleet.instances()
        (process,) = [process for process in processes if process.pid == drained.pid]

        async def share(jobs: int) -> int:
            """How many of so many jobs it runs."""
            mine = {"pid": drained.pid}
            before = monque_database.entries.count_documents(mine)
            await monque.enqueue_many([("job", {"n": 1})] * jobs)
            await patiently(lambda: statuses(monque_database).keys() == {"completed"})
            return monque_database.entries.count_documents(mine) - before

        assert await monque.fleet.drain(drained.id)
        async with asyncio.timeout(SOON):
            while await share(30):
                pass
        assert await share(300) == 0
        assert process.is_running()
        assert process.is_healthy()
        assert await monque.fleet.undrain(drained.id)
        async with asyncio.timeout(PATIENCE):
            while not await share(30):
                pass
        for process in processes:
            await process.stopped()
        assert await monque.fleet.instances() == []
