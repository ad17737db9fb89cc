"""What a run of the bench shows."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from monque.cli._bench.figures import Findings


class Screen:
    """Tables on stdout, or one JSON object; what goes on, in a terminal on stderr.

    Args:
        as_json: Whether stdout is for one JSON object.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._out = Console(highlight=False)
        self._aside = Console(stderr=True, highlight=False)
        self._status = self._aside.status("")

    @contextmanager
    def showing(self) -> Generator[None]:
        """Show what goes on as long as the block lasts, if there is a terminal."""
        try:
            yield
        finally:
            self._status.stop()

    def say(self, line: str) -> None:
        """Say what goes on, until something is printed."""
        if self._aside.is_terminal:
            self._status.update(Text(line))
            self._status.start()

    def print(self, line: str = "", style: str = "") -> None:
        """Print a line for people."""
        if not self._as_json:
            self._status.stop()
            self._out.print(Text(line, style=style), soft_wrap=True)

    def warn(self, line: str) -> None:
        """Say what should be noticed, by whoever is there."""
        self._aside.print(Text(line, style="yellow"), soft_wrap=True)

    def show(self, findings: Findings) -> None:
        """Show what came of a part."""
        self.print()
        self.print(findings.title, "bold")
        for line in table([findings.columns, *findings.rows]) if findings.rows else ():
            self.print(line)
        for note in findings.notes:
            self.print(note, "dim")

    def finish(self, everything: Mapping[str, Any]) -> None:
        """Show all of it to scripts."""
        if self._as_json:
            self._out.file.write(json.dumps(everything, indent=2) + "\n")


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = row
    return [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
