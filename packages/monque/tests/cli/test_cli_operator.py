"""What is done in docs/guides/operator-session.md, on what a run of the demo left."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from monque.cli._app import run as app

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pymongo.database import Database

PROGRAM = """
import os
from monque import Monque, Options
monque = Monque(options=Options(collection=os.environ["MONQUE_COLLECTION"]))
@monque.worker("analyse-file")
def analyse(path: str) -> None: ...
"""


@pytest.fixture
def monque(
    capsys: Any, run: Callable[..., Any], tree: Path, monque_environment: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Runs a command line, on what the demo left, and gives what it says."""
    collection = run("demo", tree, "--json").summary["collection"]
    monkeypatch.setenv("MONQUE_COLLECTION", collection)

    def command(*arguments: str, code: int = 0) -> str:
        assert app(arguments) == code
        said: str = capsys.readouterr().out
        return said

    return command


def statuses(monque: Callable[..., str]) -> dict[str, int]:
    counts: dict[str, int] = json.loads(monque("stats", "--json"))["statuses"]
    return {status: count for status, count in counts.items() if count}


def test_a_night_on_call(
    monque: Callable[..., str],
    start: Callable[..., Any],
    terminal: Callable[..., Any],
    monque_database: Database[Any],
    tmp_path: Path,
) -> None:
    collection = os.environ["MONQUE_COLLECTION"]
    failed = [line.split("\t") for line in monque("jobs", "list", "--status", "failed").splitlines()]
    assert len(failed) == 5
    shown = monque("jobs", "show", failed[0][0])
    # Three attempts, which failed in the same way.
    assert "attempt 1" in shown
    assert "attempt 3" in shown.partition("Traceback")[0]

    monque("pause", "analyse-file", "--reason", "waits for the new release")
    assert monque("jobs", "retry", "--status", "failed", "--error", "SyntaxError") == "2 jobs pending again\n"
    (tmp_path / "analysis.py").write_text(PROGRAM)
    worker = start("worker", "analysis:monque", cwd=tmp_path, MONQUE_COLLECTION=collection)
    worker.wait_for_warning("working")
    assert statuses(monque) == {"pending": 2, "completed": 4, "failed": 3}
    assert "analyse-file is paused: waits for the new release" in monque("top", "--once")

    watching = terminal("jobs", "watch", "--collection", collection)
    watching.read_until("Watching")
    monque("resume", "analyse-file")
    watching.read_until("completed")
    deadline = time.monotonic() + 90
    while statuses(monque) != {"completed": 6, "failed": 3}:
        assert time.monotonic() < deadline
    watching.type(b"\x03")
    assert watching.end() == 130
    worker.interrupt()
    assert worker.end().code == 0

    monque_database[collection].drop_index("monque_claim")
    assert "✗ index.monque_claim" in monque("doctor", code=1)
    assert "created: monque_claim" in monque("doctor", "--fix-indexes")
    monque("doctor")
