"""Questions to the database: with an end to each, and again and again where there has to be an answer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from pymongo.errors import PyMongoError

from monque._store.driver import within
from monque._waiting import happens_within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from monque._shutdown import Shutdown

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Questions:
    """Asks the database.

    Args:
        limit: How many seconds an answer may take.
        report: Told of what goes wrong.
        shutdown: Whether the instance is to end.

    Attributes:
        shutdown: The same.
    """

    def __init__(self, limit: float, report: Callable[[BaseException], None], shutdown: Shutdown) -> None:
        self._limit = limit
        self._report = report
        self.shutdown = shutdown
        self._asked: dict[object, float] = {}

    @property
    def are_open(self) -> bool:
        """Whether one is without an answer."""
        return bool(self._asked)

    def oldest(self) -> float:
        """For how many seconds the oldest of them has been without an answer; may be asked from any thread."""
        now = time.monotonic()
        return now - min(list(self._asked.values()), default=now)

    async def ask(self, question: Awaitable[T]) -> T:
        """Await the database, but not for ever: a connection that says nothing is as good as cut."""
        asked = object()
        self._asked[asked] = time.monotonic()
        try:
            return await within(self._limit, question)
        finally:
            del self._asked[asked]

    async def persist(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """Get an answer from the database, however often it takes; None if the shutdown's time ran out over it."""
        pause = FIRST_PAUSE
        while True:
            try:
                return await self.ask(question())
            except PyMongoError as error:
                self._report(error)
            if time.monotonic() >= self.shutdown.give_up_at:
                return None
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def pause_after(self, error: BaseException, pause: float) -> float:
        """Report, and wait, but not beyond the beginning of the stop. Returns how long to wait the next time."""
        self._report(error)
        await happens_within(self.shutdown.begun, pause)
        return min(pause * 2, LONGEST_PAUSE)
