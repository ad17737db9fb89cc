"""The parts of the bench, and what they do when something goes wrong."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from monque import Monque
from monque._store.flow import job_collection
from monque.cli import bench as command
from monque.cli._bench import children, drain, history, processes, work
from monque.cli._bench.errors import BenchError
from monque.cli._bench.figures import Comparison, Findings, in_turns, percentile, shown
from monque.cli._bench.idle import STREAMS, Compared, Watched
from monque.cli._bench.place import Place, open_place
from monque.cli._bench.screen import Screen, table
from monque.cli._bench.settings import USUAL, Bench, Settings
from monque.cli._bench.work import Load
from monque.cli._errors import UsageError
from monque.cli._memory import MEMORY, memory

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from monque import Job


@pytest.fixture
async def place(monque_uri: str) -> AsyncGenerator[Place]:
    async with open_place(monque_uri, None, print) as place:
        yield place


async def test_runs_take_turns_in_an_order_that_turns_around() -> None:
    order: list[str] = []

    def measuring(name: str) -> Any:
        async def measure() -> float:
            order.append(name)
            return float(len(order))

        return measure

    measured = await in_turns({"a": measuring("a"), "b": measuring("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert measured == {"a": [1, 4, 5], "b": [2, 3, 6]}


def test_a_ratio_is_that_of_neighbouring_runs() -> None:
    compared = Comparison(figure="speed", measured=[1, 20, 300], beside=[2, 10, 100])
    assert compared.as_json() == {
        "speed": 20,
        "bare_speed": 10,
        "ratio": 2,
        "spread": {
            "speed": {"lowest": 1, "highest": 300},
            "bare_speed": {"lowest": 2, "highest": 100},
            "ratio": {"lowest": 0.5, "highest": 3},
        },
    }
    assert compared.cells() == ["20.00 (1.00 to 300)", "10.00 (2.00 to 100)", "2.00 (0.50 to 3.00)"]


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3, 1, 2], 0.5, 2), ([3, 1, 2], 0.99, 3), ([1], 0.01, 1), (range(1, 101), 0.99, 99), (range(1, 101), 0.5, 50)],
)
def test_percentiles(values: Any, share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_figures_for_people() -> None:
    assert [shown(value) for value in (0, 1.234, -99.999, 100, 12345.6)] == ["0.00", "1.23", "-100.00", "100", "12,346"]
    assert table([["", "b"], ["long", "1"], ["c", "22"]]) == ["       b", "long   1", "c     22"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [((), USUAL), (("processes", "drain", "drain"), ("drain", "processes")), (("drain", "all"), None)],
)
def test_parts_are_chosen(parts: tuple[str, ...], expected: tuple[str, ...] | None) -> None:
    chosen = command.chosen(parts)
    assert tuple(chosen) == (expected or tuple(chosen))
    assert set(USUAL) <= set(chosen) or expected


def test_commands_of_a_poll_and_those_of_the_driver() -> None:
    alone, both = Watched({"hello": 12, "find": 1}, 0.1), Watched({"hello": 18, "find": 3, "aggregate": 2}, 0.3)
    compared = Compared(STREAMS, alone, both, 60)
    assert (compared.per_poll, compared.as_json()["own_commands_per_minute"]) == (2, 10)
    assert Compared(STREAMS, Watched({}, 0), both, 1).as_json()["ratio"] is None


async def test_a_collection_that_somebody_else_makes_meanwhile_stays_theirs(place: Place) -> None:
    async with place.collection() as first:
        await place.database.create_collection(f"{first}_2")
        with pytest.raises(UsageError, match="already"):
            async with place.collection():
                pass
    await place.clear()
    assert await place.database.list_collection_names() == [f"{first}_2"]


async def test_a_history_has_as_many_settled_and_future_jobs(place: Place) -> None:
    async with place.collection() as collection:
        await history.fill(Bench(place, Settings(history=7), print), collection)
        jobs = place.database[collection]
        rows = await (await jobs.aggregate([{"$sortByCount": "$status"}])).to_list()
        due = {"status": "pending", "$expr": {"$lte": ["$nextRunAt", "$$NOW"]}}
        assert {row["_id"]: row["count"] for row in rows} == {"completed": 7, "pending": 7}
        assert await jobs.find_one(due) is None


async def test_what_comes_back_is_dropped_in_the_end(monque_uri: str, monque_database: Any) -> None:
    async with open_place(monque_uri, None, print) as place:
        async with place.collection() as name:
            pass
        monque_database[name].insert_one({})
    assert monque_database.list_collection_names() == []


async def test_a_cancellation_that_is_no_signal_goes_through(monque_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = asyncio.Event()

    async def take_for_ever(_: Bench) -> Findings:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(command, "_PARTS", {"drain": take_for_ever})
    running = asyncio.create_task(command.measure(["drain"], Settings(), Screen(as_json=True), monque_uri))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_jobs_that_are_not_completed_are_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(*_: object) -> float:
        return 1.0

    monkeypatch.setattr(drain, "drain_bare", nothing)
    with pytest.raises(BenchError, match="0 of 3 jobs"):
        await drain.in_fresh(place, Load(jobs=3, concurrency=1), "bare")


async def test_a_drain_that_stands_still_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PATIENCE", 0.02)
    released = asyncio.Event()

    async def wait(_: Job[Any]) -> None:
        await released.wait()

    async with (
        place.collection() as collection,
        Monque(place.database, Load(jobs=1, concurrency=1).options(collection)) as monque,
    ):
        countdown = work.Countdown(monque, 1)
        monque.worker("job", wait)
        await monque.enqueue("job")
        await monque.start()
        with pytest.raises(BenchError, match="with 1 to go"):
            await countdown.wait()
        released.set()


async def test_processes_that_complete_nothing_are_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "PATIENCE", 0.05)
    load = Load(jobs=1, concurrency=1)
    async with place.collection() as collection, Monque(place.database, load.options(collection)) as monque:
        jobs = job_collection(place.database, collection)
        with pytest.raises(BenchError, match="not all jobs are completed"):
            await processes.drain(jobs, [], load)
        await load.enqueue(monque)
        with pytest.raises(BenchError, match="too long"):
            await processes.drain(jobs, [], load)


async def test_a_process_that_fails_says_why() -> None:
    uri = "mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=50"
    task = {"collection": "c", "jobs": 1, "concurrency": 1, "warm_up": "w", "every": 0}
    async with children.child(children.WORKER, role="drain", uri=uri, database="d", **task) as process:
        with pytest.raises(BenchError, match="cannot connect to MongoDB") as failed:
            await process.hear("ready")
    assert "secret" not in str(failed.value)
    with pytest.raises(BenchError, match="has ended"):
        await process.hear("ready")
    with pytest.raises(BenchError, match="before its time"):
        process.check()


async def test_a_process_that_hears_nothing_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deaf.py").write_text("import time\ntime.sleep(3600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(children, "PATIENCE", 0.05)
    async with children.child("deaf") as process:
        process.check()
        with pytest.raises(BenchError, match="says nothing"):
            await process.hear("ready")
    with pytest.raises(BenchError, match="before its time"):
        process.check()


def test_a_process_without_a_parent_ends() -> None:
    command = [sys.executable, "-m", children.WORKER]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, check=False, timeout=60).returncode == 0


def test_a_process_that_has_nothing_more_to_do_ends_while_its_parent_listens() -> None:
    task: dict[str, Any] = {
        "uri": "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50",
        "database": "d",
        "role": "consume",
    }
    task |= {"collection": "c", "jobs": 1}
    command = [sys.executable, "-m", children.WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        assert "cannot connect to MongoDB" in json.loads(process.stdout.readline())["error"]
        assert process.wait(60) == 0


def test_memory_is_read_one_way_or_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = memory(tmp_path / "nowhere")
    assert 1_000_000 < memory(MEMORY) <= most * 1.1
    monkeypatch.setattr(sys, "platform", "darwin")
    assert memory(tmp_path / "nowhere") < most
