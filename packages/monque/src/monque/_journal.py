"""What handlers say while they run, on its way into their jobs: how far they have come, and log records."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from typing import TYPE_CHECKING

from monque import _transitions as transitions
from monque._waiting import happens_within
from monque.job import LogLine, Progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable
    from datetime import datetime

    from bson import ObjectId

    from monque._clock import ServerClock
    from monque._scope import Scope
    from monque._transitions import Transition

    # A job's id, and the token of the claim it runs under.
    Claim = tuple[ObjectId, str | None]

# Seconds between two writes.
_INTERVAL = 0.25
_LONGEST_MESSAGE = 1000


class Journal:
    """Takes down what handlers say, from any thread, and writes it now and then, all of it together.

    While they say nothing there is nothing to do, and nothing is done.
    """

    def __init__(
        self,
        write: Callable[[list[Transition]], Awaitable[None]],
        report: Callable[[BaseException], None],
        clock: ServerClock,
        *,
        held_back: Collection[ObjectId] = (),
    ) -> None:
        """Make an empty journal of the running event loop.

        Args:
            write: Writes what was said.
            report: Told of what `write` raises.
            clock: Says when something was said.
            held_back: Jobs whose documents are to be left alone for the moment.
        """
        self._write = write
        self._report = report
        self._clock = clock
        self._held_back = held_back
        self._loop = asyncio.get_running_loop()
        # One that a thread may take again: the garbage collector can call anything, a logger included, at any point.
        self._guard = threading.RLock()
        self._pages: dict[Claim, _Page] = {}
        self._being_written: Collection[Claim] = ()
        self._pen = asyncio.Lock()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_awake = False

    @property
    def is_blank(self) -> bool:
        """Whether all that was said is written."""
        return not self._pages and not self._being_written

    def note(self, scope: Scope, note: object) -> None:
        """Take down how far a run has come, or a log record of it; may be called from any thread."""
        job = scope.job
        if not isinstance(note, Progress | LogLine):
            return
        with self._guard:
            if self._closing.is_set():
                return
            page = self._pages.setdefault((job.id, job.claim_token), _Page(scope.keep_logs))
            page.add(note, self._clock.now())
            must_wake, self._is_awake = not self._is_awake, True
        if must_wake:
            # Without the run's context: what is logged while its words are written is not among them.
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._begin, context=Context())

    async def flush(self, claims: Iterable[Claim]) -> None:
        """Write what was said under these claims, if anything was, before they end."""
        claims = [claim for claim in claims if claim in self._pages or claim in self._being_written]
        if claims:
            async with self._pen:
                await self._write_down(claims)

    def tear_out(self, claim: Claim) -> Transition | None:
        """The change that writes what was said under a claim and is not written yet, for somebody else to make."""
        with self._guard:
            page = self._pages.pop(claim, None)
        return None if page is None else page.change(claim)

    async def close(self) -> None:
        """Take nothing down any more, and wait for what is being written."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    def _begin(self) -> None:
        if not self._closing.is_set():
            self._task = self._loop.create_task(self._keep_writing())

    async def _keep_writing(self) -> None:
        while self._goes_on():
            await happens_within(self._closing, _INTERVAL)
            with self._guard:
                claims = [claim for claim in self._pages if claim[0] not in self._held_back]
            await self.flush(claims)

    def _goes_on(self) -> bool:
        with self._guard:
            self._is_awake = bool(self._pages) and not self._closing.is_set()
            return self._is_awake

    async def _write_down(self, claims: Iterable[Claim]) -> None:
        with self._guard:
            pages = {claim: self._pages.pop(claim) for claim in claims if claim in self._pages}
        self._being_written = pages.keys()
        try:
            if pages:
                await self._write([page.change(claim) for claim, page in pages.items()])
        except Exception as error:  # noqa: BLE001  what it is about goes on, whatever it is
            self._report(error)
        finally:
            self._being_written = ()


class _Page:
    """What was said under one claim and is not written yet."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._progress: Progress | None = None
        self._lines: deque[LogLine] = deque(maxlen=keep)

    def add(self, note: Progress | LogLine, at: datetime) -> None:
        if isinstance(note, Progress):
            message = None if note.message is None else _text(note.message)
            self._progress = replace(note, message=message, at=at)
        else:
            self._lines.append(LogLine(at, _text(note.level), _text(note.logger), _text(note.message)))

    def change(self, claim: Claim) -> Transition:
        job, token = claim
        return transitions.remark(job, token, progress=self._progress, lines=self._lines, keep=self._keep)


def _text(text: str) -> str:
    """Bounded, and fit for BSON."""
    text = text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")
