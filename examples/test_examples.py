"""Every example runs, ends by itself, and says what it should."""
# ruff: noqa: S101, S603

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
EXAMPLES = sorted(path.name for path in HERE.glob("*.py") if not path.name.startswith("test_"))


def run(example: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-W", "error", HERE / example], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.usefixtures("monque_environment")
class TestExamples:
    def test_basic(self) -> None:
        *sent, last = run("basic.py")
        assert sorted(sent) == ["sent to ada@example.org", "sent to edsger@example.org", "sent to grace@example.org"]
        assert last.startswith("alan@example.org has to wait until ")

    def test_blocking(self) -> None:
        *orders, shipped = run("blocking.py")
        assert orders == [f"order {n}: {'stored' if n % 5 else 'sold out'}" for n in range(1, 11)]
        assert shipped == "to ship: 1 2 3 4 6 7 8 9"

    def test_handlers(self) -> None:
        lines = run("handlers.py")
        assert sorted(lines[:2]) == [
            "read: FileNotFoundError, retried: False",
            "wait: JobTimeoutError, retried: False",
        ]
        assert lines[2:] == [
            "wait: on the loop",
            "read: in a thread",
            "digest: in another process",
            "remind later: pending",
            "remind no: cancelled",
        ]

    def test_priorities(self) -> None:
        assert run("priorities.py") == ["+5 an invoice", "+0 a letter", "+0 another letter", "-5 the archive"]

    def test_recurring(self) -> None:
        first, *lines = run("recurring.py")
        assert first == "one report: True True"
        assert sorted(lines) == ["poll 1", "poll 2", "poll 3", "tick, planned for a full second: True"]

    def test_results(self) -> None:
        assert run("results.py") == [
            "6 words, the longest is 'not'",
            "  at the end: 100%, read 'be'",
            "  WARNING a long text",
            '2 words, the longest is "all\'s"',
            "  at the end: 100%, read 'well'",
            "failed: ValueError: max() arg is an empty sequence",
        ]

    def test_retries(self) -> None:
        lines = run("retries.py")
        assert [line for line in lines if line.startswith("slow-host")] == [
            "slow-host: no answer, attempt 1, will be retried",
            "slow-host: no answer, attempt 2, will be retried",
            "slow-host: done at attempt 3",
        ]
        assert [line for line in lines if line.startswith("nowhere")] == [
            "nowhere: no such host, attempt 1, will be retried",
            "nowhere: no such host, attempt 2, will be retried",
            "nowhere: no such host, attempt 3, has failed for good",
        ]

    def test_several_processes(self) -> None:
        total, *shares = run("several_processes.py")
        assert total == "300 runs of 300 jobs"
        assert sum(int(share.rpartition(" ")[2]) for share in shares) == 300

    def test_tracing(self) -> None:
        assert run("tracing.py") == [
            "shipping order 7",
            "POST /orders",
            "  send charge",
            "    process charge ConnectionError",
            "    process charge",
            "      send ship",
            "        process ship",
        ]

    def test_testing(self, monque_server: str) -> None:
        """A project of its own: its tests run with the settings beside them, and nothing of this workspace's."""
        without = [
            word for plugin in ("cacheprovider", "asyncio", "hypothesispytest") for word in ("-p", f"no:{plugin}")
        ]
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-W", "error", *without, HERE / "testing"],
            cwd=HERE / "testing",
            env={**os.environ, "MONQUE_TEST_URI": monque_server},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        assert "12 passed" in ended.stdout

    def test_transactions(self) -> None:
        assert run("transactions.py") == ["ada -30", "grace 30"]

    def test_typed(self) -> None:
        problem, *done = run("typed.py")
        assert problem.startswith("data['price']: expected ")
        assert done == ["book for 12.50 until 01 March", "Your book to ada@example.org"]

    def test_unique(self) -> None:
        assert run("unique.py") == [
            "1 job",
            "ada: up to change 2",
            "ada is being looked after",
            "ada: up to change 4",
            "ended at change 4",
        ]


def test_every_example_has_a_test() -> None:
    assert {f"test_{Path(example).stem}" for example in EXAMPLES} <= set(dir(TestExamples))
