"""Monque for code that has no event loop: Flask, Django, scripts.

The same code does the work: an event loop in a thread of its own, to which every call goes, and which it waits for.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Collection, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self, cast

from monque import _monque
from monque._bulk import Batch, Item, check_jobs
from monque._connection import open_twin
from monque._intake import NewJob, request_of
from monque._link import Face, Inner, Link, blocking
from monque._portal import refuse_to_block
from monque._store import fleet as _fleet
from monque._store import jobs as _jobs
from monque._store.filters import JobFilter
from monque._store.guest import guest_collection, insert_in
from monque.errors import InvalidArgumentError
from monque.fleet import NOT_CONNECTED, Health, unwell
from monque.options import Options

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from datetime import datetime
    from types import TracebackType

    from pymongo.client_session import ClientSession

    from monque._connection import SyncSource
    from monque._intake import OnConflict
    from monque._producer import Producer
    from monque._store.paging import JobOrder
    from monque._store.watching import JobChange, Watch
    from monque.events import Subscribe
    from monque.job import Job
    from monque.options import Duration, Retry
    from monque.router import Router

__all__ = ["Fleet", "Jobs", "Monque", "open_twin"]


class Jobs(Face[_jobs.Jobs]):
    """`monque.Jobs` for code that has no event loop: its methods, which wait until it is done.

    Example:
        >>> with Monque() as monque:
        ...     enqueued = monque.enqueue("send-email", delay=60)
        ...     job = monque.jobs.cancel(enqueued.id)
        ...     print(job and job.status)
        cancelled
    """

    get = blocking(_jobs.Jobs.get)
    result = blocking(_jobs.Jobs.result)

    def find(
        self,
        filter: JobFilter = JobFilter(),  # noqa: A002, B008  what it is; it is frozen
        *,
        order: JobOrder | None = None,
        limit: int | None = None,
        timeout: Duration = 10,
    ) -> list[Job[Any]]:
        """Find jobs; see `monque.Jobs.find`. Of many, `page` gives some at a time.

        Raises:
            InvalidArgumentError: An argument makes no sense.
            AggregationTimeoutError: It took longer than `timeout`.
            ConnectionError: The database did not answer.

        Example:
            >>> with Monque() as monque:
            ...     enqueued = monque.enqueue("send-email", tags="welcome")
            ...     print(monque.jobs.find(JobFilter(tags="welcome")) == [enqueued])
            True
        """
        return self._link.call(lambda inner: inner.jobs.find(filter, order=order, limit=limit, timeout=timeout).all())

    page = blocking(_jobs.Jobs.page)
    count = blocking(_jobs.Jobs.count)
    backlog = blocking(_jobs.Jobs.backlog)
    stats = blocking(_jobs.Jobs.stats)

    def watch(self, filter: JobFilter = JobFilter()) -> Generator[JobChange]:  # noqa: A002, B008  what it is; it is frozen
        """Watch jobs change, live, from the first step of the iteration on; see `monque.Jobs.watch`.

        Raises:
            InvalidArgumentError: It is no filter.
            ChangeStreamsUnavailableError: The server has no change streams.
            ConnectionError: The database refuses.
        """
        link = self._link

        async def begin(inner: Inner) -> Watch:
            return await inner.jobs.watch(filter).__aenter__()

        changes = link.call(begin)
        try:
            while True:
                yield link.call(lambda _: changes.__anext__())
        finally:
            link.call(lambda _: changes.aclose())

    cancel = blocking(_jobs.Jobs.cancel)
    retry = blocking(_jobs.Jobs.retry)
    reschedule = blocking(_jobs.Jobs.reschedule)
    run_now = blocking(_jobs.Jobs.run_now)
    delete = blocking(_jobs.Jobs.delete)
    cancel_many = blocking(_jobs.Jobs.cancel_many)
    retry_many = blocking(_jobs.Jobs.retry_many)
    reschedule_many = blocking(_jobs.Jobs.reschedule_many)
    run_now_many = blocking(_jobs.Jobs.run_now_many)
    delete_many = blocking(_jobs.Jobs.delete_many)


class Fleet(Face[_fleet.Fleet]):
    """`monque.Fleet` for code that has no event loop: its methods, which wait until it is done.

    Example:
        >>> with Monque() as monque:
        ...     pause = monque.fleet.pause("send-email", duration=600)
        ...     print(pause.name, monque.fleet.resume("send-email"))
        send-email True
    """

    pause = blocking(_fleet.Fleet.pause)
    resume = blocking(_fleet.Fleet.resume)
    paused = blocking(_fleet.Fleet.paused)
    instances = blocking(_fleet.Fleet.instances)
    drain = blocking(_fleet.Fleet.drain)
    undrain = blocking(_fleet.Fleet.undrain)


class Monque(Face[_monque.Monque]):
    """`monque.Monque` for code that has no event loop: every call waits until it is done.

    It connects at the first call, or where a `with` block begins, and may be used by any number of threads. After a
    fork the child has a connection of its own; the parent's goes on undisturbed. On a running event loop calls are
    refused, since they would keep it from running.

    Workers, middleware and listeners are those of `monque.Monque`; async handlers and all listeners run in the
    background, on an event loop in a thread of its own.

    Args:
        source: Where the jobs live: a `Database`, a `MongoClient` (its default database, else `monque`), or a
            `mongodb://` URI. None takes the URI in `$MONQUE_URI`, or else an embedded MongoDB on this machine.
        options: See `monque.Options`.

    Raises:
        ConfigurationError: `source` or `options` is nothing Monque can use.

    Example:
        >>> with Monque() as monque:
        ...     job = monque.enqueue("send-email", {"to": "a@b.c"})
        ...     print(job.name, job.status)
        send-email pending
    """

    def __init__(self, source: SyncSource = None, options: Options | None = None) -> None:
        inner = Inner(source, options)
        super().__init__(Link(inner), lambda inner: inner)
        self._own_jobs = (
            None
            if inner.own_database is None
            else guest_collection(inner.own_database, (options or Options()).collection)
        )
        # These wait for nothing: they are the same, and typed as they are there.
        self.worker = inner.worker
        self.use = inner.use
        self.use_producer = inner.use_producer
        self.use_producer = inner.use_producer

    # --- connecting -------------------------------------------------------------------------------------------------

    initialize = blocking(_monque.Monque.initialize)

    def close(self) -> None:
        """Stop working, close the connection and end the thread. The next call begins anew.

        Raises:
            BlockingCallError: Called on a running event loop.
        """
        self._link.close()

    def __enter__(self) -> Self:
        self.initialize()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- producing --------------------------------------------------------------------------------------------------

    def enqueue(  # noqa: PLR0913  each is something users say
        self,
        name: str | NewJob,
        data: Any = None,  # noqa: ANN401  whatever BSON can hold
        *,
        run_at: datetime | None = None,
        delay: Duration | None = None,
        unique_key: str | None = None,
        priority: int | None = None,
        on_conflict: OnConflict = "return",
        timeout: Duration | None = None,
        retry: Retry | None = None,
        tags: str | Collection[str] | None = None,
        headers: Mapping[str, str] | None = None,
        session: ClientSession | None = None,
    ) -> Job[Any]:
        """Ask for a job to be run; see `monque.Monque.enqueue`.

        A session is one of the client given as `source`: in its transaction, the job is stored through that client.
        Beside a session, `on_conflict` can only be `"return"`.

        Raises:
            InvalidArgumentError: An argument makes no sense; nothing was written.
            UniqueKeyConflictError: As for `monque.Monque.enqueue`.
            ConnectionError: The database did not confirm the write.

        Example:
            >>> with Monque() as monque:
            ...     job = monque.enqueue("send-email", {"to": "a@b.c"}, delay=60)
            ...     print(job.data)
            {'to': 'a@b.c'}
        """
        request = request_of(
            name,
            data,
            run_at=run_at,
            delay=delay,
            unique_key=unique_key,
            priority=priority,
            on_conflict=on_conflict,
            timeout=timeout,
            retry=retry,
            tags=tags,
            headers=headers,
        )
        if session is None:
            return self._link.call(lambda inner: inner.enqueue(request))
        self._check_session(session)
        batch = Batch()
        batch.add(request, self._producer().make(request))
        return self._store(batch, session)[0]

    now = blocking(_monque.Monque.now)

    def schedule(  # noqa: PLR0913  each is something users say
        self,
        expression: str,
        name: str,
        data: Any = None,  # noqa: ANN401  whatever BSON can hold
        *,
        timezone: str = "UTC",
        unique_key: str | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        tags: str | Collection[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Job[Any]:
        """Ask for a job to be run again and again, at the times a cron expression names; see `monque.Monque.schedule`.

        Raises:
            InvalidCronError: The expression cannot be understood, or never comes true.
            InvalidArgumentError: Another argument makes no sense.
            ConnectionError: The database did not confirm the write.

        Example:
            >>> with Monque() as monque:
            ...     print(monque.schedule("@daily", "report").repeat_interval)
            @daily
        """
        return self._link.call(
            lambda inner: inner.schedule(
                expression,
                name,
                data,
                timezone=timezone,
                unique_key=unique_key,
                timeout=timeout,
                retry=retry,
                tags=tags,
                headers=headers,
            )
        )

    def enqueue_many(self, jobs: Iterable[Item], *, session: ClientSession | None = None) -> list[Job[Any]]:
        """Ask for many jobs to be run, in one go; see `monque.Monque.enqueue_many`.

        The iterable is read in the thread that calls.

        Raises:
            InvalidArgumentError: One of them makes no sense. The message says which, and how many are stored.
            ConnectionError: The database did not confirm the write; some may be stored.

        Example:
            >>> with Monque() as monque:
            ...     print(len(monque.enqueue_many(("resize", {"page": page}) for page in range(3))))
            3
        """
        if not isinstance(jobs, Sequence):
            return [job for stored in self.enqueue_stream(jobs, session=session) for job in stored]
        self._check_session(session)
        return self._store(self._producer().make_all(jobs), session)

    def enqueue_stream(
        self, source: Iterable[Item], *, session: ClientSession | None = None
    ) -> Generator[list[Job[Any]]]:
        """Ask for more jobs to be run than fit into memory; see `monque.Monque.enqueue_stream`.

        Raises:
            InvalidArgumentError: One of them makes no sense. The message says which, and how many are stored.
            ConnectionError: The database did not confirm the write of a batch.

        Example:
            >>> with Monque() as monque:
            ...     for jobs in monque.enqueue_stream(("resize", {"page": page}) for page in range(1500)):
            ...         print(len(jobs))
            1000
            500
        """
        check_jobs(source, Iterable)
        self._check_session(session)
        return self._stream(self._producer(), source, session)

    def _stream(
        self, producer: Producer, source: Iterable[Item], session: ClientSession | None
    ) -> Generator[list[Job[Any]]]:
        bulk = producer.bulk()
        for batch in bulk.batches(source):
            with bulk.storing(batch):
                stored = self._store(batch, session)
            yield stored

    def _producer(self) -> Producer:
        return self._link.call(Inner.producer)

    def _store(self, batch: Batch, session: ClientSession | None) -> list[Job[Any]]:
        if session is None or self._own_jobs is None:
            return self._link.call(lambda inner: inner.store(batch))
        for on_conflict in batch.contending.values():
            raise InvalidArgumentError(
                "on_conflict", on_conflict, "'return' beside a session of the synchronous driver"
            )
        with self._producer().sending(batch.jobs) as jobs:
            return insert_in(self._own_jobs, session, jobs)

    def _check_session(self, session: object) -> None:
        if session is None:
            return
        if self._own_jobs is None:
            expected = "none, since Monque was given no client; pass the MongoClient of the session as source"
        elif getattr(session, "client", None) is not self._own_jobs.database.client:
            expected = "a session of the MongoClient that was given to Monque"
        else:
            return
        raise InvalidArgumentError("session", session, expected)

    # --- managing ---------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> Jobs:
        """The jobs in the collection: get one, cancel, retry, reschedule and delete one or many."""
        return Jobs(self._link, lambda inner: inner.jobs)

    @property
    def fleet(self) -> Fleet:
        """The instances that work on the collection: see them, drain one, pause and resume names."""
        return Fleet(self._link, lambda inner: inner.fleet)

    def include(self, router: Router, *, replace: bool = False) -> None:
        """Take over the workers of a router; see `monque.Monque.include`.

        Raises:
            WorkerRegistrationError: A name is taken, and `replace` was not said.
        """
        self._link.inner.include(router, replace=replace)

    diagnose = blocking(_monque.Monque.diagnose)
    fix_indexes = blocking(_monque.Monque.fix_indexes)

    # --- working ----------------------------------------------------------------------------------------------------

    start = blocking(_monque.Monque.start)

    def stop(self, *, hurry: bool = False) -> None:
        """Stop working: running handlers finish, for at most `shutdown_timeout`, and what they came to is written.

        Args:
            hurry: Whether running handlers are cancelled at once. Their jobs go back, no attempt spent.

        Raises:
            BlockingCallError: Called on a running event loop.
        """
        refuse_to_block()
        portal = self._link.here()
        if portal is not None:
            portal.call(self._link.inner.stop(hurry=hurry))

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, then stop. A second signal cancels the running handlers.

        Connects first if that has not been done, and then closes at the end.

        Raises:
            BlockingCallError: Called on a running event loop.
            ConnectionError: The database cannot be reached.
        """
        if self._link.here() is None or not self._link.inner.is_connected:
            with self:
                self.run()
            return
        self.start()
        try:
            with self._signals():
                self._link.call(Inner.end_of_work)
        finally:
            self.stop()

    @contextmanager
    def _signals(self) -> Generator[None]:
        """Let SIGTERM and SIGINT stop the work, where signals can be handled at all."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        link = self._link
        numbers = (signal.SIGTERM, signal.SIGINT)

        def received(_number: int, _frame: object) -> None:
            link.portal().soon(link.inner.signalled)

        before = [signal.signal(number, received) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def is_healthy(self) -> bool:
        """Whether it is connected and, if it works, has made progress lately; asks nobody and does not connect.

        Example:
            >>> Monque().is_healthy()
            False
        """
        return self.health().healthy

    def health(self) -> Health:
        """How it is doing, and why it is not well if it is not; asks nobody and does not connect.

        Example:
            >>> Monque().health().healthy
            False
        """
        return unwell(NOT_CONNECTED) if self._link.here() is None else self._link.inner.health()

    # --- events -----------------------------------------------------------------------------------------------------

    @property
    def on(self) -> Subscribe:
        """Call a listener, in the background, at every event of a name: `monque.on("job:complete", listener)`.

        Example:
            >>> monque = Monque()
            >>> monque.on("job:fail", lambda event: print(event.job.name, event.error))
        """
        return self._in_background(self._link.inner.on)

    @property
    def once(self) -> Subscribe:
        """Call a listener at the next event of a name only."""
        return self._in_background(self._link.inner.once)

    @property
    def off(self) -> Subscribe:
        """Call a listener no more."""
        return self._in_background(self._link.inner.off)

    def _in_background(self, subscribe: Subscribe) -> Subscribe:
        """The same, where the listeners are called, which may not change under the hands of whoever calls them."""

        def there(event: Any, listener: Any) -> None:  # noqa: ANN401  what Subscribe says
            portal = self._link.here()
            if portal is None:
                subscribe(event, listener)
            else:
                portal.run(partial(subscribe, event, listener))

        return cast("Subscribe", there)


def asynchronous(monque: Monque) -> _monque.Monque:
    """The asynchronous one behind it, for whoever watches it."""
    return monque._link.inner  # noqa: SLF001  a part of it
