"""Calls that block, each in a daemon thread of its own, awaited on the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["call_in_thread"]

P = ParamSpec("P")
T = TypeVar("T")


async def call_in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that blocks from an async handler, as handlers that are plain functions are called.

    It has a daemon thread of its own, and sees the context variables, `current_job()` among them. Nobody can end a
    thread from outside, so this waits for its end, come what may: what is cancelled meanwhile is not heard.
    `job.should_stop` tells the function.

    Args:
        function: The function.
        *args: What it is called with.
        **kwargs: Likewise, by name.

    Returns:
        What it returned.

    Example:
        >>> import asyncio
        >>> asyncio.run(call_in_thread(sum, [1, 2, 3]))
        6
    """
    name = getattr(function, "__name__", type(function).__name__)
    return await outlast_thread(start_in_thread(partial(function, *args, **kwargs), name=f"monque-{name}"))


async def outlast_thread(thread: asyncio.Future[T]) -> T:
    """Wait for a thread. Nobody can end one from outside, so its slot is taken until it ends, come what may."""
    while not thread.done():
        try:
            await asyncio.wait([thread])
        except asyncio.CancelledError:
            continue
    return thread.result()


def start_in_thread(call: Callable[[], T], *, name: str) -> asyncio.Future[T]:
    """Run `call` at once in a thread of its own, in a copy of the current context.

    No pool: a call that never returns takes no place from another, and as a daemon it does not keep the process alive.

    Args:
        call: What to run.
        name: The thread's name.

    Returns:
        Its result or exception. Cancelling it leaves the thread alone; what the thread brings then is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            result = context.run(call)
        except BaseException as error:  # noqa: BLE001  SystemExit too: it belongs to whoever awaits the call
            call_on_loop(loop, fail, future, error)
        else:
            call_on_loop(loop, succeed, future, result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def call_on_loop(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> None:
    """Call back on the event loop, from a thread; once the loop is closed nobody is left to be told."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


def succeed(future: asyncio.Future[T], result: T) -> None:
    """Give a future its result, unless it has been cancelled."""
    if not future.done():
        future.set_result(result)


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """Give a future its exception, unless it has been cancelled; a future takes every one but `StopIteration`."""
    if isinstance(error, StopIteration):
        stopped, error = error, RuntimeError(f"the call raised {error!r}")
        error.__cause__ = stopped
    if not future.done():
        future.set_exception(error)
