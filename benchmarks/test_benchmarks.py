"""Each benchmark runs and says what it should; the figures mean nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def run(program: str, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(HERE / program), "--json", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def test_drain_compares_monque_with_a_bare_loop(monque_server: str) -> None:
    bare, monque, ratio = run("drain.py", "--uri", monque_server, "--jobs=60", "--concurrency=20", "--repetitions=2")
    assert bare["lowest"] > 0
    assert monque["lowest"] > 0
    assert ratio["lowest"] <= ratio["median"] <= ratio["highest"]


def test_latency_is_measured_between_processes(monque_server: str) -> None:
    *parts, total, monque, ratio = run("latency.py", "--uri", monque_server, "--jobs=3", "--rate=20")
    assert [row[""] for row in parts] == ["bare insert", "bare event", "bare claim"]
    assert 0 < total["p50, ms"] <= total["p99, ms"]
    assert 0 < monque["p50, ms"] <= monque["p99, ms"]
    assert ratio["p50, ms"] > 0


def test_idle_counts_commands_with_and_without_change_streams(monque_server: str) -> None:
    rows = {row["per minute"]: row for row in run("idle.py", "--uri", monque_server, "--seconds=1.5", "--workers=3")}
    assert {"change stream: all", "polling: all"} <= rows.keys()
    assert rows["polling: find"]["monque"] > 0


def test_a_table_has_aligned_columns(monque_server: str) -> None:
    command = [sys.executable, str(HERE / "drain.py"), "--uri", monque_server, "--jobs=20", "--repetitions=1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    _, *lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
