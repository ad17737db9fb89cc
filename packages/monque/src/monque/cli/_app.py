"""The commands, their arguments, and how their errors end."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path  # noqa: TC003  read at run time for the command's arguments
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter, validators
from rich.console import Console
from rich.text import Text

from monque.cli import demo
from monque.cli._errors import UsageError
from monque.errors import MonqueError, redact

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP = """A background-job queue and scheduler on MongoDB.

Examples:

    monque demo                        analyse Python's own library, one job per file
    monque demo ~/project              the same with the Python files of a directory
    monque demo --json > summary.json  for scripts: the summary as one JSON object
"""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and say its exit code; errors that are no bugs become one line on stderr."""
    try:
        code = _app()(arguments, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        return 2
    except UsageError as error:
        return _fail(error, 2)
    except MonqueError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return code or 0


def _fail(error: Exception | str, code: int) -> int:
    line = Text(f"monque: {redact(str(error))}", style="red")
    Console(file=sys.stderr, highlight=False).print(line, soft_wrap=True)
    return code


def _app() -> App:
    app = App(
        name="monque",
        help=_HELP,
        help_format="plaintext",
        version=version("monque"),
        error_console=Console(stderr=True),
        suppress_keyboard_interrupt=False,
    )
    app.command(_demo, name="demo")
    return app


def _demo(
    path: Path | None = None,
    /,
    *,
    concurrency: Annotated[int, Parameter(alias="-c", validator=validators.Number(gte=1))] = demo.DEFAULT_CONCURRENCY,
    json: bool = False,
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
