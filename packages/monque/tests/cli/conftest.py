"""The command line, run as its users run it: as a process, on real files, with a real MongoDB."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
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


class Terminal:
    """The other side of a terminal in whose foreground a program runs."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        # A shell that leads a session of its own makes the terminal it opens that of the session: Ctrl-C works.
        redirect = 'tty=$1; shift; exec "$@" <"$tty" >"$tty" 2>"$tty"'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", redirect, "sh", os.ttyname(self._theirs), *command],
            env=environment,
            start_new_session=True,
        )
        self.seen = ""

    def type(self, text: bytes) -> None:
        os.write(self._ours, text)

    def read_until(self, word: str) -> None:
        while word not in self.seen:
            self._read()

    def end(self) -> int:
        # Reading fails once nobody has the other side open any more.
        with suppress(OSError):
            while True:
                self._read()
        return self.process.wait(30)

    def _read(self) -> None:
        self.seen += os.read(self._ours, 4096).decode(errors="replace")
        if self._theirs >= 0:
            # The program has it open by now; while nobody had, reading would fail.
            os.close(self._theirs)
            self._theirs = -1

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


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
def terminal(environment: dict[str, str]) -> Generator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def start(*arguments: object) -> Terminal:
        command = [MONQUE, *map(str, arguments)]
        terminals.append(Terminal(command, {**environment, "TERM": "xterm-256color"}))
        return terminals[-1]

    yield start
    for each in terminals:
        each.close()


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
