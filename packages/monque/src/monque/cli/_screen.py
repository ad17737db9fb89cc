"""What a run of the demo shows while it goes on, and at its end."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from monque.cli._report import report

if TYPE_CHECKING:
    from collections.abc import Generator

    from monque.cli._progress import Progress
    from monque.cli._summary import Summary

_REFRESHES_PER_SECOND = 8


class Screen:
    """Shows a run: live in a terminal, line by line elsewhere.

    Args:
        as_json: Whether stdout is for one JSON object; everything else then goes to stderr.
        line_interval: Seconds between two lines where there is no terminal.
    """

    def __init__(self, *, as_json: bool = False, line_interval: float = 2.0) -> None:
        self._as_json = as_json
        self._line_interval = line_interval
        self._out = Console(highlight=False)
        self._aside = Console(stderr=True, highlight=False) if as_json else self._out

    def say(self, line: str) -> None:
        """Tell a person what goes on; a script is not interested."""
        if self._aside.is_terminal or not self._as_json:
            self._print(line[:1].upper() + line[1:])

    def warn(self, line: str) -> None:
        """Say what should be noticed, by whoever is there."""
        self._print(line, "yellow")

    def _print(self, line: str, style: str = "") -> None:
        self._aside.print(Text(line, style=style), soft_wrap=True)

    @contextmanager
    def showing(self, progress: Progress) -> Generator[None]:
        """Show `progress` as long as the block lasts."""
        with self._live(progress) if self._aside.is_interactive else self._lines(progress):
            yield

    def _live(self, progress: Progress) -> Live:
        return Live(progress, console=self._aside, refresh_per_second=_REFRESHES_PER_SECOND, transient=True)

    @contextmanager
    def _lines(self, progress: Progress) -> Generator[None]:
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle

        def print_line() -> None:
            nonlocal timer
            self.say(progress.line())
            timer = loop.call_later(self._line_interval, print_line)

        timer = loop.call_later(self._line_interval, print_line)
        try:
            yield
        finally:
            timer.cancel()

    def show(self, summary: Summary) -> None:
        """Show what came of it."""
        if self._as_json:
            self._out.print_json(json.dumps(asdict(summary)), ensure_ascii=True)
        else:
            self._out.print(report(summary))
