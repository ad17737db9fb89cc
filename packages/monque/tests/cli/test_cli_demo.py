from __future__ import annotations

import signal
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from monque import Monque
from monque.cli import demo
from monque.cli._app import run as app
from monque.cli._place import is_old, open_place
from monque.cli._signals import Interruption
from monque.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_every_file_is_accounted_for_and_failures_say_why(
    run: Callable[..., Any], tree: Path, monque_database: Any
) -> None:
    done = run("demo", tree, "--json")
    assert (done.code, done.err) == (0, "")

    summary = done.summary
    counts = {name: summary[name] for name in ("files", "enqueued", "completed", "failed", "pending", "processing")}
    assert counts == {"files": 9, "enqueued": 9, "completed": 4, "failed": 5, "pending": 0, "processing": 0}
    assert (summary["cancelled"], summary["interrupted"]) == (0, False)
    assert summary["totals"] == {"lines": 6, "functions": 2, "classes": 1, "bytes": 91}
    assert summary["seconds"] > 0
    assert summary["jobs_per_second"] > 0
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p95"] <= summary["latency_ms"]["p99"]
    assert summary["handler_ms"]["p50"] > 0
    assert summary["largest"][0] == {"file": "package/good.py", "lines": 3, "functions": 2, "classes": 1, "bytes": 57}
    assert "na\\xefve.py" in {row["file"] for row in summary["largest"]}

    jobs = monque_database[summary["collection"]]
    assert {job["failCount"] for job in jobs.find({"status": "failed"})} == {3}
    results = monque_database[summary["results"]]
    assert {job["_id"] for job in jobs.find({"status": "completed"})} == set(results.distinct("_id"))

    failures = summary["failures"]
    assert {(failure["error"], failure["count"]) for failure in failures} == {
        ("SyntaxError", 2),
        ("UnicodeDecodeError", 1),
        ("FileNotFoundError", 1),
        ("OSError", 1),
    }
    examples = {example["file"]: example["reason"] for failure in failures for example in failure["examples"]}
    assert examples["broken.py"].startswith("SyntaxError: invalid syntax")
    assert examples["cookie.py"] == "SyntaxError: unknown encoding: nonsense"
    assert examples["pipe.py"] == "OSError: not a regular file"


def test_several_runs_at_once_and_one_after_them(start: Callable[..., Any], tree: Path) -> None:
    together = [start("demo", tree, "--json", "-c", "2") for _ in range(2)]
    runs = [each.end() for each in together] + [start("demo", tree, "--json").end()]
    assert [(each.code, each.summary["completed"], each.summary["failed"]) for each in runs] == [(0, 4, 5)] * 3
    assert len({each.summary["collection"] for each in runs}) == 3


def test_it_says_in_words_what_came_of_it(run: Callable[..., Any], tree: Path) -> None:
    done = run("demo", tree)
    assert (done.code, done.err) == (0, "")
    assert "Analysing 9 Python files" in done.out
    assert "9 jobs in" in done.out
    assert "4 completed, 5 failed" in done.out
    assert "package/good.py" in done.out
    assert "invalid syntax (line 1)" in done.out
    assert "kept for a day" in done.out


def test_one_file_will_do(tree: Path) -> None:
    path = tree / "package" / "good.py"
    assert demo.choose_files(path) == demo.Files(path.parent, [path])


def test_nothing_to_analyse_ends_with_2(capsys: Any, tmp_path: Path) -> None:
    assert [app(["demo", str(path)]) for path in (tmp_path / "missing", tmp_path)] == [2, 2]
    said = capsys.readouterr()
    assert said.out == ""
    assert "there is no " in said.err
    assert "there are no Python files in " in said.err


def test_without_a_path_it_takes_the_standard_library() -> None:
    files = demo.choose_files(None)
    assert len(files.paths) > 500
    names = {str(path.relative_to(files.root)) for path in files.paths}
    assert {"ast.py", "asyncio/base_events.py"} < names
    assert not any("site-packages" in name for name in names)


def test_without_a_uri_it_starts_an_embedded_server(run: Callable[..., Any], tree: Path, tmp_path: Path) -> None:
    done = run("demo", tree, MONQUE_URI="", XDG_DATA_HOME=str(tmp_path / "data"))
    assert done.code == 0
    assert "tarting MongoDB" in done.out
    assert "4 completed, 5 failed" in done.out
    assert str(tmp_path / "data") in done.out.replace("\n", "")


