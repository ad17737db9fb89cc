"""The page with the help of every command; this file, run as a program, writes it."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from monque.cli._app import _app, run

PAGE = Path(__file__).parents[4] / "docs/reference/cli.md"

HEAD = """# The command line

What `monque … --help` says, for every command; a test keeps this page the same. The
[guide](../guides/command-line.md) shows them at work.
"""


def commands() -> list[list[str]]:
    """Every command, those with commands of their own before these."""
    found: list[list[str]] = [[]]
    for path in found:
        app = _app()
        for name in path:
            app = app[name]
        found += [[*path, name] for name in app if not name.startswith("-")]
    return sorted(found)


def help_of(command: list[str]) -> str:
    """What a command says about itself, in a window of some width."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setenv("COLUMNS", "100")
        patch.setenv("NO_COLOR", "1")
        patch.delenv("FORCE_COLOR", raising=False)
        assert run([*command, "--help"]) == 0
    return "\n".join(line.rstrip() for line in said.getvalue().strip().splitlines())


def page() -> str:
    sections = [HEAD]
    for command in commands():
        name = " ".join(["monque", *command])
        sections.append(f"## {name}\n\n```console\n$ {name} --help\n{help_of(command)}\n```\n")
    return "\n".join(sections)


def test_the_page_says_what_the_commands_say() -> None:
    assert PAGE.read_text("utf-8") == page(), f"to write it anew: python {__file__}"


def test_every_command_has_an_example() -> None:
    without = [
        command for command in commands() if command not in ([], ["jobs"]) and "Examples:" not in help_of(command)
    ]
    assert without == []


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
