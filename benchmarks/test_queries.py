"""The benchmark of questions runs with few jobs and gets answers; the figures mean nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("queries.py")


def test_every_question_is_answered(monque_server: str, tmp_path: Path) -> None:
    told = tmp_path / "queries.json"
    few = ["--ended", "400", "--pending", "20"]
    command = [sys.executable, str(PROGRAM), "--uri", monque_server, *few, "--json", str(told)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["question"]: row for row in json.loads(told.read_text())["rows"]}
    assert rows["page, all"]["answer"] == "50 jobs"
    assert rows["count, all"]["answer"] == rows["stats"]["answer"].removesuffix(" counted") == "470"
    assert all("Error" not in row["answer"] for row in rows.values())
