"""The bench, run as its users run it: as a process, with a real MongoDB. The figures mean nothing here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from monque.cli._app import run as app
from monque.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

TINY = ("--jobs=20", "--concurrency=10", "--repetitions=1", "--samples=3", "--rate=20", "--seconds=0.5")
# Far more than can be done before a test interrupts it.
ENDLESS = ("--jobs=2000", "--repetitions=10000", "--processes=2")


@pytest.fixture
def foreign(monque_database: Any) -> Any:
    """A collection of somebody else's, in the database the bench works in."""
    monque_database.foreign.insert_one({"_id": 1, "status": "pending", "name": "job"})
    return monque_database.foreign


def spreads(of: dict[str, Any], *figures: str) -> None:
    for figure in figures:
        assert 0 < of["spread"][figure]["lowest"] <= of[figure] <= of["spread"][figure]["highest"]


def test_drain_says_how_fast_it_is_beside_the_bare_loop(run: Callable[..., Any], foreign: Any) -> None:
    done = run("bench", "drain", "--json", "--jobs=60", "--concurrency=20", "--repetitions=2")
    assert (done.code, done.err) == (0, "")
    assert set(done.summary) == {"drain", "machine", "settings"}
    spreads(done.summary["drain"], "jobs_per_second", "bare_jobs_per_second", "ratio")
    assert done.summary["machine"]["cores"] >= 1
    assert done.summary["machine"]["mongodb"]
    assert (done.summary["settings"]["jobs"], done.summary["settings"]["repetitions"]) == (60, 2)
    assert foreign.database.list_collection_names() == ["foreign"]
    assert foreign.find_one() == {"_id": 1, "status": "pending", "name": "job"}


def test_the_usual_parts_have_figures_and_nothing_is_left(run: Callable[..., Any], foreign: Any) -> None:
    done = run("bench", "--json", *TINY, "--processes", "2", "--workers=2")
    assert (done.code, done.err) == (0, "")
    of = done.summary
    assert set(of) == {"drain", "enqueue", "latency", "idle", "processes", "machine", "settings"}

    for part in ("many", "concurrent", "concurrent_beside_one_by_one"):
        spreads(of["enqueue"][part], "jobs_per_second", "bare_jobs_per_second", "ratio")

    latency = of["latency"]
    assert 0 < latency["p50_ms"] <= latency["p99_ms"] == latency["spread"]["ms"]["highest"]
    assert 0 < latency["bare_p50_ms"] <= latency["bare_p99_ms"]
    assert latency["ratio"] > 0
    assert set(latency["bare_parts"]) == {"insert", "event", "claim"}

    streams, polling = of["idle"]["streams"], of["idle"]["polling"]
    assert streams["commands_per_poll"] is None  # none within so short a time
    assert polling["commands_per_minute"] >= polling["own_commands_per_minute"]
    assert streams["cpu_seconds_per_minute"] > 0

    assert set(of["processes"]) == {"1", "2"}
    for number in ("1", "2"):
        spreads(of["processes"][number], "jobs_per_second", "one_process_jobs_per_second", "ratio")
        assert of["processes"][number]["write_conflicts_per_1000_jobs"] >= 0
    assert of["processes"]["1"]["ratio"] == 1
    assert foreign.database.list_collection_names() == ["foreign"]


def test_sweeps_have_a_figure_for_each_step(run: Callable[..., Any], foreign: Any) -> None:
    done = run("bench", "names", "payload", "concurrency", "--json", *TINY)
    assert (done.code, done.err) == (0, "")
    of = done.summary
    assert [each["jobs"] for each in of["concurrency"].values()] == [20] * 5
    assert {size: each["jobs"] for size, each in of["payload"].items()} == {"100 B": 20, "10 kB": 2, "1 MB": 1}
    assert list(of["names"]) == ["1", "10", "100"]
    for part in ("concurrency", "payload", "names"):
        for each in of[part].values():
            spreads(each, "jobs_per_second", "bare_jobs_per_second", "ratio")
    assert foreign.database.list_collection_names() == ["foreign"]


