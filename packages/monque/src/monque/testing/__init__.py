"""Testing code that uses Monque, with a real MongoDB.

Installing Monque brings a pytest plugin with these fixtures:

* `monque_server`: the URI of a MongoDB that lasts for the whole run: the one in `$MONQUE_TEST_URI`, or an embedded one.
* `monque_uri`: the same with a database of its own for this test, which is dropped afterwards.
* `monque_database`: that database through the synchronous driver, to look into.

All of them are plain fixtures, so they work with any asyncio plugin.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, TypeVar, cast, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["eventually"]

T = TypeVar("T")


@overload
async def eventually(condition: Callable[[], Awaitable[T]], *, timeout: float = ..., poll: float = ...) -> T: ...
@overload
async def eventually(condition: Callable[[], T], *, timeout: float = ..., poll: float = ...) -> T: ...
async def eventually(condition: Callable[[], T | Awaitable[T]], *, timeout: float = 10, poll: float = 0.01) -> T:
    """Wait until a condition holds.

    Args:
        condition: A function, plain or async, that returns something true once it holds.
        timeout: Seconds to wait for it.
        poll: Seconds between two looks.

    Returns:
        What the condition returned.

    Raises:
        AssertionError: It did not hold in time; the message shows what it returned last.

    Example:
        >>> import asyncio
        >>> seen = ["sent"]
        >>> asyncio.run(eventually(lambda: "sent" in seen))
        True
    """
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        value = cast("T", await result if inspect.isawaitable(result) else result)
        if value:
            return value
        if time.monotonic() >= deadline:
            name = getattr(condition, "__qualname__", repr(condition))
            raise AssertionError(f"{name} did not hold within {timeout:g} s; it returned {value!r}")
        await asyncio.sleep(poll)
