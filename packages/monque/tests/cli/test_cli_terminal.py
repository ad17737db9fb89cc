from __future__ import annotations

import os
import pty
import struct
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from monque.cli._progress import Progress
from monque.cli._screen import Screen
from monque.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path


class Terminal:
    """The other side of a terminal in whose foreground a program runs."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        import fcntl
        import termios

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
def terminal(environment: dict[str, str]) -> Generator[Callable[..., Terminal]]:
    import sys
    from pathlib import Path

    terminals: list[Terminal] = []

    def start(*arguments: object) -> Terminal:
        command = [str(Path(sys.executable).with_name("monque")), *map(str, arguments)]
        terminals.append(Terminal(command, {**environment, "TERM": "xterm-256color"}))
        return terminals[-1]

    yield start
    for each in terminals:
        each.close()


def test_a_terminal_shows_the_progress_live(terminal: Callable[..., Terminal], tree: Path) -> None:
    shown = terminal("demo", tree)
    assert shown.end() == 0
    assert "━" in shown.seen
    assert "of 9" in shown.seen
    assert "jobs/s" in shown.seen
    assert "4 completed" in shown.seen


def test_ctrl_c_in_a_terminal(terminal: Callable[..., Terminal], slow: Path) -> None:
    shown = terminal("demo", slow, "-c", "2")
    shown.read_until("1 done")
    shown.type(b"\x03")
    assert shown.end() == 130
    assert "Stopping" in shown.seen
    assert "pending" in shown.seen


async def test_elsewhere_there_is_a_line_now_and_then(capsys: Any) -> None:
    printed: list[str] = []

    def has_printed() -> bool:
        printed.append(capsys.readouterr().out)
        return "0 of 3 files" in "".join(printed)

    progress = Progress(3, label=str, on_end=lambda: None)
    with Screen(line_interval=0.01).showing(progress):
        await eventually(has_printed)
