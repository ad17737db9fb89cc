"""The soak runs for a few seconds, with a kill, and says what it should; the figures mean nothing here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOAK = Path(__file__).with_name("soak.py")
# Programs find what lies beside them by themselves; tests do not.
sys.path.append(str(SOAK.parent))

from _soak_account import Account  # noqa: E402
from _soak_report import slope_per_hour  # noqa: E402

_QUICK = ("--minutes=0.06", "--rate=30", "--kill-every=2", "--sample-every=0.7", "--lease=2")


def test_a_short_soak_goes_through_all_of_it(monque_server: str, tmp_path: Path) -> None:
    told, drawn = tmp_path / "results" / "soak.json", tmp_path / "images" / "soak.svg"
    command = [sys.executable, str(SOAK), "--uri", monque_server, *_QUICK, "--json", str(told), "--plot", str(drawn)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(told.read_text())
    assert result["enqueued"] > 0
    assert result["lost"] == result["wrong"] == []
    assert sum(result["statuses"].values()) == result["enqueued"]
    assert result["statuses"].keys() <= {"completed", "failed"}
    assert result["kills"]
    assert len(result["samples"]) > 1
    assert {"worker 1: memory, MB", "connections", "jobs in the collection"} <= {row[""] for row in result["rows"]}
    assert "worker 1: memory, MB" in done.stdout
    assert "<svg" in drawn.read_text()


def test_what_grows_is_seen() -> None:
    # 1 MB per minute, after a start that does not count.
    course = [(float(second), 500.0 if second < 300 else second / 60) for second in range(0, 601, 10)]
    assert slope_per_hour(course) == pytest.approx(60)
    assert slope_per_hour([]) is None
    assert slope_per_hour([(0.0, 1.0)]) is None


JOB = {"_id": 1, "name": "retried", "status": "completed", "attempts": 2}


@pytest.mark.parametrize(
    ("job", "by", "right"),
    [
        ({}, ["one", "two"], True),
        ({}, ["one"], False),
        ({}, ["one", "two", "two"], False),
        ({}, ["killed", "one", "two"], True),
        ({"status": "failed"}, ["one", "two"], False),
        ({"name": "hopeless", "status": "failed"}, ["one"] * 5, True),
        ({"name": "hopeless", "status": "failed", "attempts": 5}, ["one"] * 4, True),
        ({"name": "hopeless", "status": "failed", "attempts": 4}, ["one"] * 4, False),
        ({"name": "hopeless"}, ["one"] * 5, False),
        ({"name": "nothing"}, [], False),
        ({"name": "nothing"}, ["one", "two"], False),
    ],
)
def test_a_job_that_was_not_run_as_it_should_be_is_found(job: dict[str, Any], by: list[str], right: bool) -> None:
    account = Account(killed={"killed"})
    account.judge({**JOB, **job}, [{"by": label} for label in by])
    assert (account.wrong == []) is right


def test_what_was_enqueued_and_never_ended_is_lost() -> None:
    account = Account(announced={"1", "2"})
    account.judge({**JOB, "name": "nothing"}, [{"by": "one"}])
    assert account.lost == {"2"}
