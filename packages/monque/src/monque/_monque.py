"""The face of Monque: the one object users hold."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import threading
import time
import uuid
from collections.abc import AsyncIterable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING, Any, Self, TypeVar

from monque import events as ev
from monque import logs
from monque._bulk import Item, check_jobs
from monque._clock import ServerClock
from monque._connection import Source, check_source, open_database
from monque._cron import Cron
from monque._engine import Engine
from monque._execution import Executor, Middleware
from monque._intake import NewJob, request_of
from monque._producer import Producer, ProducerMiddleware
from monque._results import Waiting
from monque._setup import Setup
from monque._store import indexes
from monque._store.doctor.examination import examine
from monque._store.driver import within
from monque._store.errors import driver_errors
from monque._store.fleet import Fleet
from monque._store.flow import Flow, job_collection
from monque._store.jobs import Jobs
from monque._store.mending import Mender, fix
from monque._upkeep import repeatedly
from monque._waiting import outlast
from monque.errors import ConfigurationError, ConnectionError, MonqueError
from monque.events import Events, Subscribe
from monque.fleet import NOT_CONNECTED, Health, unwell
from monque.options import Options, seconds
from monque.router import Router, check_router
from monque.worker import AnyWorker, Declares, Workers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from concurrent.futures import Future
    from datetime import datetime
    from types import TracebackType

    from pymongo import IndexModel
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.database import AsyncDatabase

    from monque._intake import OnConflict
    from monque._store.backlog import Backlog
    from monque.diagnosis import Diagnosis, IndexFix
    from monque.errors import IndexConflictError
    from monque.job import Job
    from monque.options import Duration, Retry

M = TypeVar("M", bound=Middleware)
N = TypeVar("N", bound=ProducerMiddleware)

_CLOCK_INTERVAL = 30.0
# The next reading is another chance, and whoever closes should not wait for a dead connection.
_CLOCK_PATIENCE = 5.0


class _Connected:
    """What there is between `initialize()` and `close()`."""

    def __init__(
        self,
        database: AsyncDatabase[Any],
        options: Options,
        workers: Workers,
        events: Events,
        middleware: Sequence[ProducerMiddleware],
    ) -> None:
        self.client = database.client
        self.loop = asyncio.get_running_loop()
        self.collection = job_collection(database, options.collection)
        self.mender = Mender(self.collection, indexes.models() if options.create_indexes else ())
        self.flow = Flow(self.collection, self.mender)
        self.clock = ServerClock()
        self.waiting = Waiting(self.flow.endings, events)
        self.producer = Producer(self.flow, self.clock, options, workers, middleware)
        self.jobs = Jobs(self.collection, self.clock, events, self.notice, self.waiting.result, options.retention)
        self.fleet = Fleet(self.collection, self.obey)
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
        await within(_CLOCK_PATIENCE, self.read_clock())

    def server(self) -> tuple[str, int | None] | None:
        """The address of the server that takes writes, if one is known."""
        servers = self.client.topology_description.server_descriptions().items()
        return next((address for address, server in servers if server.is_writable), None)

    def notice(self, jobs: Iterable[tuple[str | None, datetime]]) -> None:
        """There may be jobs of these names (None: of any), due at these times."""
        # The change stream would say so, too, but not as soon, and not everywhere.
        if self.engine is not None:
            self.engine.notice(jobs)

    def obey(self) -> None:
        """Instances were told something."""
        if self.engine is not None:
            self.engine.obey()

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
        self._producer_middleware: list[ProducerMiddleware] = []
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
            IndexConflictError: An index that nothing works without cannot be created.
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
        connected = _Connected(database, self._options, self._workers, self._events, self._producer_middleware)
        with driver_errors("connect to MongoDB"):
            await connected.read_clock()
            if self._options.create_indexes:
                self._tell_of(await connected.mender.create())
                await self._prepare_expiry(connected)
        await stack.enter_async_context(repeatedly(connected.keep_clock, every=_CLOCK_INTERVAL, events=self._events))
        stack.push_async_callback(connected.mender.close)
        stack.push_async_callback(connected.producer.flush)
        stack.push_async_callback(connected.waiting.close)
        return connected

    async def _prepare_expiry(self, connected: _Connected) -> None:
        """See to it that the server deletes jobs, if any are to be deleted by what has been said so far."""
        if self._retains() and self._options.create_indexes and not connected.expires:
            with driver_errors("create the index for the retention"):
                self._tell_of(await connected.mender.add(indexes.expiry()))
            connected.expires = True

    def _retains(self) -> bool:
        """Whether any jobs are to be deleted, by what has been said so far."""
        return bool(self._options.retention) or any(worker.retention for worker in self._workers.all())

    def _tell_of(self, conflicts: Iterable[IndexConflictError]) -> None:
        """Refuse to begin where nothing would work; what is just slower is reported."""
        for conflict in conflicts:
            if not conflict.is_usable:
                raise conflict
            self._events.emit(ev.JobErrorEvent, conflict)

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
        tags: str | Collection[str] | None = None,
        headers: Mapping[str, str] | None = None,
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
            tags: A word or several to find the job by, such as a customer or a batch: up to 20, of up to 255
                characters.
            headers: Texts that travel along with it, by name, for programs rather than for the handler: at most 8 KB.
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
            tags=tags,
            headers=headers,
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
        tags: str | Collection[str] | None = None,
        headers: Mapping[str, str] | None = None,
        session: AsyncClientSession | None = None,
    ) -> Job[Any]:
        """Ask for a job to be run again and again, at the times a cron expression names.

        There is one document for all its runs. Scheduling it again under the same key gives it the new expression,
        time zone, data, time limit, retry policy and tags. Without a key, one is made of name, expression, time zone
        and data: scheduling exactly the same again then changes nothing.

        Args:
            expression: Five fields (`0 9 * * 1-5`), six with seconds first, or `@daily` and the like.
            name: The name of the worker that is to run it.
            data: What the worker needs to know.
            timezone: IANA name of the zone whose clock the expression is read on.
            unique_key: The key that stands for this schedule.
            timeout: As for `enqueue`, for each run.
            retry: As for `enqueue`, for each occurrence.
            tags: As for `enqueue`.
            headers: As for `enqueue`, for each run.
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
        request = NewJob(
            name=name, data=data, unique_key=unique_key, timeout=timeout, retry=retry, tags=tags, headers=headers
        )
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

    @property
    def fleet(self) -> Fleet:
        """The instances that work on the collection: see them, drain one, pause and resume names.

        Raises:
            ConnectionError: Not connected yet.

        Example:
            >>> import asyncio
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         pause = await monque.fleet.pause("send-email", duration=600)
            ...         print(pause.name, await monque.fleet.resume("send-email"))
            >>> asyncio.run(main())
            send-email True
        """
        return self._connection().fleet

    async def diagnose(self) -> Diagnosis:
        """Look whether everything is in good health: the server, the indexes, the jobs. It changes nothing.

        What it is not allowed to see it says so about.

        Returns:
            What was found, and what to do about it.

        Raises:
            ConnectionError: Not connected yet, or the database did not answer.

        Example:
            >>> import asyncio
            >>> from monque import Severity
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         diagnosis = await monque.diagnose()
            ...         for finding in diagnosis.of(Severity.WARNING, Severity.ERROR):
            ...             print(finding.check, finding.seen, finding.advice)
            >>> asyncio.run(main())
        """
        connected = self._connection()
        with driver_errors("examine the database"):
            return await examine(connected.collection, self._options, self._needed())

    async def fix_indexes(self, *, drop_old: bool = False) -> IndexFix:
        """Make the indexes of the collection what this version needs, while instances are at work.

        Those that are missing are made. One that has a name of Monque's, but is another than the name says, is
        replaced; until that is done, jobs wait. Indexes of others are left alone.

        Args:
            drop_old: Whether to drop those that only earlier versions use, too: once none of these is at work any more.

        Returns:
            What was done, and what is in the way.

        Raises:
            ConnectionError: The database refuses, or did not answer.

        Example:
            >>> import asyncio
            >>> async def main() -> None:
            ...     async with Monque(options=Options(create_indexes=False)) as monque:
            ...         done = await monque.fix_indexes()
            ...         print("monque_claim" in done.created)
            >>> asyncio.run(main())
            True
        """
        connected = self._connection()
        with driver_errors("fix the indexes"):
            return await fix(connected.collection, self._needed(), drop_old=drop_old)

    def _needed(self) -> list[IndexModel]:
        return [*indexes.models(), *([indexes.expiry()] if self._retains() else [])]

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

    def use_producer(self, middleware: N) -> N:
        """Have jobs written within what this gives, with headers of its own: for tracing, tenants and the like.

        It is called with the jobs that are about to be written, one or many, and gives a context manager; they are
        written within. Headers that it gives are added to each of them, but for those that a job has already. The
        first one is the outermost. `schedule` is left out: what it defines is written once and runs for years.

        Args:
            middleware: A function of a sequence of jobs, usually one with `@contextmanager`.

        Returns:
            The same, so that this is a decorator, too.

        Raises:
            ConfigurationError: It cannot be called.

        Example:
            >>> import asyncio
            >>> from collections.abc import Generator
            >>> from contextlib import contextmanager
            >>> monque = Monque()
            >>> @monque.use_producer
            ... @contextmanager
            ... def of_tenant(jobs: Sequence[Job[Any]]) -> Generator[dict[str, str]]:
            ...     yield {"tenant": "acme"}
            >>> async def main() -> None:
            ...     async with monque:
            ...         job = await monque.enqueue("send-email")
            ...         print(job.headers)
            >>> asyncio.run(main())
            {'tenant': 'acme'}
        """
        if not callable(middleware):
            raise ConfigurationError("middleware", middleware, "a function of jobs that gives a context manager")
        self._producer_middleware.append(middleware)
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

    def _begin(self, workers: Workers | None = None) -> asyncio.Task[None]:
        """Have these workers work, or all there are, unless some do."""
        connected = self._connection()
        if connected.work is None:
            _check_not_spawning()
            logs.attach_runs(self._events)
            connected.engine = Engine(
                Setup(
                    connected.flow,
                    workers or self._workers,
                    self._options,
                    self._events,
                    connected.clock,
                    self.instance_id,
                ),
                self._executor(connected),
            )
            connected.work = asyncio.create_task(connected.engine.run())
        return connected.work

    def _executor(self, connected: _Connected) -> Executor:
        return Executor(
            self._middleware,
            codec=connected.collection.codec_options,
            max_result_bytes=self._options.max_result_bytes,
        )

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
        """Whether it is connected and, if it works, has made progress lately; the same as `health().healthy`.

        Example:
            >>> Monque().is_healthy()
            False
        """
        return self.health().healthy

    def health(self) -> Health:
        """How it is doing, and why it is not well if it is not. Asks nobody, so it may be called often.

        Returns:
            What it knows itself. One that is not at work is healthy as long as it is connected.

        Example:
            >>> import asyncio
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.start()
            ...         health = monque.health()
            ...         print(health.healthy, health.working, health.running, health.reasons)
            >>> asyncio.run(main())
            True True 0 ()
        """
        connected = self._connected
        if connected is None:
            return unwell(NOT_CONNECTED)
        is_connected = connected.client.topology_description.has_writable_server()
        reasons = () if is_connected else ("not connected: no server that takes writes is known",)
        if connected.engine is None or connected.work is None:
            return replace(unwell(*reasons), connected=is_connected)
        health = connected.engine.health()
        if connected.work.done():
            reasons = (*reasons, "the work has ended, and nobody has stopped it")
        reasons = (*reasons, *health.reasons)
        return replace(
            health, healthy=not reasons, connected=is_connected, working=not connected.work.done(), reasons=reasons
        )

    @property
    def server(self) -> tuple[str, int | None] | None:
        """The host (or the path of a socket) and the port of the MongoDB server that it writes to.

        None if it is not connected, or no such server is known at the moment.

        Example:
            >>> Monque().server is None
            True
        """
        return None if self._connected is None else self._connected.server()

    def ask_for_backlog(self) -> Future[list[Backlog]] | None:
        """Begin to count what waits and what runs; for code in other threads than that of the event loop.

        Returns:
            What `jobs.backlog()` will come to; None if this is not connected.

        Example:
            >>> Monque().ask_for_backlog() is None
            True
        """
        connected = self._connected
        if connected is None or connected.loop.is_closed():
            return None
        return asyncio.run_coroutine_threadsafe(connected.jobs.backlog(), connected.loop)

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
