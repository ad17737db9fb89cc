"""The measurement of what being observed costs runs with few jobs; the figures mean nothing here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("observability.py")


def test_every_way_of_being_observed_is_measured(monque_server: str) -> None:
    command = [sys.executable, str(PROGRAM), "--uri", monque_server, "--jobs", "10", "--rounds", "1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    head, *rows = done.stdout.splitlines()
    assert "CPU µs/job" in head
    ways = ["off", "prometheus", "telemetry, no SDK", "telemetry, 1 % of traces", "telemetry, all traces"]
    assert [row[: len(way)] for row, way in zip(rows, ways, strict=True)] == ways