def test_history_and_memory(run: Callable[..., Any], foreign: Any) -> None:
    done = run("bench", "history", "memory", "--json", *TINY, "--history=30")
    assert (done.code, done.err) == (0, "")
    history, memory = done.summary["history"], done.summary["memory"]
    assert (history["settled"], history["future"]) == (30, 30)
    spreads(history, "jobs_per_second", "empty_jobs_per_second", "ratio")
    assert (memory["jobs"], len(memory["readings"])) == (200, 10)
    assert memory["ratio"] > 0
    assert foreign.database.list_collection_names() == ["foreign"]


def test_people_get_a_table_for_each_part(run: Callable[..., Any]) -> None:
    done = run("bench", "processes", "drain", *TINY, "--processes", "1")
    assert (done.code, done.err) == (0, "")
    machine, *tables = done.out.split("\n\n")
    assert "MongoDB" in machine
    assert [table.split(":")[0] for table in tables] == ["drain", "processes"]
    for table in tables:
        _, *lines = table.strip().splitlines()
        assert len(lines) == 2
        assert len({len(line) for line in lines}) == 1


def test_a_terminal_is_told_what_goes_on(run: Callable[..., Any]) -> None:
    done = run("bench", "drain", "--json", "--jobs=500", TTY_COMPATIBLE="1", FORCE_COLOR="1")
    assert done.code == 0
    assert "drain: " in done.err
    assert json.loads(done.out)["drain"]


def test_without_a_uri_it_starts_a_server_and_throws_it_away(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("bench", "drain", "--json", *TINY, MONQUE_URI="", TMPDIR=str(tmp_path), XDG_DATA_HOME=str(tmp_path))
    assert done.code == 0, done.err
    assert done.summary["drain"]["ratio"] > 0
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"lock"}


@pytest.mark.parametrize("taken", ["mine", "mine_2"])
def test_a_collection_that_exists_is_not_touched(run: Callable[..., Any], monque_database: Any, taken: str) -> None:
    monque_database[taken].insert_one({"_id": 1})
    done = run("bench", "drain", *TINY, "--collection=mine")
    assert (done.code, done.out) == (2, "")
    assert repr(taken) in done.err
    assert done.err.count("\n") == 1
    assert list(monque_database[taken].find()) == [{"_id": 1}]


