"""Waiting for something to come true."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, TypeVar, cast, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
            raise not_in_time(condition, value, timeout)
        await asyncio.sleep(poll)


def not_in_time(condition: Callable[[], object], value: object, timeout: float) -> AssertionError:
    """What to say about a condition that did not hold."""
    name = getattr(condition, "__qualname__", repr(condition))
    return AssertionError(f"{name} did not hold within {timeout:g} s; it returned {value!r}")
