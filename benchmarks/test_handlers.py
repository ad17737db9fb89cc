"""The benchmark of handlers runs with few jobs and counts them right; the figures mean nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("handlers.py")


def test_a_few_jobs_end_as_they_should_in_every_place(monque_server: str, tmp_path: Path) -> None:
    told = tmp_path / "handlers.json"
    command = [sys.executable, str(PROGRAM), "--uri", monque_server, "--jobs", "20", "--json", str(told)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(told.read_text())
    counts = {row[""]: [row[name] for name in ("completed", "late", "crashed", "cancelled")] for row in rows}
    completed, late, crashed, cancelled = counts.pop("process")
    assert counts == {"loop": [17, 1, 1, 1], "thread": [17, 1, 1, 1]}
    # The time that a process takes to start counts, too: on a slow machine one that was to complete or crash is late.
    assert (completed + late + crashed, cancelled) == (19, 1)
    assert completed <= 17
    assert crashed <= 1
    assert "lag p99, ms" in done.stdout
