"""The face of Monque: the one object users hold."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
import time
import uuid
from collections.abc import AsyncIterable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from datetime import UTC
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pymongo

from monque import logs
from monque._bulk import Item, check_jobs
from monque._clock import ServerClock
from monque._connection import Source, check_source, open_database
from monque._cron import Cron
from monque._engine import Engine
from monque._execution import Executor, Middleware
from monque._intake import NewJob, request_of
from monque._producer import Producer
from monque._results import Waiting
from monque._store import indexes
from monque._store.errors import driver_errors
from monque._store.flow import Flow, job_collection
from monque._store.jobs import Jobs
from monque._upkeep import outlast, repeatedly
from monque.errors import ConfigurationError, ConnectionError, MonqueError
from monque.events import Events, Subscribe
from monque.options import Options, seconds
from monque.router import Router, check_router
from monque.worker import AnyWorker, Declares, Workers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from datetime import datetime
    from types import TracebackType

    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.database import AsyncDatabase

    from monque._intake import OnConflict
    from monque.job import Job
    from monque.options import Duration, Retry

M = TypeVar("M", bound=Middleware)

_CLOCK_INTERVAL = 30.0
# The next reading is another chance, and whoever closes should not wait for a dead connection.
_CLOCK_PATIENCE = 5.0


class _Connected:
    """What there is between `initialize()` and `close()`."""

    def __init__(self, database: AsyncDatabase[Any], options: Options, workers: Workers, events: Events) -> None:
        self.client = database.client
        self.collection = job_collection(database, options.collection)
        self.flow = Flow(self.collection)
        self.clock = ServerClock()
        self.waiting = Waiting(self.flow.endings, events)
        self.producer = Producer(self.flow, self.clock, options, workers)
        self.jobs = Jobs(self.collection, self.clock, events, self.notice, self.waiting.result, options.retention)
        self.expires = False
        self.engine: Engine | None = None
        self.work: asyncio.Task[None] | None = None

    async def read_clock(self) -> None:
        """Ask the server for its time; of a few answers the quickest is the best."""
        answers: list[tuple[datetime, float]] = []
        for _ in range(3):
            answer = await self.client.admin.command("hello")
            said: datetime = answer["localTime"]
            answers.append((said if said.tzinfo else said.replace(tzinfo=UTC), time.monotonic()))
        self.clock.observe(*answers)

    async def keep_clock(self) -> None:
        """The same, but not at any price."""
        with pymongo.timeout(_CLOCK_PATIENCE):
            await self.read_clock()

    def notice(self, jobs: Iterable[tuple[str | None, datetime]]) -> None:
        """There may be jobs of these names (None: of any), due at these times."""
        # The change stream would say so, too, but not as soon, and not everywhere.
        if self.engine is not None:
            self.engine.notice(jobs)

    def notice_jobs(self, jobs: Iterable[Job[Any]]) -> None:
        """There are new jobs."""
        if self.engine is not None:
            self.engine.notice({(job.name, job.next_run_at) for job in jobs})


class Monque(Declares):
    """A job queue on a MongoDB collection: enqueue jobs here, declare workers here, and start working here.

    Making one does no I/O, so that workers can be declared before there is a connection. `async with` connects:

    Args:
        source: Where the jobs live: an `AsyncDatabase`, an `AsyncMongoClient` (its default database, else `monque`), or
            a `mongodb://` URI. Or a function that gives an async context manager of one of these: it is entered when
            Monque connects, and left when it has closed. None takes the URI in `$MONQUE_URI`, or else an embedded
            MongoDB on this machine.
        options: See `Options`.

    Raises:
        ConfigurationError: `source` or `options` is nothing Monque can use.

    Example:
        >>> import asyncio
        >>> monque = Monque()
        >>> @monque.worker("greet")
        ... async def greet(job: Job[dict[str, str]]) -> None:
        ...     print("Hello", job.data["name"])
    """

    def __init__(self, source: Source = None, options: Options | None = None) -> None:
        check_source(source)
        if options is not None and not isinstance(options, Options):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError("options", options, "an Options value")
        self._source = source
        self._options = options or Options()
        self._workers = Workers()
        self._middleware: list[Middleware] = []
        self._events = Events()
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()
        self._connected: _Connected | None = None
        label = self._options.instance_id
        self.instance_id = f"{label}:{uuid.uuid4()}" if label else str(uuid.uuid4())
        logs.attach(self._events)

    # --- connecting -------------------------------------------------------------------------------------------------

    async def initialize(self) -> None:
        """Connect, and create the indexes that are missing. Doing it again changes nothing.

        Raises:
            ConnectionError: The database cannot be reached or refuses.
            EmbeddedError: The embedded MongoDB cannot be started.
        """
        async with self._opening:
            if self._connected is not None:
                return
            async with AsyncExitStack() as stack:
                connected = await self._open(stack)
                self._stack = stack.pop_all()
            self._connected = connected

    async def close(self) -> None:
        """Stop working, and close what `initialize()` opened. Doing it again changes nothing."""
        try:
            await self.stop()
        finally:
            async with self._opening:
                self._connected = None
                await self._stack.aclose()

    async def __aenter__(self) -> Self:
        await self.initialize()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _open(self, stack: AsyncExitStack) -> _Connected:
        database = await stack.enter_async_context(open_database(self._source))
        connected = _Connected(database, self._options, self._workers, self._events)
        with driver_errors("connect to MongoDB"):
            await connected.read_clock()
            if self._options.create_indexes:
                await indexes.create(connected.collection)
                await self._prepare_expiry(connected)
        await stack.enter_async_context(repeatedly(connected.keep_clock, every=_CLOCK_INTERVAL, events=self._events))
        stack.push_async_callback(connected.producer.flush)
        stack.push_async_callback(connected.waiting.close)
        return connected

    async def _prepare_expiry(self, connected: _Connected) -> None:
        """See to it that the server deletes jobs, if any are to be deleted by what has been said so far."""
        retains = self._options.retention or any(worker.retention for worker in self._workers.all())
        if retains and self._options.create_indexes and not connected.expires:
            with driver_errors("create the index for the retention"):
                await indexes.create_expiry(connected.collection)
            connected.expires = True

    def _connection(self) -> _Connected:
        if self._connected is None:
            raise ConnectionError("not connected: use `async with monque:`, or call `await monque.initialize()` first")
        return self._connected

    # --- producing --------------------------------------------------------------------------------------------------

    async def enqueue(  # noqa: PLR0913  each is something users say
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
        session: AsyncClientSession | None = None,
    ) -> Job[Any]:
        """Ask for a job to be run. It is stored by a majority of the replica set when this returns.

        Args:
            name: The name of the worker that is to run it: 1–255 characters, no white space. Or a `NewJob`, which is
                all there is to say then, but for the session.
            data: What the worker needs to know: anything BSON can hold; nothing means `{}`.
            run_at: When it is due, as an aware datetime; a past one is due at once.
            delay: How long from now it is due, as a timedelta or in seconds, instead of `run_at`.
            unique_key: At most one job of this name and key is pending or processing: while there is one, no other is
                made.
            priority: -10 … 10, the higher runs first; 0 is normal.
            on_conflict: What happens to the job that has the unique key. `"return"`: nothing. `"replace"`: while it is
                pending it becomes what this one would be; while it is processing, as `"run_after"`. `"run_after"`:
                while it is processing, it runs once more afterwards, as this one would; while it is pending, nothing,
                since its run is yet to come. `"raise"`: nothing, and the call raises.
            timeout: How long a run may take, as a timedelta or in seconds, instead of what its worker says.
            retry: What happens after a failure, instead of what its worker says; but what that one says about types of
                exceptions still holds. It cannot have an `on` itself, since functions cannot be stored.
            session: A session of the client Monque was given; in a transaction, the job exists once it commits.

        Returns:
            The job as stored, or the one that has the unique key, as it is now.

        Raises:
            InvalidArgumentError: An argument makes no sense; nothing was written.
            PayloadTooLargeError: `data` is too big, by itself or beside that of a run it is to follow; nothing was
                written.
            UniqueKeyConflictError: The key is taken and `on_conflict` says "raise", or it is taken by a recurring job,
                which only `schedule` changes; nothing was written.
            ConnectionError: The database did not confirm the write.

        Example:
            >>> import asyncio
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         job = await monque.enqueue("send-email", {"to": "a@b.c"}, delay=60)
            ...         print(job.name, job.status)
            >>> asyncio.run(main())
            send-email pending
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
        )
        connected = self._connection()
        with driver_errors("enqueue the job", session):
            job = await connected.producer.enqueue(request, session)
        connected.notice_jobs([job])
        return job

    async def now(self, name: str, data: Any = None) -> Job[Any]:  # noqa: ANN401  whatever BSON can hold
        """Ask for a job to be run at once; the same as `enqueue` without a time."""
        return await self.enqueue(name, data)

    async def schedule(  # noqa: PLR0913  each is something users say
        self,
        expression: str,
        name: str,
        data: Any = None,  # noqa: ANN401  whatever BSON can hold
        *,
        timezone: str = "UTC",
        unique_key: str | None = None,
        timeout: Duration | None = None,
        retry: Retry | None = None,
        session: AsyncClientSession | None = None,
    ) -> Job[Any]:
        """Ask for a job to be run again and again, at the times a cron expression names.

        There is one document for all its runs. Scheduling it again under the same key gives it the new expression,
        time zone, data, time limit and retry policy. Without a key, one is made of name, expression, time zone and
        data: scheduling exactly the same again then changes nothing.

        Args:
            expression: Five fields (`0 9 * * 1-5`), six with seconds first, or `@daily` and the like.
            name: The name of the worker that is to run it.
            data: What the worker needs to know.
            timezone: IANA name of the zone whose clock the expression is read on.
            unique_key: The key that stands for this schedule.
            timeout: As for `enqueue`, for each run.
            retry: As for `enqueue`, for each occurrence.
            session: As for `enqueue`.

        Returns:
            The job, with its first or next time in `next_run_at`.

        Raises:
            InvalidCronError: The expression cannot be understood, or never comes true.
            InvalidArgumentError: Another argument makes no sense.
            ConnectionError: The database did not confirm the write.

        Example:
            >>> import asyncio
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         job = await monque.schedule("0 9 * * 1-5", "report", timezone="Europe/Berlin")
            ...         print(job.repeat_interval, job.timezone)
            >>> asyncio.run(main())
            0 9 * * 1-5 Europe/Berlin
        """
        cron = Cron.parse(expression, timezone)
        request = NewJob(name=name, data=data, unique_key=unique_key, timeout=timeout, retry=retry)
        connected = self._connection()
        with driver_errors("schedule the job", session):
            job = await connected.producer.schedule(cron, request, session)
        connected.notice_jobs([job])
        return job

    async def enqueue_many(
        self, jobs: Iterable[Item] | AsyncIterable[Item], *, session: AsyncClientSession | None = None
    ) -> list[Job[Any]]:
        """Ask for many jobs to be run, in one go.

        A list, or another sequence, is checked whole before anything is written. From any other iterable, plain or
        async, jobs are read, checked and written batch by batch: at most 1,000, or about 16 MB, are read and not yet
        written at any time.

        Args:
            jobs: `NewJob` values, dicts of their fields, or pairs of name and data.
            session: As for `enqueue`.

        Returns:
            The jobs as stored, in the order given; in place of one whose unique key is taken, the job that has it.

        Raises:
            InvalidArgumentError: One of them makes no sense. The message says which, and how many are stored: those of
                the batches before, and none of a sequence.
            UniqueKeyConflictError: As for `enqueue`; the others may be stored.
            ConnectionError: The database did not confirm the write; some may be stored.

        Example:
            >>> import asyncio
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         jobs = await monque.enqueue_many(("resize", {"page": page}) for page in range(3))
            ...         print(len(jobs))
            >>> asyncio.run(main())
            3
        """
        connected = self._connection()
        if not isinstance(jobs, Sequence):
            check_jobs(jobs, Iterable, AsyncIterable)
            return [job async for stored in self._enqueue_stream(connected, jobs, session) for job in stored]
        made = await connected.producer.enqueue_many(jobs, session)
        connected.notice_jobs(made)
        return made

    def enqueue_stream(
        self, source: Iterable[Item] | AsyncIterable[Item], *, session: AsyncClientSession | None = None
    ) -> AsyncGenerator[list[Job[Any]]]:
        """Ask for more jobs to be run than fit into memory: they are read, written and given back batch by batch.

        A batch is written when 1,000 jobs, or about 16 MB, have been read, or there are no more. Nothing more is read
        before the batch has been looked at.

        Args:
            source: As for `enqueue_many`; of a sequence, too, each batch is checked by itself.
            session: As for `enqueue`.

        Returns:
            The jobs as stored, each batch a list, in the order given.

        Raises:
            InvalidArgumentError: One of them makes no sense. The message says which, and how many are stored: those of
                the batches before.
            ConnectionError: The database did not confirm the write of a batch.

        Example:
            >>> import asyncio
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         pages = (("resize", {"page": page}) for page in range(2500))
            ...         async for jobs in monque.enqueue_stream(pages):
            ...             print(len(jobs))
            >>> asyncio.run(main())
            1000
            1000
            500
        """
        check_jobs(source, Iterable, AsyncIterable)
        return self._enqueue_stream(self._connection(), source, session)

    async def _enqueue_stream(
        self, connected: _Connected, source: Iterable[Item] | AsyncIterable[Item], session: AsyncClientSession | None
    ) -> AsyncGenerator[list[Job[Any]]]:
        async with aclosing(connected.producer.enqueue_stream(source, session)) as batches:
            async for jobs in batches:
                connected.notice_jobs(jobs)
                yield jobs

    # --- managing ---------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> Jobs:
        """The jobs in the collection: get one, cancel, retry, reschedule and delete one or many.

        Raises:
            ConnectionError: Not connected yet.

        Example:
            >>> import asyncio
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         enqueued = await monque.enqueue("send-email", {"to": "a@b.c"}, delay=60)
            ...         job = await monque.jobs.cancel(enqueued.id)
            ...         print(job and job.status)
            >>> asyncio.run(main())
            cancelled
        """
        return self._connection().jobs

    # --- working ----------------------------------------------------------------------------------------------------

    def _add(self, worker: AnyWorker, *, replace: bool) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        self._register([worker], replace=replace)

    def use(self, middleware: M) -> M:
        """Have every run take place within what this gives: for tracing, dependencies, tenants and the like.

        A middleware is called with the job before its handler begins, and gives an async context manager; the handler
        runs within. The first middleware is the outermost. What the handler raises comes through it, `Snooze` and the
        like included; what it raises itself counts as raised by the handler. Context variables it sets are seen by
        the handler, in a thread, too, but not in a process.

        Args:
            middleware: A function of a job, usually one with `@asynccontextmanager`.

        Returns:
            The same, so that this is a decorator, too.

        Raises:
            ConfigurationError: It cannot be called.

        Example:
            >>> from collections.abc import AsyncGenerator
            >>> from contextlib import asynccontextmanager
            >>> monque = Monque()
            >>> @monque.use
            ... @asynccontextmanager
            ... async def announced(job: Job[Any]) -> AsyncGenerator[None]:
            ...     print("before", job.name)
            ...     yield
            ...     print("after", job.name)
        """
        if not callable(middleware):
            raise ConfigurationError(
                "middleware", middleware, "a function of a job that gives an async context manager"
            )
        self._middleware.append(middleware)
        return middleware

    def include(self, router: Router, *, replace: bool = False) -> None:
        """Register the workers of a router, also those that it declares later. What they enqueue goes here.

        Args:
            router: The router.
            replace: Whether they may take the place of other workers.

        Raises:
            InvalidArgumentError: This is no router.
            WorkerRegistrationError: One of the names is taken; none of the workers is registered.

        Example:
            >>> from monque import Router
            >>> emails = Router()
            >>> @emails.worker("send-email")
            ... async def send_email(to: str) -> None:
            ...     print("to", to)
            >>> monque = Monque()
            >>> monque.include(emails)
        """
        check_router(router)
        router.attach(lambda workers: self._register(workers, replace=replace))

    def _register(self, workers: Sequence[AnyWorker], *, replace: bool) -> None:
        self._workers.add(*workers, replace=replace)
        for worker in workers:
            worker.send_to(self)
        if self._connected is not None and self._connected.engine is not None:
            self._connected.engine.listen_anew()

    async def start(self) -> None:
        """Begin to work, and return at once. Doing it again while working changes nothing.

        Raises:
            ConnectionError: Not connected yet.
        """
        await self._prepare_expiry(self._connection())
        self._begin()

    def _begin(self) -> asyncio.Task[None]:
        connected = self._connection()
        if connected.work is None:
            _check_not_spawning()
            logs.attach_runs(self._events)
            connected.engine = Engine(
                connected.flow,
                self._workers,
                Executor(
                    self._middleware,
                    codec=connected.collection.codec_options,
                    max_result_bytes=self._options.max_result_bytes,
                ),
                self._options,
                events=self._events,
                clock=connected.clock,
                instance=self.instance_id,
            )
            connected.work = asyncio.create_task(connected.engine.run())
        return connected.work

    async def stop(self, *, hurry: bool = False) -> None:
        """Stop working: running handlers finish, for at most `shutdown_timeout`, and what they came to is written.

        Returns when all of that is over; concurrent calls all wait for it, and doing it again changes nothing. A
        handler that calls it would wait for its own end: there it returns at once, and the rest follows.

        Args:
            hurry: Whether running handlers are cancelled at once, also when they are being waited for already. Their
                jobs go back, no attempt spent.
        """
        connected = self._connected
        if connected is not None and connected.engine is not None and connected.work is not None:
            engine, work = connected.engine, connected.work
            engine.stop(hurry=hurry)
            if engine.is_running_in(asyncio.current_task()):
                return
            try:
                await outlast(work)
            finally:
                # Whoever waited for the same end, too, may have started anew by now.
                if connected.work is work:
                    connected.engine = connected.work = None
        await self._events.drain(seconds(self._options.shutdown_timeout))

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT, then stop. A second signal cancels the running handlers.

        Connects first if that has not been done, and then closes at the end.

        Raises:
            ConnectionError: The database cannot be reached.
        """
        if self._connected is None:
            async with self:
                await self.run()
            return
        await self._prepare_expiry(self._connected)
        work = self._begin()
        with self._signals():
            try:
                await asyncio.wait([work])
            finally:
                await self.stop()

    def is_healthy(self) -> bool:
        """Whether it is connected and, if it works, has made progress lately.

        Example:
            >>> Monque().is_healthy()
            False
        """
        connected = self._connected
        if connected is None or not connected.client.topology_description.has_writable_server():
            return False
        if connected.engine is None or connected.work is None:
            return True
        return not connected.work.done() and connected.engine.is_healthy()

    @contextmanager
    def _signals(self) -> Generator[None]:
        """Let SIGTERM and SIGINT stop the engine, where signals can be handled at all."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._signalled)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _signalled(self) -> None:
        if self._connected is not None and self._connected.engine is not None:
            engine = self._connected.engine
            engine.stop(hurry=engine.is_stopping)

    # --- events -----------------------------------------------------------------------------------------------------

    @property
    def on(self) -> Subscribe:
        """Call a listener at every event of a name: `monque.on("job:complete", listener)`.

        The listener, plain or async, is called with one event. One that raises is reported as `job:error`.

        Example:
            >>> monque = Monque()
            >>> monque.on("job:fail", lambda event: print(event.job.name, event.error))
        """
        return self._events.on

    @property
    def once(self) -> Subscribe:
        """Call a listener at the next event of a name only."""
        return self._events.once

    @property
    def off(self) -> Subscribe:
        """Call a listener no more."""
        return self._events.off


def _check_not_spawning() -> None:
    """Refuse to work in a process of a pool: it imports the program's main module, and that is to start nothing."""
    # The standard library's own mark, by which it refuses to start processes in such a place.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise MonqueError(
            'this process is there to run a handler with run_in="process", and importing the program\'s main module '
            'has started an instance in it; put what starts the program under `if __name__ == "__main__":`'
        )
