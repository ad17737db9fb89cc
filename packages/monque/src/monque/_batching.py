"""Grouping of writes: whatever comes in while one group is being written makes up the next."""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Batcher(Generic[T]):
    """Hands items to `write` in groups, one group at a time.

    An item that comes alone is written at once; under load the groups grow by themselves. Whoever adds an item may
    be cancelled without harm to the write. `write` must not raise.
    """

    def __init__(self, write: Callable[[list[T]], Awaitable[None]], *, largest: int) -> None:
        self._write = write
        self._largest = largest
        self._waiting: deque[T] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: T) -> None:
        """Queue `item` for the next group."""
        self._waiting.append(item)
        if self._task is None:
            # In a context of its own: what holds for whoever adds the first item, a time limit of the driver for
            # instance, is nothing to those who add the next.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def flush(self) -> None:
        """Wait until everything added so far, and meanwhile, is written."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            # Let everything that is ready in this turn of the loop join the first group.
            await asyncio.sleep(0)
            while self._waiting:
                size = min(len(self._waiting), self._largest)
                await self._write([self._waiting.popleft() for _ in range(size)])
        finally:
            self._task = None
