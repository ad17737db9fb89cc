"""Draw what a command shows in a terminal: `uv run scripts/picture.py docs/images/demo.svg -- monque demo`.

$COLUMNS says how wide the terminal is, 100 columns unless it is set.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

WIDTH, HEIGHT = int(os.environ.get("COLUMNS", "100")), 40
# Where what was shown while it ran begins, and where it was wiped away for the last time.
HIDDEN, WIPED = "\x1b[?25l", re.compile(r"\x1b\[2K|\x1b\[1A|\x1b\[\?25h")
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
# The same in light and in dark surroundings: a dark terminal.
THEME = TerminalTheme(
    (30, 33, 41),
    (208, 212, 220),
    [
        (30, 33, 41),
        (224, 108, 117),
        (152, 195, 121),
        (229, 192, 123),
        (97, 175, 239),
        (198, 120, 221),
        (86, 182, 194),
        (208, 212, 220),
    ],
    [
        (110, 118, 129),
        (224, 108, 117),
        (152, 195, 121),
        (229, 192, 123),
        (97, 175, 239),
        (198, 120, 221),
        (86, 182, 194),
        (255, 255, 255),
    ],
)


def shown(command: list[str]) -> str:
    """What is in a terminal once a command has ended in it."""
    ours, its = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(WIDTH), "LINES": str(HEIGHT), "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=environment, close_fds=True):
        os.close(its)
        output = _read(ours)
        os.close(ours)
    before, *ran = output.split(HIDDEN, 1)
    return before + WIPED.split(ran[0])[-1] if ran else before


def _read(terminal: int) -> str:
    parts: list[bytes] = []
    with suppress(OSError):  # that is how Linux says that nobody is at the other end any more
        while part := os.read(terminal, 65536):
            parts.append(part)
    return b"".join(parts).decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "")


def drawn(text: str, title: str) -> str:
    """A picture of a terminal with a text in it; it loads nothing from elsewhere."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.strip("\n")), soft_wrap=True)
    return FONT.sub("", console.export_svg(title=title, theme=THEME, unique_id="picture"))


if __name__ == "__main__":
    target, separator, *words = sys.argv[1:]
    if separator != "--" or not words:
        sys.exit(f"{__doc__}")
    Path(target).write_text(drawn(shown(words), " ".join(words)), "utf-8")