def test_a_collection_can_be_named(run: Callable[..., Any], monque_database: Any) -> None:
    monque_database.mine_too.insert_one({"_id": 1})
    done = run("bench", "drain", "--json", *TINY, "--collection=mine")
    assert done.code == 0, done.err
    assert monque_database.list_collection_names() == ["mine_too"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["speed"], "drain"),
        (["--jobs=0"], ">= 1"),
        (["--jobs=many"], "int"),
        (["--seconds=0"], "> 0"),
        (["--processes", "2", "0"], ">= 1"),
        (["drain", "--nonsense"], "--nonsense"),
    ],
)
def test_nonsense_ends_with_2_and_says_what_was_expected(capsys: Any, arguments: list[str], expected: str) -> None:
    assert app(["bench", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert expected in said.err


def test_what_cannot_be_a_collection_ends_with_2(run: Callable[..., Any]) -> None:
    done = run("bench", "drain", *TINY, "--collection=$mine")
    assert (done.code, done.out) == (2, "")
    assert "collection name" in done.err


@pytest.mark.parametrize(
    ("uri", "code"),
    [("mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=100", 1), ("http://user:secret@127.0.0.1/", 2)],
)
def test_an_error_is_one_line_without_secrets(run: Callable[..., Any], uri: str, code: int) -> None:
    done = run("bench", "drain", "--uri", uri)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert done.err.startswith("monque: ")
    assert "secret" not in done.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("part", ["drain", "processes"])
async def test_an_interrupted_run_leaves_nothing(
    start: Callable[..., Any], foreign: Any, part: str, number: signal.Signals, code: int
) -> None:
    started = start("bench", part, "--json", *ENDLESS)
    await eventually(lambda: is_at_work(foreign.database), timeout=30)
    children = children_of(started.process.pid)
    started.interrupt(number)
    done = started.end()
    assert (done.code, done.out) == (code, "")
    assert "interrupted" in done.err
    assert foreign.database.list_collection_names() == ["foreign"]
    assert not any(map(is_alive, children))


async def test_processes_do_not_outlive_the_bench(start: Callable[..., Any], monque_database: Any) -> None:
    started = start("bench", "processes", *ENDLESS)
    await eventually(lambda: is_at_work(monque_database), timeout=30)
    children = await eventually(lambda: children_of(started.process.pid), timeout=30)
    started.process.kill()
    await eventually(lambda: not any(map(is_alive, children)), timeout=30)


def is_at_work(database: Any) -> bool:
    return any(
        database[name].find_one({"status": "completed"}, {"_id": 1})
        for name in database.list_collection_names()
        if name.startswith("monque_bench_")
    )


def state(process: int) -> tuple[str, int]:
    """What it does, and its parent; ("Z", 0) once it is gone."""
    try:
        _, _, fields = Path("/proc", str(process), "stat").read_text().rpartition(")")
    except OSError:
        return "Z", 0
    doing, parent, *_ = fields.split()
    return doing, int(parent)


def children_of(process: int) -> list[int]:
    running = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [each for each in running if state(each)[1] == process]


def is_alive(process: int) -> bool:
    return state(process)[0] != "Z"


@pytest.fixture
def refusing(monque_client: Any, monque_uri: str) -> Generator[str]:
    """A URI whose users may not read the server's counters."""
    data = {"failCommands": ["serverStatus"], "errorCode": 13, "appName": "not-allowed"}
    monque_client.admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data})
    yield f"{monque_uri}{'&' if '?' in monque_uri else '?'}appName=not-allowed"
    monque_client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def test_counters_that_may_not_be_read_spoil_nothing_else(run: Callable[..., Any], refusing: str) -> None:
    done = run("bench", "idle", "processes", "--json", *TINY, "--processes=1", "--uri", refusing)
    assert done.code == 0, done.err
    assert "clusterMonitor" in done.summary["idle"]["skipped"]
    assert done.summary["processes"]["1"]["write_conflicts_per_1000_jobs"] is None
    for_people = run("bench", "idle", "processes", *TINY, "--processes=1", "--uri", refusing)
    assert "clusterMonitor" in for_people.out
    assert "unknown" in for_people.out


def test_without_a_mongod_polling_is_skipped(run: Callable[..., Any]) -> None:
    done = run("bench", "idle", *TINY, MONQUE_MONGOD="/nowhere")
    assert (done.code, done.err) == (0, "")
    assert "polling: skipped" in done.out
    assert "streams: all commands" in done.out


@pytest.fixture
def standalone() -> Generator[str]:
    """The URI of a server without change streams."""
    from monque.embedded import find_mongod

    command = [sys.executable, "-m", "monque.cli._bench.standalone"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({"mongod": str(find_mongod())}) + "\n")
        server.stdin.flush()
        yield json.loads(server.stdout.readline())["uri"]
        server.stdin.close()


def test_a_server_without_change_streams(run: Callable[..., Any], standalone: str) -> None:
    done = run("bench", "idle", "latency", "processes", "--json", *TINY, "--processes=1", "--uri", standalone)
    assert (done.code, done.err) == (0, "")
    assert done.summary["processes"]["1"]["jobs_per_second"] > 0
    assert list(done.summary["idle"]) == ["polling"]
    assert "change streams" in done.summary["latency"]["skipped"]