async def test_runs_of_long_ago_are_cleared_away(monque_uri: str, monque_database: Any) -> None:
    today = f"demo_{datetime.now(UTC):%Y%m%dT%H%M%S}000000_1"
    for name in ("demo_20200101T000000000000_1", "demo_20200101T000000000000_1_results", today, "demo_of_mine"):
        monque_database[name].insert_one({})
    async with open_place(monque_uri, print) as place:
        assert place.server
    assert set(monque_database.list_collection_names()) == {today, "demo_of_mine"}


async def test_ctrl_c_lets_running_jobs_finish(start: Callable[..., Any], slow: Path, monque_database: Any) -> None:
    started = start("demo", slow, "--json", "-c", "2")
    await eventually(lambda: _jobs(monque_database, "completed"), timeout=30)
    started.interrupt()
    done = started.end()
    summary = done.summary
    assert (done.code, summary["interrupted"], summary["processing"], summary["failed"]) == (130, True, 0, 0)
    assert summary["completed"] + summary["pending"] == 60
    assert summary["pending"] > 0
    assert "Stopping" in done.err


async def test_sigterm_does_the_same(start: Callable[..., Any], slow: Path, monque_database: Any) -> None:
    started = start("demo", slow, "-c", "2")
    await eventually(lambda: _jobs(monque_database, "completed"), timeout=30)
    started.interrupt(signal.SIGTERM)
    done = started.end()
    assert done.code == 143
    assert "Stopping" in done.out
    assert " pending" in done.out
    assert not _jobs(monque_database, "processing")


async def test_a_second_ctrl_c_cuts_short(start: Callable[..., Any], slow: Path, monque_database: Any) -> None:
    started = start("demo", slow, "--json", "-c", "60")
    # With one result there, the other handlers are waiting for a thread or for the database.
    await eventually(lambda: _results(monque_database), timeout=30)
    started.interrupt()
    started.wait_for_warning("Stopping")
    started.interrupt()
    done = started.end()
    assert (done.code, done.summary["processing"], done.summary["failed"]) == (130, 0, 0)
    assert "Cutting" in done.err
    released = [job for job in _jobs(monque_database, "pending") if "settledBy" in job]
    assert released
    assert {(job["attempts"], job["failCount"]) for job in released} == {(0, 0)}


def test_ctrl_c_before_there_is_a_connection(start: Callable[..., Any], tree: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = start("demo", tree, MONQUE_URI=f"mongodb://127.0.0.1:{silent.getsockname()[1]}/?connectTimeoutMS=500")
        connection, _ = silent.accept()
        started.interrupt()
        done = started.end()
        connection.close()
    assert (done.code, done.err) == (130, "monque: interrupted\n")


@pytest.mark.parametrize("slow", [10], indirect=True)
async def test_what_is_unexpected_is_shown(start: Callable[..., Any], slow: Path, monque_database: Any) -> None:
    started = start("demo", slow, "--json", "-c", "1")
    job = (await eventually(lambda: _jobs(monque_database, "completed"), timeout=30))[0]
    broken = {**job, "_id": ObjectId(), "status": "pending", "priority": "high"}
    _collection(monque_database).insert_one(broken)
    done = started.end()
    assert (done.code, done.summary["completed"], done.summary["failed"]) == (0, 10, 1)
    assert "JobDocumentError" in done.err


async def test_nothing_is_enqueued_once_it_is_to_stop(monque_uri: str, monque_database: Any, tree: Path) -> None:
    interruption = Interruption(stop=lambda: None, hurry=lambda: None)
    interruption.begun.set()
    async with Monque(monque_uri) as monque:
        await demo.enqueue(monque, [tree], interruption)
    assert monque_database.monque_jobs.find_one() is None


def _collection(database: Any) -> Any:
    names = database.list_collection_names(filter={"name": {"$regex": "^demo_[^_]*_[^_]*$"}})
    return database[names[0]] if names else None


def _results(database: Any) -> bool:
    collection = _collection(database)
    return collection is not None and database[collection.name + "_results"].find_one() is not None


def _jobs(database: Any, status: str) -> list[dict[str, Any]]:
    collection = _collection(database)
    return [] if collection is None else list(collection.find({"status": status}))


@pytest.mark.parametrize("name", ["demo_of_mine", "demo_20200101T000000_x", "monque_jobs"])
def test_foreign_collections_are_never_old(name: str) -> None:
    assert not is_old(name, datetime.now(UTC))
