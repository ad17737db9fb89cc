"""The commands, in groups, and how their errors end.

A new command has a file of its own with a function, whose signature is what it understands and whose docstring is its
help. Here it takes two lines: one that imports it, and one in `_app` that gives it a name and a group.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

from cyclopts import App, CycloptsError, Group
from rich.console import Console
from rich.text import Text

from monque.cli import bench, completion, demo, doctor, enqueue, fleet, jobs, stats, top, worker
from monque.cli._errors import UsageError
from monque.cli._help import add_command, help_of
from monque.errors import ConfigurationError, InvalidArgumentError, MonqueError, redact

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP = """A background-job queue and scheduler on MongoDB.

Commands that look at a database take it from --uri or $MONQUE_URI; without either it is the embedded one.
Exit codes: 0 done, 1 an error or nothing found, 2 wrong arguments, 130 interrupted.

Examples:

    monque demo                                  # see it work
    monque worker app:monque                     # run the workers of app.py
    monque enqueue send-email to=a@b.c --in 10m  # ask for a job
    monque jobs list --status failed             # see what went wrong
    monque jobs retry --name send-email          # and let it run again
    monque top                                   # watch all of it
"""

_GROUPS = ("Work", "Ask for jobs", "Jobs", "Instances and pauses", "Try, measure, set up")

_EXIT_CODES = {
    CycloptsError: 2,
    UsageError: 2,
    InvalidArgumentError: 2,
    ConfigurationError: 2,
    MonqueError: 1,
    KeyboardInterrupt: 130,
}
_BROKEN_PIPE = 141  # 128 + SIGPIPE, as with other programs


def run(arguments: Sequence[str]) -> int:
    """Run one command line and say its exit code; errors that are no bugs become one line on stderr."""
    try:
        code = _app()(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (CycloptsError, UsageError, MonqueError, KeyboardInterrupt) as error:
        return _end_with(error)
    except BrokenPipeError:
        # Whoever read has seen enough. What Python flushes at its end must not fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return code or 0


def _end_with(error: BaseException) -> int:
    said = "\n".join([str(error) or "interrupted", *getattr(error, "__notes__", ())])
    # Some messages have lines of their own, of which one may be a pointer to the place above.
    words = "; ".join(line.strip() for line in said.splitlines() if line.strip(" ^"))
    Console(stderr=True, highlight=False).print(Text(f"monque: {redact(words)}", style="red"), soft_wrap=True)
    return next(code for kind, code in _EXIT_CODES.items() if isinstance(error, kind))


def _app() -> App:
    text, examples = help_of(_HELP)
    app = App(
        name="monque",
        help=text,
        help_epilogue=examples,
        help_format="plaintext",
        version=version("monque"),
        suppress_keyboard_interrupt=False,
    )
    working, asking, looking, directing, trying = (Group(title, sort_key=place) for place, title in enumerate(_GROUPS))
    add_command(app, worker.command, "worker", group=working)
    add_command(app, enqueue.enqueue, "enqueue", group=asking)
    add_command(app, enqueue.schedule, "schedule", group=asking)
    app.command(jobs.commands(looking))
    add_command(app, stats.command, "stats", group=looking)
    add_command(app, top.command, "top", group=looking)
    for name in ("instances", "drain", "undrain", "pause", "resume", "paused"):
        add_command(app, getattr(fleet, name), name, group=directing)
    add_command(app, demo.command, "demo", group=trying)
    add_command(app, bench.command, "bench", group=trying)
    add_command(app, doctor.command, "doctor", group=trying)
    add_command(app, completion.command_of(app), "completion", group=trying)
    return app
