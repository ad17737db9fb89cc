"""The command line, run as its users run it: as a process, on real files, with a real MongoDB."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

MONQUE = str(Path(sys.executable).with_name("monque"))
# Parsing one of these keeps a core busy for about a tenth of a second.
SLOW = "a = b + f(1)\n" * 5_000


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        assert self.out, self.err
        summary: dict[str, Any] = json.loads(self.out)
        return summary


class Started:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.read = ""

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def wait_for_warning(self, word: str) -> None:
        """Read stderr up to the line that has `word` in it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.read += line
            if word in line:
                return
        raise AssertionError(f"no {word!r} in {self.read!r}")

    def end(self) -> Ended:
        out, err = self.process.communicate(timeout=60)
        return Ended(self.process.returncode, out, self.read + err)


@pytest.fixture
def environment(monque_uri: str) -> dict[str, str]:
    return {**os.environ, "MONQUE_URI": monque_uri, "PYTHONIOENCODING": "utf-8", "COLUMNS": "100"}


@pytest.fixture
def start(environment: dict[str, str]) -> Generator[Callable[..., Started]]:
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: object, cwd: Path | None = None, **changes: str) -> Started:
        process = subprocess.Popen(
            [MONQUE, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={**environment, **changes},
        )
        processes.append(process)
        return Started(process)

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run(start: Callable[..., Started]) -> Callable[..., Ended]:
    return lambda *arguments, **changes: start(*arguments, **changes).end()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory of 4 good and 5 broken files, and some that are none of the demo's business."""
    root = tmp_path / "tree"
    (root / "package").mkdir(parents=True)
    (root / "package" / "good.py").write_text("class A:\n    def f(self): ...\n    async def g(self): ...\n")
    (root / "latin.py").write_bytes("# coding: latin-1\nname = 'é'\n".encode("latin-1"))
    (root / "empty.py").write_text("")
    Path(os.fsdecode(os.fsencode(root) + b"/na\xefve.py")).write_text("x = 1")
    (root / "broken.py").write_text("def f(:\n")
    (root / "cookie.py").write_text("# coding: nonsense\n")
    (root / "bytes.py").write_bytes(b"# coding: ascii\nx = '\xff'\n")
    (root / "gone.py").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.py")
    (root / "notes.txt").write_text("not Python")
    return root


@pytest.fixture
def slow(request: Any, tmp_path: Path) -> Path:
    """A directory of files that take a while, 60 or as many as the test asks for."""
    root = tmp_path / "slow"
    root.mkdir()
    for number in range(getattr(request, "param", 60)):
        (root / f"slow_{number:02}.py").write_text(SLOW)
    return root
