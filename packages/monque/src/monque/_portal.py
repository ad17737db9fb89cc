"""An event loop in a thread of its own, for calls from code that has none."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future, wait
from typing import TYPE_CHECKING, Any, TypeVar

from monque.errors import BlockingCallError, ConnectionError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

R = TypeVar("R")

# A signal that comes just before a wait begins does not interrupt it, and is handled once that is over: seconds.
_LONGEST_WAIT = 1.0


def refuse_to_block() -> None:
    """Refuse to be called where waiting would keep an event loop from running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise BlockingCallError


class Portal:
    """The way to an event loop that runs for as long as this is open; calls may come from any thread.

    Attributes:
        belongings: What is not to be collected before the event loop has ended. In a forked child it never ends: its
            thread is gone, with all that it refers to, this portal included.
    """

    def __init__(self) -> None:
        self.belongings: list[object] = []
        self._lock = threading.Lock()
        self._is_closed = False
        ready: Future[asyncio.AbstractEventLoop] = Future()
        # Nobody has to wait for it at the end of the process.
        self._thread = threading.Thread(target=asyncio.run, args=[self._serve(ready)], name="monque", daemon=True)
        self._thread.start()
        self._loop = ready.result()

    def call(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine there, and wait for what it comes to. One who gives up waiting does not end it.

        Raises:
            ConnectionError: The portal was closed before, or meanwhile.
        """
        with self._lock:
            if self._is_closed:
                coroutine.close()
                raise ConnectionError("closed by another thread before this call began")
            # Whatever is begun under the lock begins before `close` ends the loop, and is not forgotten there.
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            while not future.done():
                wait([future], _LONGEST_WAIT)
            return future.result()
        except CancelledError:
            raise ConnectionError("closed by another thread while this call was under way") from None

    def run(self, function: Callable[[], object]) -> None:
        """Have a function called there, and wait for that; what runs there already may call this, too."""
        if threading.current_thread() is self._thread:
            function()
        else:
            self.call(_called(function))

    def soon(self, function: Callable[[], object]) -> None:
        """Have a function called there, and do not wait; may be called by a handler of signals."""
        self._loop.call_soon_threadsafe(function)

    def close(self, farewell: Coroutine[Any, Any, None], timeout: float | None = None) -> None:
        """Let nothing more begin, run `farewell`, and end the loop; what is under way then is cancelled.

        After `timeout` seconds the rest is left to itself.
        """
        with self._lock:
            self._is_closed = True
            future = asyncio.run_coroutine_threadsafe(farewell, self._loop)
        try:
            future.result(timeout)
        finally:
            self._loop.call_soon_threadsafe(self._leaving.set)
            self._thread.join(timeout)

    async def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        self._leaving = asyncio.Event()
        ready.set_result(asyncio.get_running_loop())
        await self._leaving.wait()


async def _called(function: Callable[[], object]) -> None:
    function()
