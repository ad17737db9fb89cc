"""Wake-ups: a change stream that hints at jobs which may have become due. Polling goes on beneath it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from monque._store.driver import reached, within
from monque._store.errors import NOT_ALLOWED
from monque._waiting import outlast
from monque.errors import MonqueError
from monque.events import (
    ChangeStreamClosedEvent,
    ChangeStreamConnectedEvent,
    ChangeStreamErrorEvent,
    ChangeStreamFallbackEvent,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from pymongo import AsyncMongoClient

    from monque._setup import Setup
    from monque._store.stream import Stream

    Open = Callable[[], Awaitable[Stream]]

# An idle stream costs one command in this time.
_MAX_AWAIT = 60.0
# A read that takes this much longer hangs on a dead connection.
_GRACE = 15.0
# A stream that was not read for so long is given up for a fresh one.
_CATCH_UP = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0


@dataclass(frozen=True, slots=True)
class Connected:
    """The stream is open: whatever changes from now on is hinted at.

    Attributes:
        again: Whether it takes the place of one that was not read for a while.
    """

    again: bool


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
        at: When this was so. Both times are the server's, and so is their difference.
        cancelled: The id of a job that was cancelled, if it is that what has happened.
        order: Whether it is that the instance may have been told something.
    """

    name: str | None
    due: datetime | None
    at: datetime
    cancelled: object = None
    order: bool = False


async def watch(
    client: AsyncMongoClient[Any], open_stream: Open, wanted: asyncio.Event, *, first_pause: float = _FIRST_PAUSE
) -> AsyncGenerator[Connected | Broken | Hint]:
    """Hints, read while they are `wanted`, from one fresh stream after another.

    A stream that broke is not resumed, nor one that was not read for long: what it missed is found by looking, and a
    resume token may be too old.
    """
    pause, left_behind = first_pause, False
    while True:
        try:
            await reached(client, _GRACE)
            async with _opened(open_stream) as stream:
                yield Connected(again=left_behind)
                pause, left_behind = first_pause, False
                # One that the server has ended for good raises nothing: it answers at once, for ever, with nothing.
                while stream.alive and not (left_behind := await _is_left_behind(wanted)):
                    hint = await _next(stream)
                    if hint is not None:
                        yield hint
            if left_behind:
                continue
            broken = Broken(MonqueError("the server ended the change stream: was the collection dropped or renamed?"))
        except Exception as error:  # noqa: BLE001  whatever it is, polling goes on and a fresh stream is tried
            left_behind, broken = False, Broken(error)
        yield broken
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


@asynccontextmanager
async def _opened(open_stream: Open) -> AsyncGenerator[Stream]:
    """A stream, which is closed again.

    It is opened even when that is cancelled, since the driver forgets a connection whose making is cut short, and
    nobody else would wait for it; its time limit is its end.
    """
    opening = asyncio.ensure_future(within(_GRACE, open_stream()))
    try:
        yield await outlast(opening)
    finally:
        if opening.exception() is None:
            await outlast(asyncio.ensure_future(opening.result().close()))


async def _is_left_behind(wanted: asyncio.Event) -> bool:
    """Wait until hints are wanted; whether there may be too many by then to catch up with."""
    if wanted.is_set():
        return False
    begun = time.monotonic()
    await wanted.wait()
    return time.monotonic() - begun > _CATCH_UP


async def _next(stream: Stream) -> Hint | None:
    change = await stream.next(_MAX_AWAIT + _GRACE)
    if change is None:
        return None
    name, due = change.get("name"), change.get("due")
    return Hint(
        name if isinstance(name, str) else None,
        due if isinstance(due, datetime) else None,
        change["at"],
        change.get("cancelled"),
        bool(change.get("order")),
    )


