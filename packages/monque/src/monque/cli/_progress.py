"""How far a run has come, as told by its events, and how that looks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from bson import ObjectId
    from rich.console import RenderableType

    from monque import Job, JobCompleteEvent, JobFailEvent, JobStartEvent, Monque


class Progress:
    """Counts what the events of one instance tell.

    Args:
        total: How many jobs there will be.
        label: What to call a job.
        on_end: Called when all have ended.

    Attributes:
        total: How many jobs there will be.
        completed: Jobs that have completed.
        failed: Jobs that have failed for good.
    """

    def __init__(self, total: int, *, label: Callable[[Job[Any]], str], on_end: Callable[[], None]) -> None:
        self.total = total
        self.completed = 0
        self.failed = 0
        self._label = label
        self._on_end = on_end
        self._began = time.monotonic()
        self._running: dict[ObjectId, None] = {}
        self._retrying: set[ObjectId] = set()
        self._latest = ""

    def follow(self, monque: Monque) -> None:
        """Listen to the events of `monque`."""
        monque.on("job:start", self._started)
        monque.on("job:complete", self._has_completed)
        monque.on("job:fail", self._has_failed)

    @property
    def ended(self) -> int:
        """Jobs that will not run again."""
        return self.completed + self.failed

    @property
    def rate(self) -> float:
        """Jobs per second that have ended."""
        return self.ended / max(time.monotonic() - self._began, 0.001)

    def line(self) -> str:
        """One line that says it all."""
        return f"{self.ended:,} of {self.total:,} files: {self._counts()}"

    def __rich__(self) -> RenderableType:
        """A bar, the counts, and the file that was begun last."""
        bar = Table.grid(expand=True, padding=(0, 2, 0, 0))
        bar.add_column(ratio=1)
        bar.add_column(justify="right")
        done = f"{self.ended:,} of {self.total:,}  {self.ended / self.total:4.0%}"
        bar.add_row(ProgressBar(total=self.total, completed=self.ended), done)
        latest = Text(self._latest, style="dim", no_wrap=True, overflow="ellipsis")
        return Group(bar, Text(self._counts(), no_wrap=True, overflow="ellipsis"), latest)

    def _counts(self) -> str:
        return (
            f"{self.completed:,} done, {len(self._running)} running, {len(self._retrying)} to retry, "
            f"{self.failed} failed, {self.rate:,.0f} jobs/s"
        )

    def _started(self, event: JobStartEvent) -> None:
        self._running[event.job.id] = None
        self._retrying.discard(event.job.id)
        self._latest = self._label(event.job)

    def _has_completed(self, event: JobCompleteEvent) -> None:
        self._running.pop(event.job.id, None)
        self.completed += 1
        self._tell_end()

    def _has_failed(self, event: JobFailEvent) -> None:
        self._running.pop(event.job.id, None)
        if event.will_retry:
            self._retrying.add(event.job.id)
        else:
            self.failed += 1
            self._tell_end()

    def _tell_end(self) -> None:
        if self.ended == self.total:
            self._on_end()
