"""Things done again and again for as long as something lasts: one helper for all of them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from monque._waiting import happens_within, outlast
from monque.events import JobErrorEvent

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from monque.events import Events


@asynccontextmanager
async def repeatedly(action: Callable[[], Awaitable[None]], *, every: float, events: Events) -> AsyncGenerator[None]:
    """Call `action` every so many seconds while the block lasts. One that fails is reported and tried again.

    The action is never cancelled in the middle: leaving the block waits for it.
    """
    leaving = asyncio.Event()
    task = asyncio.create_task(_repeat(action, every, events, leaving))
    try:
        yield
    finally:
        leaving.set()
        await outlast(task)


async def _repeat(action: Callable[[], Awaitable[None]], every: float, events: Events, leaving: asyncio.Event) -> None:
    while not await happens_within(leaving, every):
        try:
            await action()
        except Exception as error:  # noqa: BLE001  reported; the next round is another chance
            events.emit(JobErrorEvent, error)
