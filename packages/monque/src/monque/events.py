"""The facts Monque tells the outside world, and the bus that carries them to listeners."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, get_args, overload

from monque.errors import InvalidArgumentError

if TYPE_CHECKING:
    from monque.job import Job

__all__ = [
    "Event",
    "EventName",
    "JobCompleteEvent",
    "JobErrorEvent",
    "JobFailEvent",
    "JobStartEvent",
    "Listener",
]

_logger = logging.getLogger("monque")

EventName = Literal["job:start", "job:complete", "job:fail", "job:error"]


@dataclass(frozen=True, slots=True)
class JobStartEvent:
    """A claimed job is about to be handed to its worker.

    Attributes:
        job: The job, as claimed.
    """

    name: ClassVar[EventName] = "job:start"
    job: Job[Any]


@dataclass(frozen=True, slots=True)
class JobCompleteEvent:
    """A run ended well, and that is written.

    Attributes:
        job: The job, as claimed.
        duration: How long the handler took, in seconds.
    """

    name: ClassVar[EventName] = "job:complete"
    job: Job[Any]
    duration: float


@dataclass(frozen=True, slots=True)
class JobFailEvent:
    """A run failed, and that is written.

    Attributes:
        job: The job, as claimed.
        error: What the handler raised.
        will_retry: Whether it runs again.
    """

    name: ClassVar[EventName] = "job:fail"
    job: Job[Any]
    error: BaseException
    will_retry: bool


@dataclass(frozen=True, slots=True)
class JobErrorEvent:
    """Something unexpected happened: the database did not answer, a listener raised, a shutdown took too long.

    Attributes:
        error: What happened.
        job: The job it concerns, if it concerns one.
    """

    name: ClassVar[EventName] = "job:error"
    error: BaseException
    job: Job[Any] | None = None


Event = JobStartEvent | JobCompleteEvent | JobFailEvent | JobErrorEvent

E_contra = TypeVar("E_contra", contravariant=True)
AnyListener = Callable[[Any], object]


class Listener(Protocol[E_contra]):
    """A function of one event, plain or async."""

    def __call__(self, event: E_contra, /) -> Awaitable[None] | None:
        """Take note of `event`."""


class Subscribe(Protocol):
    """`on`, `once` and `off`: each event's name fixes what its listener receives."""

    @overload
    def __call__(self, event: Literal["job:start"], listener: Listener[JobStartEvent], /) -> None: ...
    @overload
    def __call__(self, event: Literal["job:complete"], listener: Listener[JobCompleteEvent], /) -> None: ...
    @overload
    def __call__(self, event: Literal["job:fail"], listener: Listener[JobFailEvent], /) -> None: ...
    @overload
    def __call__(self, event: Literal["job:error"], listener: Listener[JobErrorEvent], /) -> None: ...


class Events:
    """Carries events to listeners. A listener that raises is reported as `job:error` and changes nothing."""

    def __init__(self) -> None:
        self._listeners: dict[str, dict[AnyListener, bool]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, event: str, listener: AnyListener, /) -> None:
        """Call `listener` at every `event`."""
        self._add(event, listener, once=False)

    def once(self, event: str, listener: AnyListener, /) -> None:
        """Call `listener` at the next `event` only."""
        self._add(event, listener, once=True)

    def off(self, event: str, listener: AnyListener, /) -> None:
        """Call `listener` no more; one that was never added is fine."""
        self._named(event).pop(listener, None)

    def emit(self, kind: type[Event], *facts: Any) -> None:  # noqa: ANN401  the fields of `kind`
        """Tell the listeners of `kind`; the event is only made if there are any."""
        listeners = self._listeners.get(kind.name)
        if listeners:
            event = kind(*facts)
            for listener, once in list(listeners.items()):
                if once:
                    listeners.pop(listener, None)
                self._tell(listener, event)

    async def drain(self) -> None:
        """Wait until the async listeners called so far have returned."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _add(self, event: str, listener: AnyListener, *, once: bool) -> None:
        if not callable(listener):
            raise InvalidArgumentError("listener", listener, "a function of one event, plain or async")
        self._named(event)[listener] = once

    def _named(self, event: str) -> dict[AnyListener, bool]:
        if event not in get_args(EventName):
            raise InvalidArgumentError("event", event, "one of " + ", ".join(get_args(EventName)))
        return self._listeners.setdefault(event, {})

    def _tell(self, listener: AnyListener, event: Event) -> None:
        try:
            result = listener(event)
        except Exception as error:  # noqa: BLE001  whatever a listener raises is its own affair
            self._report(error, event)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(self._finish(result, event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _finish(self, result: Awaitable[object], event: Event) -> None:
        try:
            await result
        except Exception as error:  # noqa: BLE001  as above
            self._report(error, event)

    def _report(self, error: Exception, event: Event) -> None:
        # A broken listener of job:error must not be told of itself for ever; the log line is its end.
        if isinstance(event, JobErrorEvent):
            _logger.error("a listener of job:error raised", exc_info=error)
        else:
            self.emit(JobErrorEvent, error, getattr(event, "job", None))
