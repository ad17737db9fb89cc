"""What a run of the demo shows while it goes on, and at its end."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

from monque._upkeep import happens_within
from monque.cli._report import report

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

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

    def say(self, line: str, style: str = "") -> None:
        """Show a line of text, above what is live."""
        self._aside.print(Text(line, style=style), soft_wrap=True)

    def warn(self, line: str) -> None:
        """Show a line that should be noticed."""
        self.say(line, "yellow")

    @asynccontextmanager
    async def showing(self, progress: Progress) -> AsyncGenerator[None]:
        """Show `progress` as long as the block lasts."""
        if self._aside.is_interactive:
            with Live(progress, console=self._aside, refresh_per_second=_REFRESHES_PER_SECOND, transient=True):
                yield
        elif self._as_json:
            yield
        else:
            async with self._lines(progress):
                yield

    @asynccontextmanager
    async def _lines(self, progress: Progress) -> AsyncGenerator[None]:
        over = asyncio.Event()
        printing = asyncio.create_task(self._print_lines(progress, over))
        try:
            yield
        finally:
            over.set()
            await printing

    async def _print_lines(self, progress: Progress, over: asyncio.Event) -> None:
        while not await happens_within(over, self._line_interval):
            self.say(progress.line())

    def show(self, summary: Summary) -> None:
        """Show what came of it."""
        if self._as_json:
            self._out.print_json(json.dumps(asdict(summary)), ensure_ascii=True)
        else:
            self._out.print(report(summary))
