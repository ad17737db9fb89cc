"""The commands, their arguments, and how their errors end."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path  # noqa: TC003  read at run time for the command's arguments
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, validators
from rich.console import Console
from rich.text import Text

from monque.cli import bench, demo, doctor
from monque.cli._bench.settings import Part, Settings
from monque.cli._errors import UsageError
from monque.errors import MonqueError, redact

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXAMPLES = """Examples:

    monque demo                        # Python's own library, one job per file
    monque demo ~/project              # the Python files of a directory
    monque demo --json > summary.json  # for scripts
    monque bench                       # what it costs on your server, beside the driver alone
    monque doctor                      # is everything in good health?
"""

_USUAL = Settings()

_EXIT_CODES = {CycloptsError: 2, UsageError: 2, MonqueError: 1, KeyboardInterrupt: 130}


def run(arguments: Sequence[str]) -> int:
    """Run one command line and say its exit code; errors that are no bugs become one line on stderr."""
    try:
        code = _app()(arguments, exit_on_error=False, result_action="return_value")
    except (CycloptsError, UsageError, MonqueError, KeyboardInterrupt) as error:
        return _end_with(error)
    return code or 0


def _end_with(error: BaseException) -> int:
    if not isinstance(error, CycloptsError):  # which has been shown already
        line = Text(f"monque: {redact(str(error)) or 'interrupted'}", style="red")
        Console(stderr=True, highlight=False).print(line, soft_wrap=True)
    return next(code for kind, code in _EXIT_CODES.items() if isinstance(error, kind))


def _app() -> App:
    app = App(
        name="monque",
        help="A background-job queue and scheduler on MongoDB.",
        help_epilogue=_EXAMPLES,
        help_format="markdown",
        version=version("monque"),
        error_console=Console(stderr=True),
        suppress_keyboard_interrupt=False,
    )
    app.command(_demo, name="demo")
    app.command(_bench, name="bench")
    app.command(doctor.command, name="doctor")
    return app


def _demo(
    path: Path | None = None,
    /,
    *,
    concurrency: Annotated[int, Parameter(alias="-c", validator=validators.Number(gte=1))] = demo.DEFAULT_CONCURRENCY,
    json: Annotated[bool, Parameter(negative=())] = False,
    uri: Annotated[str | None, Parameter(env_var="MONQUE_URI", show_env_var=True)] = None,
) -> int:
    """Analyse Python files, one job each: lines, functions, classes, hash.

    Files that cannot be read or parsed fail, are retried and end as failed. Ctrl-C stops after the running jobs; a
    second one cuts them short. The jobs stay in the database for a day, for you to look at.

    Args:
        path: A directory or a file; without it the standard library of the running Python.
        concurrency: How many jobs run at once.
        json: Print the summary as one JSON object and nothing else on stdout.
        uri: The MongoDB to use; without it an embedded one is started.
    """
    return demo.command(path, concurrency=concurrency, as_json=json, uri=uri)


def _bench(
    *parts: Part | Literal["all"],
    settings: Settings = _USUAL,
    json: Annotated[bool, Parameter(negative=())] = False,
    uri: Annotated[str | None, Parameter(env_var="MONQUE_URI", show_env_var=True)] = None,
) -> int:
    """Measure what Monque costs on a server, beside the same work done with the driver alone.

    Without parts: drain, enqueue, latency, idle and processes, which takes some minutes. Look at the ratios: absolute
    figures differ from machine to machine and from minute to minute. It works in collections that it makes itself, in
    the database of the URI or else in `monque_bench`, and drops them at the end.

    Args:
        parts: What to measure.
        settings: How much of it.
        json: Print the figures as one JSON object and nothing else on stdout.
        uri: The MongoDB to use; without it an embedded one is started, and thrown away afterwards.
    """
    return bench.command(parts, settings=settings, as_json=json, uri=uri)
