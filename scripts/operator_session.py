"""A night on call, in a real terminal: `python scripts/operator_session.py [DIRECTORY]`; needs tmux.

It types the commands of docs/guides/operator-session.md into a shell in tmux, on what `monque demo` of the directory
left (of Python's own library, unless one is named), and prints what was on the screen after each. The page has that,
shortened where it says so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pymongo import MongoClient

from monque.embedded import EmbeddedMongoDB

if TYPE_CHECKING:
    from collections.abc import Generator

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/guides/operator-session.md"
PROGRAM = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PROMPT = "$ "
PATIENCE = 1200.0


class Shell:
    """A shell in a window of tmux.

    Args:
        tmux: The command that talks to this tmux.
        window: The number of the window.
    """

    def __init__(self, tmux: list[str], window: int) -> None:
        self._tmux = tmux
        self._window = f"monque:{window}"

    def screen(self) -> str:
        """What is on the screen, and has been scrolled away."""
        captured = self._do("capture-pane", "-p", "-S", "-")
        return captured.rstrip()

    def wait_for(self, pattern: str) -> str:
        """Wait until the screen shows something; what it shows then."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(pattern, screen := self.screen(), re.MULTILINE):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {pattern!r} in:\n{screen}")
            time.sleep(0.2)
        return screen

    def type(self, line: str) -> None:
        """Type a line on an empty screen."""
        self._do("send-keys", "-R")
        self._do("clear-history")
        self._do("send-keys", "-l", line)
        self._do("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        """Press keys, by tmux' names for them."""
        self._do("send-keys", *keys)

    def run(self, line: str, answer: str | None = None) -> str:
        """Run a command to its end, answer what it asks, and print all of it."""
        self.type(line)
        if answer is not None:
            self.wait_for(r"\[y/N\]")
            self.press(answer, "Enter")
        return self.end(line)

    def end(self, line: str) -> str:
        """Wait for the end of a command, and print what was on the screen."""
        screen = self.wait_for(rf"\A(?s:.+)\n{re.escape(PROMPT.strip())}\Z")
        said = screen.rpartition("\n")[0].strip("\n")
        # What was typed is where the screen was wiped.
        text = said if said.startswith(PROMPT) else f"{PROMPT}{line}\n{said.removeprefix(line).lstrip()}"
        show(text)
        return said

    def _do(self, verb: str, *arguments: str) -> str:
        command = [*self._tmux, verb, "-t", self._window, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def show(text: str) -> None:
    """Print what belongs on the page."""
    sys.stdout.write(f"```console\n{text}\n```\n\n")
    sys.stdout.flush()


@contextmanager
def shells(directory: Path, number: int) -> Generator[list[Shell]]:
    """So many shells in a tmux of their own, which know where the commands are."""
    tmux = ["tmux", "-L", f"monque-{os.getpid()}", "-f", "/dev/null"]
    places = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "XDG_DATA_HOME": str(directory / "data")}
    environment = {**os.environ, **places, "TERM": "xterm-256color"}
    os.environ.update(places)
    shell = ["-c", str(directory), f"PS1='{PROMPT}' exec bash --norc --noprofile"]
    for window in range(number):
        new = ["new-window", "-d", "-t", f"monque:{window}"] if window else ["new-session", "-d", "-s", "monque"]
        size = [] if window else ["-x", "100", "-y", "45"]
        subprocess.run([*tmux, *new, *size, *shell], check=True, env=environment)
    try:
        yield [Shell(tmux, window) for window in range(number)]
    finally:
        subprocess.run([*tmux, "kill-server"], check=True)


def drop_index(collection: str, index: str) -> None:
    """What somebody did."""
    with EmbeddedMongoDB() as server, MongoClient[dict[str, object]](server.uri) as client:
        client["monque"][collection].drop_index(index)


def session(here: Shell, beside: Shell, another: Shell, demo: str) -> None:
    """All that is done in that night."""
    collection = re.findall(r"--collection (\S+)", here.run(demo))[0]
    for shell in (here, beside, another):
        shell.run(f"export MONQUE_COLLECTION={collection}")
    here.run("monque stats")
    failed = here.run("monque jobs list --status failed")
    ids = re.findall(r"^[0-9a-f]{24}", failed, re.MULTILINE)
    here.run(f"monque jobs show {ids[-1]}")
    here.run("monque jobs list --status failed --json | jq -r .fail_reason | cut -d: -f1 | sort | uniq -c")

    here.run('monque pause analyse-file --reason "waits for the new release"')
    here.run("monque jobs retry --status failed --error SyntaxError", answer="y")
    beside.type("monque worker analysis:monque --health-port 8080")
    beside.wait_for("working")
    here.run("monque instances")
    here.run("curl -s http://127.0.0.1:8080/readyz")
    here.type("monque top")
    here.wait_for("working")
    show(f"{PROMPT}monque top\n{here.screen()}")
    here.press("C-c")
    here.wait_for("interrupted")

    here.type("monque jobs watch")
    here.wait_for("Watching")
    another.run("monque resume analyse-file")
    here.wait_for("completed")
    here.wait_for(rf"(?s)(?: completed.*){{{len(ids)}}}")
    here.press("C-c")
    here.end("monque jobs watch")
    here.run("monque stats --window 10m")
    beside.press("C-c")
    beside.end("monque worker analysis:monque --health-port 8080")

    drop_index(collection, "monque_claim")
    here.run("monque doctor")
    here.run("monque doctor --fix-indexes")


def main() -> None:
    """Run it in a directory of its own, with an embedded MongoDB of its own."""
    os.environ.pop("MONQUE_URI", None)
    with tempfile.TemporaryDirectory(prefix="night-") as folder:
        directory = Path(folder)
        (directory / "analysis.py").write_text(PROGRAM.findall(PAGE.read_text("utf-8"))[0])
        with shells(directory, 3) as (here, beside, another):
            session(here, beside, another, " ".join(["monque demo", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