class Wakeup:
    """Listens, tells the events of it, and hands each hint to `notice`; None means that anything may have happened.

    There are two streams: one about jobs, and one about what instances are told, which has next to nothing in it. A
    busy instance reads neither: for each stream that is read the server goes through all that is written. The second is
    opened once there is the first, so that a server without change streams is asked for one at a time.
    """

    def __init__(self, setup: Setup, notice: Callable[[Hint | None], None]) -> None:
        self._flow = setup.flow
        self._names = setup.workers.names
        self._instance = setup.instance
        self._events = setup.events
        self._notice = notice
        self._following: set[asyncio.Task[None]] = set()
        self._hearing_of_jobs: asyncio.Task[None] | None = None
        self._hears: dict[Open, bool] = {self._open_jobs: False, self._open_orders: False}
        self._follows_orders = self._fell_back = self._leaving = False
        self._wanted = asyncio.Event()
        self._wanted.set()

    @property
    def streaming(self) -> bool:
        """Whether all that happens is hinted at."""
        return all(self._hears.values())

    @property
    def is_listening(self) -> bool:
        """Whether hints are read at the moment; may be asked from any thread."""
        return self.streaming and self._wanted.is_set()

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        """Listen while the block lasts."""
        self._hearing_of_jobs = self._follow(self._open_jobs)
        try:
            yield
        finally:
            self._leaving = True
            for task in self._following:
                task.cancel()
            while self._following:
                await asyncio.wait(self._following)
            if self.streaming:
                self._events.emit(ChangeStreamClosedEvent, "stopped")

    def want(self, wanted: bool) -> None:
        """Whether hints are of use; who looks for more jobs of every name anyway needs none."""
        if wanted:
            self._wanted.set()
        else:
            self._wanted.clear()

    def restart(self) -> None:
        """Listen for the names there are now."""
        if self._hearing_of_jobs is not None and not self._leaving:
            self._hearing_of_jobs.cancel()
            self._hearing_of_jobs = self._follow(self._open_jobs)

    async def _open_jobs(self) -> Stream:
        return await self._flow.watch(self._names(), max_await=_MAX_AWAIT)

    async def _open_orders(self) -> Stream:
        return await self._flow.watch_orders(self._instance, max_await=_MAX_AWAIT)

    def _follow(self, open_stream: Open) -> asyncio.Task[None]:
        task = asyncio.create_task(self._hear(open_stream))
        self._following.add(task)
        task.add_done_callback(self._following.discard)
        return task

    async def _hear(self, open_stream: Open) -> None:
        async for news in watch(self._flow.client, open_stream, self._wanted):
            if isinstance(news, Hint):
                self._notice(news)
            elif isinstance(news, Connected):
                self._gain(open_stream, again=news.again)
            elif open_stream == self._open_orders and _is_not_allowed(news.error):
                # Whoever may only use the jobs hears what instances are told when it looks ahead, if at all.
                self._gain(open_stream, again=False)
                return
            else:
                self._lose(open_stream, news.error)

    def _gain(self, open_stream: Open, *, again: bool) -> None:
        self._hears[open_stream] = True
        if not self._follows_orders:
            self._follows_orders = True
            self._follow(self._open_orders)
        if self.streaming:
            self._fell_back = False
            if not again:
                self._events.emit(ChangeStreamConnectedEvent)
        self._notice(None)

    def _lose(self, open_stream: Open, error: BaseException) -> None:
        self._hears[open_stream] = False
        # Said once, not at every attempt: a server without change streams will never have one.
        if not self._fell_back:
            self._fell_back = True
            self._events.emit(ChangeStreamErrorEvent, error)
            self._events.emit(ChangeStreamFallbackEvent, _short(error))
            self._notice(None)


def _short(error: BaseException) -> str:
    details = error.details if isinstance(error, OperationFailure) else None
    return str(details["errmsg"]) if details and "errmsg" in details else str(error) or type(error).__name__


def _is_not_allowed(error: BaseException) -> bool:
    return isinstance(error, OperationFailure) and error.code == NOT_ALLOWED
