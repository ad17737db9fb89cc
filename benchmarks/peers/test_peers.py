"""The comparison runs and says what it should, with what needs no registry; the figures mean nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "run.py"), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)


def test_what_was_measured_is_told_written_and_drawn(monque_server: str, tmp_path: Path) -> None:
    names = ["--only", "bare loop", "monque"]
    amounts = ["--jobs=30", "--repetitions=2", "--pick-ups=2"]
    done = run("--uri", monque_server, *names, *amounts, "--json", str(tmp_path / "peers.json"))
    assert done.returncode == 0, done.stderr
    assert [line.split(" | ")[0] for line in sorted(done.stdout.splitlines()[2:])] == ["| Monque", "| bare loop"]
    outcome = json.loads((tmp_path / "peers.json").read_text("utf-8"))
    assert outcome["left_out"] == []
    for row in outcome["peers"]:
        assert row["jobs"] == 30
        assert len(row["drain"]["all"]) == len(row["enqueue"]["all"]) == 2
        assert 0 < row["drain"]["lowest"] <= row["drain"]["median"] <= row["drain"]["highest"]
        assert len(row["pick_up_ms"]["all"]) == 2
        assert "pymongo" in row["versions"]
    draw = [sys.executable, str(HERE.parent / "plot.py"), "peers", f"--results={tmp_path}", f"--images={tmp_path}"]
    subprocess.run(draw, check=True, capture_output=True, timeout=100)
    assert "Monque" in (tmp_path / "peers.svg").read_text("utf-8")


def test_who_cannot_be_measured_is_left_out_and_the_others_go_on(monque_server: str, tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    settings = ["--jobs=30", "--repetitions=1", "--patience=0.001", "--json", str(file)]
    done = run("--uri", monque_server, "--only", "bare loop", "monque", *settings)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(file.read_text("utf-8"))
    assert [left["name"] for left in outcome["left_out"]] == ["bare loop", "Monque"]
    assert "no answer" in outcome["left_out"][0]["why"]
    assert outcome["peers"] == []


def test_an_unknown_name_is_refused() -> None:
    done = run("--only", "no-such-queue")
    assert done.returncode == 1
    assert "no-such-queue" in done.stderr
