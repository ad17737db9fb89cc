"""Ways to wait, for what must not be left alone and for what may never come."""

from __future__ import annotations

import asyncio
from typing import TypeVar

T = TypeVar("T")


async def outlast(task: asyncio.Future[T]) -> T:
    """Wait for `task` to end, even when the waiting is cancelled, and only then let the cancellation through."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()


async def happens_within(event: asyncio.Event, timeout: float) -> bool:
    """Wait for `event` for at most `timeout` seconds; say whether it happened."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting], timeout=timeout)
    finally:
        waiting.cancel()
    return event.is_set()
