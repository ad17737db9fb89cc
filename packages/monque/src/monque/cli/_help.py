"""From a function's docstring to the help of its command."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cyclopts import App, Group

_SECTION = re.compile(r"^(?P<title>Examples|Args):\n", re.MULTILINE)


def add_command(app: App, function: Callable[..., Any], name: str, *, group: Group | None = None) -> None:
    """Give an app a command.

    Args:
        app: The app.
        function: What it does. Its signature is what it understands; the text of its docstring, the section Args for
            its parameters, and the section Examples at the end are its help.
        name: The command.
        group: Under which heading it is listed.
    """
    text, examples = help_of(inspect.getdoc(function) or "")
    more = {"group": group} if group else {}
    app.command(function, name, alias=None, help=text, help_epilogue=examples, **more)


def help_of(docstring: str) -> tuple[str, str]:
    """The text of a docstring, its paragraphs each on one line, for the terminal to fold; and its examples."""
    text, *sections = _SECTION.split(docstring)
    titled = dict(zip(sections[::2], sections[1::2], strict=True))
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]
    examples = textwrap.dedent(titled.get("Examples", "")).strip()
    return "\n\n".join(paragraphs), f"Examples:\n\n{textwrap.indent(examples, '    ')}" if examples else ""
