"""Ways to wait for the driver that end, whatever becomes of it.

Where Python is older than 3.12, two things go wrong in the driver when it is cancelled, both in `asyncio.wait_for`. A
cancellation that comes at the moment of an answer is swallowed (https://github.com/python/cpython/issues/86296). And
one that comes when the driver has waited half a second for a server, and is about to look again, leaves a lock of the
client locked for good: a task that nobody waits for any more takes it. From then on whatever is asked through that
client waits for ever, also beyond its time limit, which the driver looks at only once it has the lock.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pymongo
from pymongo.errors import AutoReconnect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Generator

    from pymongo import AsyncMongoClient

T = TypeVar("T")

# So many seconds beyond its time limit the driver does not wait: it hangs.
_GRACE = 5.0
# Seconds after which what was cancelled is cancelled again, and after which it is seen whether it can be.
_AGAIN, _SOON = 1.0, 0.05
# What waits for a server longer than the driver does, unless it is told otherwise, hangs as well.
_LONGEST_WAIT = 30.0
_LEAKED = "the driver gave up waiting for an answer"


async def within(limit: float, call: Awaitable[T]) -> T:
    """Await the driver for at most so many seconds, by its own clock and, should it hang, by that of the event loop."""
    with _giving_up(limit + _GRACE), pymongo.timeout(limit):
        return await call


@contextmanager
def _giving_up(after: float) -> Generator[None]:
    """Cancel the current task after so many seconds, until the block has ended: the first time may not do.

    A driver that hangs is interrupted in what it does, but then also in what it does about that.
    """
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    loop = asyncio.get_running_loop()
    before, given_up = task.cancelling(), 0
    timer: asyncio.TimerHandle

    def give_up() -> None:
        nonlocal given_up, timer
        given_up += 1
        task.cancel()
        timer = loop.call_later(_AGAIN, give_up)

    timer = loop.call_later(after, give_up)
    try:
        yield
    except asyncio.CancelledError as error:
        if task.cancelling() > before + given_up:
            raise
        hangs = f"the driver has not even given up after {after:g} s: it hangs"
        # Of a cancellation that nobody asked for: it has leaked out of the driver, and must not end who awaits that.
        raise AutoReconnect(hangs if given_up else _LEAKED) from error
    finally:
        timer.cancel()
        for _ in range(given_up):
            task.uncancel()


def knows_server(client: AsyncMongoClient[Any]) -> bool:
    """Whether a question would be sent, instead of waiting for a server."""
    return bool(client.topology_description.has_writable_server())


async def reached(client: AsyncMongoClient[Any], limit: float) -> None:
    """Wait until the client knows a server; that may be cancelled at any moment.

    Raises:
        AutoReconnect: It did not within `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while not knows_server(client):
        if time.monotonic() > deadline:
            raise AutoReconnect("no server is in reach")
        await asyncio.sleep(_SOON)


async def undisturbed(call: Coroutine[Any, Any, T], client: AsyncMongoClient[Any] | None) -> T:
    """Await the driver such that a cancellation is heeded, and does no harm; see `call_off`."""
    task = asyncio.ensure_future(call)
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await call_off(task, client)
        raise
    if task.cancelled():
        raise AutoReconnect(_LEAKED)
    return task.result()


async def call_off(task: asyncio.Task[Any], client: AsyncMongoClient[Any] | None) -> None:
    """End a task that awaits the driver: cancel it, but not while the client knows no server; then it ends by itself.

    Without a client it is one that does not wait for a server. It is waited for even when that is cancelled, and only
    then the cancellation is let through.
    """
    cancelled = False
    deadline = time.monotonic() + _LONGEST_WAIT
    while not task.done():
        is_safe = client is None or knows_server(client) or time.monotonic() > deadline
        if is_safe:
            task.cancel()
        try:
            await asyncio.wait([task], timeout=_AGAIN if is_safe else _SOON)
        except asyncio.CancelledError:
            cancelled = True
    if not task.cancelled():
        task.exception()  # nobody else asks for it
    if cancelled:
        raise asyncio.CancelledError
