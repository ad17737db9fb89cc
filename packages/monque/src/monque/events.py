"""The facts Monque tells the outside world, and the bus that carries them to listeners."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import BuiltinMethodType, MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, get_args, overload

from monque.errors import InvalidArgumentError

if TYPE_CHECKING:
    from monque.job import Job

__all__ = [
    "ChangeStreamClosedEvent",
    "ChangeStreamConnectedEvent",
    "ChangeStreamErrorEvent",
    "ChangeStreamFallbackEvent",
    "Event",
    "EventName",
    "JobCancelledEvent",
    "JobCompleteEvent",
    "JobDeletedEvent",
    "JobErrorEvent",
    "JobFailEvent",
    "JobLostEvent",
    "JobRetriedEvent",
    "JobStartEvent",
    "JobsCancelledEvent",
    "JobsDeletedEvent",
    "JobsRetriedEvent",
    "Listener",
    "StaleRecoveredEvent",
]

_logger = logging.getLogger("monque")

EventName = Literal[
    "job:start",
    "job:complete",
    "job:fail",
    "job:error",
    "job:cancelled",
    "job:retried",
    "job:deleted",
    "jobs:cancelled",
    "jobs:retried",
    "jobs:deleted",
    "job:lost",
    "stale:recovered",
    "changestream:connected",
    "changestream:error",
    "changestream:fallback",
    "changestream:closed",
]


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


@dataclass(frozen=True, slots=True)
class JobCancelledEvent:
    """A job was cancelled.

    Attributes:
        job: The job, as it is now.
    """

    name: ClassVar[EventName] = "job:cancelled"
    job: Job[Any]


@dataclass(frozen=True, slots=True)
class JobRetriedEvent:
    """A failed or cancelled job was made pending again by hand.

    Attributes:
        job: The job, as it is now.
    """

    name: ClassVar[EventName] = "job:retried"
    job: Job[Any]


@dataclass(frozen=True, slots=True)
class JobDeletedEvent:
    """A job was deleted.

    Attributes:
        job: The job, as it was.
    """

    name: ClassVar[EventName] = "job:deleted"
    job: Job[Any]


@dataclass(frozen=True, slots=True)
class JobsCancelledEvent:
    """Jobs were cancelled together.

    Attributes:
        count: How many.
    """

    name: ClassVar[EventName] = "jobs:cancelled"
    count: int


@dataclass(frozen=True, slots=True)
class JobsRetriedEvent:
    """Failed or cancelled jobs were made pending again together.

    Attributes:
        count: How many.
    """

    name: ClassVar[EventName] = "jobs:retried"
    count: int


@dataclass(frozen=True, slots=True)
class JobsDeletedEvent:
    """Jobs were deleted together.

    Attributes:
        count: How many.
    """

    name: ClassVar[EventName] = "jobs:deleted"
    count: int


@dataclass(frozen=True, slots=True)
class JobLostEvent:
    """The lease of a job ran out here, or it was taken away, and what its run comes to no longer counts.

    Attributes:
        job: The job, as claimed here.
    """

    name: ClassVar[EventName] = "job:lost"
    job: Job[Any]


@dataclass(frozen=True, slots=True)
class StaleRecoveredEvent:
    """Jobs whose lease had run out were taken back.

    Attributes:
        count: How many.
    """

    name: ClassVar[EventName] = "stale:recovered"
    count: int


@dataclass(frozen=True, slots=True)
class ChangeStreamConnectedEvent:
    """Jobs enqueued anywhere are noticed at once from now on."""

    name: ClassVar[EventName] = "changestream:connected"


@dataclass(frozen=True, slots=True)
class ChangeStreamErrorEvent:
    """The change stream ended, or could not be opened; it is tried again in the background.

    Attributes:
        error: What the server or the driver said.
    """

    name: ClassVar[EventName] = "changestream:error"
    error: BaseException


@dataclass(frozen=True, slots=True)
class ChangeStreamFallbackEvent:
    """There is no change stream for now: jobs are noticed by polling, at `Polling.interval`.

    Attributes:
        reason: Why.
    """

    name: ClassVar[EventName] = "changestream:fallback"
    reason: str


@dataclass(frozen=True, slots=True)
class ChangeStreamClosedEvent:
    """The change stream was closed on purpose.

    Attributes:
        reason: Why.
    """

    name: ClassVar[EventName] = "changestream:closed"
    reason: str


Event = (
    JobStartEvent
    | JobCompleteEvent
    | JobFailEvent
    | JobErrorEvent
    | JobCancelledEvent
    | JobRetriedEvent
    | JobDeletedEvent
    | JobsCancelledEvent
    | JobsRetriedEvent
    | JobsDeletedEvent
    | JobLostEvent
    | StaleRecoveredEvent
    | ChangeStreamConnectedEvent
    | ChangeStreamErrorEvent
    | ChangeStreamFallbackEvent
    | ChangeStreamClosedEvent
)

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
    @overload
    def __call__(self, event: Literal["job:cancelled"], listener: Listener[JobCancelledEvent], /) -> None: ...
    @overload
    def __call__(self, event: Literal["job:retried"], listener: Listener[JobRetriedEvent], /) -> None: ...
    @overload
    def __call__(self, event: Literal["job:deleted"], listener: Listener[JobDeletedEvent], /) -> None: ...
    @overload
    def __call__(self, event: Literal["jobs:cancelled"], listener: Listener[JobsCancelledEvent], /) -> None: ...
    @overload
    def __call__(self, event: Literal["jobs:retried"], listener: Listener[JobsRetriedEvent], /) -> None: ...
    @overload
    def __call__(self, event: Literal["jobs:deleted"], listener: Listener[JobsDeletedEvent], /) -> None: ...
    @overload
    def __call__(self, event: Literal["job:lost"], listener: Listener[JobLostEvent], /) -> None: ...
    @overload
    def __call__(self, event: Literal["stale:recovered"], listener: Listener[StaleRecoveredEvent], /) -> None: ...
    @overload
    def __call__(
        self, event: Literal["changestream:connected"], listener: Listener[ChangeStreamConnectedEvent], /
    ) -> None: ...
    @overload
    def __call__(self, event: Literal["changestream:error"], listener: Listener[ChangeStreamErrorEvent], /) -> None: ...
    @overload
    def __call__(
        self, event: Literal["changestream:fallback"], listener: Listener[ChangeStreamFallbackEvent], /
    ) -> None: ...
    @overload
    def __call__(
        self, event: Literal["changestream:closed"], listener: Listener[ChangeStreamClosedEvent], /
    ) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Subscription:
    listener: AnyListener
    once: bool


def _is_same(one: AnyListener, other: AnyListener) -> bool:
    # Every access to a method makes another object of it; these are told apart by what they are bound to.
    return one is other or (isinstance(one, MethodType | BuiltinMethodType) and one == other)


class Events:
    """Carries events to listeners. A listener that raises is reported as `job:error` and changes nothing."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[_Subscription]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def on(self, event: str, listener: AnyListener, /) -> None:
        """Call `listener` at every `event`."""
        self._add(event, listener, once=False)

    def once(self, event: str, listener: AnyListener, /) -> None:
        """Call `listener` at the next `event` only."""
        self._add(event, listener, once=True)

    def off(self, event: str, listener: AnyListener, /) -> None:
        """Call `listener` no more; one that was never added is fine."""
        subscriptions = self._named(event)
        subscriptions[:] = [each for each in subscriptions if not _is_same(each.listener, listener)]

    def emit(self, kind: type[Event], *facts: Any) -> None:  # noqa: ANN401  the fields of `kind`
        """Tell the listeners of `kind`; the event is only made if there are any."""
        subscriptions = self._listeners.get(kind.name)
        if subscriptions:
            event = kind(*facts)
            for each in subscriptions.copy():
                if each.once:
                    subscriptions.remove(each)
                self._tell(each.listener, event)

    def forget_tasks(self) -> None:
        """Wait no more for the async listeners called so far: they ran on an event loop that is gone."""
        self._tasks = set()

    async def drain(self, timeout: float | None = None) -> None:
        """Wait until the async listeners called so far have returned; one that calls this waits for the others.

        Those that have not returned after `timeout` seconds are cancelled.
        """
        self._tasks -= {asyncio.current_task()}
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._tasks:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            _, late = await asyncio.wait(self._tasks, timeout=left)
            if left == 0:
                for task in late:
                    task.cancel()
                return

    def _add(self, event: str, listener: AnyListener, *, once: bool) -> None:
        if not callable(listener):
            raise InvalidArgumentError("listener", listener, "a function of one event, plain or async")
        self.off(event, listener)
        self._named(event).append(_Subscription(listener, once))

    def _named(self, event: str) -> list[_Subscription]:
        if event not in get_args(EventName):
            raise InvalidArgumentError("event", event, "one of " + ", ".join(get_args(EventName)))
        return self._listeners.setdefault(event, [])

    def _tell(self, listener: AnyListener, event: Event) -> None:
        try:
            result = listener(event)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  whatever it raises is its own affair
            self._report(error, event)
            return
        if result is not None and inspect.isawaitable(result):
            task = asyncio.ensure_future(self._finish(result, event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _finish(self, result: Awaitable[object], event: Event) -> None:
        try:
            await result
        except Exception as error:  # noqa: BLE001  as above
            self._report(error, event)

    def _report(self, error: BaseException, event: Event) -> None:
        # A broken listener of job:error must not be told of itself for ever; the log line is its end.
        if isinstance(event, JobErrorEvent):
            _logger.error("a listener of job:error raised", exc_info=error)
        else:
            self.emit(JobErrorEvent, error, getattr(event, "job", None))
