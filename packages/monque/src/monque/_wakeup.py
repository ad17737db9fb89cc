"""Wake-ups: a change stream that hints at jobs which may have become due. Polling goes on beneath it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from pymongo.asynchronous.change_stream import AsyncChangeStream

    from monque._store.flow import Flow

# An idle stream costs one command in this time.
_MAX_AWAIT = 60.0
# A read that takes this much longer hangs on a dead connection.
_GRACE = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0


@dataclass(frozen=True, slots=True)
class Connected:
    """The stream is open: whatever changes from now on is hinted at."""


@dataclass(frozen=True, slots=True)
class Broken:
    """There is no stream for now.

    Attributes:
        error: Why.
    """

    error: BaseException


@dataclass(frozen=True, slots=True)
class Hint:
    """Something may have become due, or will.

    Attributes:
        name: The job's name, where the stream says it.
        due: When it is due, where the stream says it.
    """

    name: str | None
    due: datetime | None


async def watch(
    flow: Flow, names: Callable[[], Sequence[str]], *, first_pause: float = _FIRST_PAUSE
) -> AsyncGenerator[Connected | Broken | Hint]:
    """Hints for as long as they are wanted, from one fresh stream after another.

    A stream that broke is not resumed: what it missed is found by looking, and a resume token may be too old.
    """
    pause = first_pause
    while True:
        try:
            async with await flow.watch(names(), max_await=_MAX_AWAIT) as stream:
                yield Connected()
                pause = first_pause
                while True:
                    hint = await _next(stream)
                    if hint is not None:
                        yield hint
        except (PyMongoError, TimeoutError) as error:
            yield Broken(error)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _next(stream: AsyncChangeStream[dict[str, Any]]) -> Hint | None:
    async with asyncio.timeout(_MAX_AWAIT + _GRACE):
        change = await stream.try_next()
    if change is None:
        return None
    due = change.get("due")
    return Hint(change.get("name"), due if isinstance(due, datetime) else None)
