"""What the blocking faces share: an asynchronous Monque, and the way to its event loop, in each process another."""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
import uuid
from contextlib import AsyncExitStack, suppress
from contextvars import Context
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from monque import _monque
from monque._connection import SyncSource, check_sync_source, open_twin, own_database
from monque._portal import Portal, refuse_to_block

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from typing_extensions import override

    from monque._bulk import Batch
    from monque._producer import Producer
    from monque.job import Job
    from monque.options import Options
    from monque.worker import Workers
else:

    def override(method: Any) -> Any:  # noqa: ANN401  any method
        return method


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# How long the end of the process waits for jobs to be given back and connections to be closed.
_GOODBYE = 2.0


class Inner(_monque.Monque):
    """The asynchronous Monque behind a blocking one; its methods run on the event loop of a portal."""

    def __init__(self, source: SyncSource, options: Options | None) -> None:
        check_sync_source(source)
        super().__init__(source if isinstance(source, str) else None, options)
        self.own_database = own_database(source)
        self._belongings: list[object] = []

    def begin_anew(self, belongings: list[object]) -> None:
        """Get ready for another event loop, and leave alone what a fork may have brought along: it is the parent's."""
        self._belongings = belongings
        self._connected, self._stack, self._opening = None, AsyncExitStack(), asyncio.Lock()
        self._events.forget_tasks()
        label = self._options.instance_id
        self.instance_id = f"{label}:{uuid.uuid4()}" if label else str(uuid.uuid4())

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection."""
        return self._connected is not None

    @override
    async def initialize(self) -> None:
        if self._connected is None:
            # What holds for whoever makes the first call, a time limit of the driver for instance, is nothing to what
            # is started here for all.
            await asyncio.get_running_loop().create_task(super().initialize(), context=Context())
            # In a forked child the driver gives its clients new topologies, and collecting the old one would end tasks
            # of the parent's. It is private; without it, a child that ends says so.
            topology: object = getattr(self._connection().client, "_topology", None)
            self._belongings[:] = [self._connected, self._stack, topology]

    @override
    async def _open(self, stack: AsyncExitStack) -> _monque._Connected:
        if self.own_database is not None:
            self._source = await stack.enter_async_context(open_twin(self.own_database))
        return await super()._open(stack)

    @override
    def _begin(self, workers: Workers | None = None) -> asyncio.Task[None]:
        return Context().run(super()._begin, workers)

    async def producer(self) -> Producer:
        """What checks and writes jobs."""
        return self._connection().producer

    async def store(self, batch: Batch) -> list[Job[Any]]:
        """Write jobs that have been checked."""
        connected = self._connection()
        stored = await connected.producer.store(batch, None)
        connected.notice_jobs(stored)
        return stored

    async def end_of_work(self) -> None:
        """Wait until nothing is at work, which may be so already."""
        if self._connected is not None and self._connected.work is not None:
            await asyncio.wait([self._connected.work])

    def signalled(self) -> None:
        """Stop; the second time, hurry."""
        self._signalled()

    async def leave(self) -> None:
        """Close in a hurry: the handlers are cancelled, and their jobs given back."""
        if self._connected is not None and self._connected.engine is not None:
            self._connected.engine.stop(hurry=True)
        await self.close()


class Link:
    """What a blocking Monque and its parts share: the inner one, and the portal to it, in each process another."""

    def __init__(self, inner: Inner) -> None:
        self.inner = inner
        # By process: whatever a fork copies is not used by the child, a lock that somebody holds included.
        self._portals: dict[int, Portal] = {}
        self._locks: dict[int, threading.RLock] = {}

    def call(self, action: Callable[[Inner], Coroutine[Any, Any, R]]) -> R:
        """Connect if need be, do it there, and wait for what it comes to."""
        refuse_to_block()
        return self.portal().call(_connected(self.inner, action))

    def here(self) -> Portal | None:
        """The portal of this process, if it is open."""
        return self._portals.get(os.getpid())

    def portal(self) -> Portal:
        """The same, opened if it is not."""
        portal = self.here()
        if portal is None:
            with self._lock():
                portal = self.here() or self._open()
        return portal

    def close(self) -> None:
        """End everything, and wait for it."""
        refuse_to_block()
        with self._lock():
            portal = self.here()
            if portal is not None:
                try:
                    portal.close(self.inner.close())
                finally:
                    atexit.unregister(self._leave)
                    del self._portals[os.getpid()]

    def _lock(self) -> threading.RLock:
        return self._locks.setdefault(os.getpid(), threading.RLock())

    def _open(self) -> Portal:
        portal = Portal()
        self.inner.begin_anew(portal.belongings)
        self._portals[os.getpid()] = portal
        atexit.unregister(self._leave)  # a parent may have registered it
        atexit.register(self._leave)
        return portal

    def _leave(self) -> None:
        """Say goodbye at the end of the process, which waits for nothing."""
        portal = self._portals.pop(os.getpid(), None)
        if portal is not None:
            with suppress(Exception):
                portal.close(self.inner.leave(), _GOODBYE)


async def _connected(inner: Inner, action: Callable[[Inner], Coroutine[Any, Any, R]]) -> R:
    await inner.initialize()
    return await action(inner)


class Face(Generic[T_co]):
    """A blocking face of an asynchronous object that can be reached through a Monque."""

    def __init__(self, link: Link, reach: Callable[[Inner], T_co]) -> None:
        self._link = link
        self._reach = reach


def blocking(
    method: Callable[Concatenate[T, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Face[T], P], R]:
    """The same method, waited for."""

    @wraps(method)
    def call(face: Face[T], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return face._link.call(lambda inner: method(face._reach(inner), *args, **kwargs))  # noqa: SLF001  a method of it

    # The example awaits.
    call.__doc__ = inspect.cleandoc(method.__doc__ or "").partition("\n\nExample:")[0]
    return call
