"""Workers: handlers registered under the names of the jobs they run."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, cast, overload

from monque._intake import NewJob, OnConflict
from monque._names import check_job_name
from monque._payload import Payload, payload_of
from monque._worker_options import OptionsReader, RunIn, WorkerOptions, check_function
from monque.errors import InvalidArgumentError, WorkerRegistrationError
from monque.handle import JobHandle, Store
from monque.job import Job  # noqa: TC001  annotations are for users to look at
from monque.options import Duration, Retention, Retry, Timeout  # noqa: TC001  likewise

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from datetime import datetime
    from typing import Self, Unpack

    from pymongo.asynchronous.client_session import AsyncClientSession

__all__ = ["AnyWorker", "Declare", "Declares", "EnqueueSettings", "RunIn", "Worker", "WorkerOptions"]

P = ParamSpec("P")
Q = ParamSpec("Q")
C = TypeVar("C")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class EnqueueSettings(TypedDict, total=False):
    """What can be said about a job beside its payload; see `Monque.enqueue` and `Monque.schedule`.

    Attributes:
        run_at: When it is due.
        delay: How long from now it is due.
        unique_key: At most one job of this name and key is pending or processing.
        on_conflict: What happens if the unique key is taken.
        priority: -10 … 10, the higher runs first.
        timezone: For `schedule` only: the zone whose clock the expression is read on.
        timeout: How long a run may take, instead of what the worker says.
        retry: What happens after a failure, instead of what the worker says; without `on`.
        tags: A word or several to find it by.
        headers: Texts that travel along with it, by name.
        session: A session of the client that Monque was given.
    """

    run_at: datetime | None
    delay: Duration | None
    unique_key: str | None
    on_conflict: OnConflict | None
    priority: int | None
    timezone: str | None
    timeout: Duration | None
    retry: Retry | None
    tags: str | Collection[str] | None
    headers: Mapping[str, str] | None
    session: AsyncClientSession | None


class Home(Protocol):
    """Where the jobs of a worker go: a `Monque`."""

    @property
    def jobs(self) -> Store:
        """The jobs that are there."""
        ...

    @property
    def enqueue(self) -> Callable[..., Coroutine[Any, Any, Job[Any]]]:
        """Ask for a job to be run."""
        ...

    @property
    def enqueue_many(self) -> Callable[..., Coroutine[Any, Any, list[Job[Any]]]]:
        """Ask for many jobs to be run."""
        ...

    @property
    def schedule(self) -> Callable[..., Coroutine[Any, Any, Job[Any]]]:
        """Ask for a job to be run again and again."""
        ...


class _Address:
    """Where jobs go; shared by a worker and its copies, since a router may be included after they are made."""

    home: Home | None = None


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Worker(Generic[P, C, Q, R_co]):
    """A function that runs the jobs of a name: what `@monque.worker(...)` makes of it.

    It can be called like the function itself, and enqueues jobs of its name.

    Attributes:
        name: The job name it serves.
        function: The function.
        payload: What it wants to be called with.
        concurrency: How many of its jobs run at once in one instance; None for the instance's default.
        aliases: Older names whose jobs it runs, too.
        run_in: Where the function runs: `"loop"`, `"thread"` or `"process"`.
        timeout: How long a run may take; None for no limit of its own.
        retry: What happens after a failure; None for the instance's default.
        retention: How long its jobs are kept when they have ended; None for the instance's default.
        store_result: Whether what the function returns is stored in the job.
        keep_logs: How many log records of a run are kept in the job.
        transaction: Whether a run is one transaction.
        handler: Awaits the function, called with what it wants of a job.

    Raises:
        InvalidJobIdentifierError: The name or an alias cannot be a job name.
        WorkerRegistrationError: The function cannot be a handler, or an option makes no sense.

    Example:
        >>> import asyncio
        >>> from monque import Monque
        >>> monque = Monque()
        >>> @monque.worker("send-email")
        ... async def send_email(to: str, subject: str = "Hello") -> None:
        ...     print(subject, to)
        >>> async def main() -> None:
        ...     await send_email("ada@example.org")
        ...     async with monque:
        ...         handle = await send_email.enqueue(to="ada@example.org")
        ...         print(handle.job.name, handle.job.data)
        >>> asyncio.run(main())
        Hello ada@example.org
        send-email {'to': 'ada@example.org'}
    """

    name: str
    function: Callable[P, C]
    payload: Payload
    concurrency: int | None
    aliases: tuple[str, ...]
    run_in: RunIn
    timeout: Timeout | None
    retry: Retry | None
    retention: Retention | None
    store_result: bool
    keep_logs: int
    transaction: bool
    handler: Callable[[Job[Any]], Awaitable[object]]
    _address: _Address
    _settings: EnqueueSettings

    def __init__(self, name: str, function: Callable[P, C], /, **options: Unpack[WorkerOptions]) -> None:
        check_job_name(name)
        is_async = check_function(name, function)
        values = OptionsReader(name, function, is_async=is_async).read(options)
        payload = payload_of(name, function)
        if values["store_result"]:
            payload.prepare_results()
        handler = function if is_async and not payload.is_typed else self._run
        own: dict[str, object] = {"name": name, "function": function, "payload": payload, "handler": handler}
        own |= {name: getattr(function, name) for name in functools.WRAPPER_ASSIGNMENTS if hasattr(function, name)}
        vars(self).update(values, **own, __wrapped__=function, _address=_Address(), _settings={})

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function."""
        return self.function(*args, **kwargs)

    async def _run(self, job: Job[Any]) -> object:
        args, kwargs = self.payload.arguments(job)
        returned = cast("Callable[..., object]", self.function)(*args, **kwargs)
        return await cast("Awaitable[object]", returned) if isinstance(returned, Awaitable) else returned

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override is newer
        return f"<Worker {self.name!r}: {self.function!r}>"

    @property
    def names(self) -> tuple[str, ...]:
        """The names whose jobs it runs: its own first, then the aliases."""
        return (self.name, *self.aliases)

    def send_to(self, home: Home) -> None:
        """Let its jobs, and those of its copies, go there from now on."""
        self._address.home = home

    # --- producing --------------------------------------------------------------------------------------------------

    def with_(self, **settings: Unpack[EnqueueSettings]) -> Self:
        """The same worker, for enqueueing jobs that are due later, more urgent and so on.

        Args:
            **settings: See `EnqueueSettings`; what was said before and is not said anew still holds.

        Returns:
            A copy; this worker stays as it is.

        Raises:
            InvalidArgumentError: There is no such setting.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> monque = Monque()
            >>> @monque.worker("send-email")
            ... async def send_email(to: str) -> None: ...
            >>> send_email.with_(delay=60, priority=5).new(to="ada@example.org")
            NewJob(name='send-email', data={'to': 'ada@example.org'}, run_at=None, delay=60, ...priority=5...)
        """
        for name in settings.keys() - EnqueueSettings.__annotations__.keys():
            expected = f"one of the settings {', '.join(EnqueueSettings.__annotations__)}"
            raise InvalidArgumentError(name, cast("dict[str, object]", settings)[name], expected)
        other = copy(self)
        vars(other)["_settings"] = {**self._settings, **settings}
        return other

    def new(self, *args: Q.args, **kwargs: Q.kwargs) -> NewJob:
        """A job for `enqueue_many`, or for `Monque.enqueue`.

        Args:
            *args: What the function is to be called with; for one that takes the job, its data.
            **kwargs: Likewise, by name.

        Raises:
            InvalidPayloadError: The function does not take that.

        Example:
            >>> from monque import Monque
            >>> monque = Monque()
            >>> @monque.worker("resize")
            ... async def resize(page: int) -> None: ...
            >>> resize.new(page=3).data
            {'page': 3}
        """
        return NewJob(name=self.name, data=self.payload.bind(args, kwargs), **self._chosen(_OF_NEW_JOB))

    async def enqueue(self, *args: Q.args, **kwargs: Q.kwargs) -> JobHandle[R_co]:
        """Ask for a job to be run. It is stored by a majority of the replica set when this returns.

        Args:
            *args: What the function is to be called with; for one that takes the job, its data.
            **kwargs: Likewise, by name.

        Returns:
            A handle on the job as stored, or on the one that has the unique key.

        Raises:
            InvalidPayloadError: The function does not take that; nothing was written.
            InvalidArgumentError: A setting makes no sense; nothing was written.
            WorkerRegistrationError: The worker's router is not included anywhere.
            ConnectionError: Not connected, or the database did not confirm the write.
        """
        data, home = self.payload.bind(args, kwargs), self._home()
        job = await home.enqueue(self.name, data, **self._chosen(_OF_NEW_JOB), **self._chosen(_SESSION))
        return JobHandle(job, home.jobs, self.payload.load_result)

    async def enqueue_many(self, jobs: Iterable[NewJob] | AsyncIterable[NewJob], /) -> list[Job[Any]]:
        """Ask for many jobs of this worker to be run, in one go.

        Args:
            jobs: What `new` made. Of what `with_` sets, only the session matters here.

        Returns:
            The jobs as stored, in the order given.

        Raises:
            InvalidArgumentError: One of them is no job of this worker.
            WorkerRegistrationError: The worker's router is not included anywhere.
            ConnectionError: Not connected, or the database did not confirm the write; some may be stored.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> monque = Monque()
            >>> @monque.worker("resize")
            ... async def resize(page: int) -> None: ...
            >>> async def main() -> None:
            ...     async with monque:
            ...         jobs = await resize.enqueue_many(resize.new(page) for page in range(3))
            ...         print([job.data for job in jobs])
            >>> asyncio.run(main())
            [{'page': 0}, {'page': 1}, {'page': 2}]
        """
        return await self._home().enqueue_many(self._mine(jobs), **self._chosen(_SESSION))

    async def schedule(self, expression: str, /, *args: Q.args, **kwargs: Q.kwargs) -> Job[Any]:
        """Ask for a job to be run again and again, at the times a cron expression names; see `Monque.schedule`.

        Args:
            expression: Five fields (`0 9 * * 1-5`), six with seconds first, or `@daily` and the like.
            *args: What the function is to be called with; for one that takes the job, its data.
            **kwargs: Likewise, by name.

        Returns:
            The job, with its first or next time in `next_run_at`.

        Raises:
            InvalidCronError: The expression cannot be understood, or never comes true.
            InvalidPayloadError: The function does not take that; nothing was written.
            InvalidArgumentError: A setting makes no sense; nothing was written.
            WorkerRegistrationError: The worker's router is not included anywhere.
            ConnectionError: Not connected, or the database did not confirm the write.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> monque = Monque()
            >>> @monque.worker("report")
            ... async def report(kind: str) -> None: ...
            >>> async def main() -> None:
            ...     async with monque:
            ...         job = await report.with_(timezone="Europe/Berlin").schedule("0 9 * * 1-5", kind="daily")
            ...         print(job.repeat_interval, job.timezone, job.data)
            >>> asyncio.run(main())
            0 9 * * 1-5 Europe/Berlin {'kind': 'daily'}
        """
        for name, value in self._chosen(_NOT_FOR_SCHEDULES).items():
            raise InvalidArgumentError(name, value, "nothing: the expression says when, and a schedule has no priority")
        data = self.payload.bind(args, kwargs)
        return await self._home().schedule(expression, self.name, data, **self._chosen(_OF_SCHEDULES))

    def _home(self) -> Home:
        if self._address.home is None:
            raise WorkerRegistrationError(
                self.name,
                "it was declared by a router, and that is not included anywhere, so there is no queue for its jobs; "
                "call `monque.include(router)` first",
            )
        return self._address.home

    def _chosen(self, names: Iterable[str]) -> dict[str, Any]:
        settings = cast("dict[str, object]", self._settings)
        return {name: settings[name] for name in names if settings.get(name) is not None}

    def _mine(self, jobs: Iterable[NewJob] | AsyncIterable[NewJob]) -> Iterable[NewJob] | AsyncIterable[NewJob]:
        if isinstance(jobs, Sequence):
            return [self._check_mine(job) for job in jobs]
        if isinstance(jobs, AsyncIterable):
            return self._each_mine(jobs)
        if isinstance(jobs, Iterable):
            return map(self._check_mine, jobs)
        raise InvalidArgumentError("jobs", jobs, f"an iterable of jobs of the worker {self.name!r}, made by its `new`")

    async def _each_mine(self, jobs: AsyncIterable[NewJob]) -> AsyncGenerator[NewJob]:
        async for job in jobs:
            yield self._check_mine(job)

    def _check_mine(self, job: object) -> NewJob:
        if isinstance(job, NewJob) and job.name == self.name:
            return job
        raise InvalidArgumentError("jobs", job, f"jobs of the worker {self.name!r}, made by its `new`")


_SESSION = ("session",)
_OF_NEW_JOB = [field.name for field in fields(NewJob) if field.name in EnqueueSettings.__annotations__]
_OF_SCHEDULES = ("timezone", "unique_key", "timeout", "retry", "tags", "headers", "session")
_NOT_FOR_SCHEDULES = [name for name in EnqueueSettings.__annotations__ if name not in _OF_SCHEDULES]

AnyWorker = Worker[..., Any, ..., Any]


class Declare(Protocol):
    """Makes a worker of a function: what `@monque.worker("name")` is before it is applied."""

    @overload
    def __call__(
        self, function: Callable[[Job[T]], Coroutine[Any, Any, R]], /
    ) -> Worker[[Job[T]], Coroutine[Any, Any, R], [T], R]: ...
    @overload
    def __call__(self, function: Callable[[Job[T]], R], /) -> Worker[[Job[T]], R, [T], R]: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Worker[P, Coroutine[Any, Any, R], P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Worker[P, R, P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> AnyWorker:
        """Make a worker of a function."""
        ...


class Declares:
    """Where workers are declared: a `Monque` or a `Router`."""

    @overload
    def worker(self, name: str, /, *, replace: bool = False, **options: Unpack[WorkerOptions]) -> Declare: ...
    @overload
    def worker(
        self,
        name: str,
        function: Callable[[Job[T]], Coroutine[Any, Any, R]],
        /,
        *,
        replace: bool = False,
        **options: Unpack[WorkerOptions],
    ) -> Worker[[Job[T]], Coroutine[Any, Any, R], [T], R]: ...
    @overload
    def worker(
        self,
        name: str,
        function: Callable[[Job[T]], R],
        /,
        *,
        replace: bool = False,
        **options: Unpack[WorkerOptions],
    ) -> Worker[[Job[T]], R, [T], R]: ...
    @overload
    def worker(
        self,
        name: str,
        function: Callable[P, Coroutine[Any, Any, R]],
        /,
        *,
        replace: bool = False,
        **options: Unpack[WorkerOptions],
    ) -> Worker[P, Coroutine[Any, Any, R], P, R]: ...
    @overload
    def worker(
        self, name: str, function: Callable[P, R], /, *, replace: bool = False, **options: Unpack[WorkerOptions]
    ) -> Worker[P, R, P, R]: ...
    def worker(
        self,
        name: str,
        function: Callable[..., Any] | None = None,
        /,
        *,
        replace: bool = False,
        **options: Unpack[WorkerOptions],
    ) -> AnyWorker | Declare:
        """Declare the function that runs jobs of `name`; a decorator, or a call with the function.

        The function takes one `Job`, or what is in its data: then its parameters are the payload, by name.

        Args:
            name: The job name.
            function: The function, async or plain.
            replace: Whether it may take the place of another worker; runs that have begun end with the old one.
            **options: See `WorkerOptions`.

        Returns:
            The worker, which can be called like the function, and enqueues jobs; without a function, the decorator.

        Raises:
            InvalidJobIdentifierError: `name` or an alias cannot be a job name.
            WorkerRegistrationError: The name is taken, the function cannot be a handler, or an option makes no sense.

        Example:
            >>> from monque import Monque
            >>> monque = Monque()
            >>> @monque.worker("send-email", concurrency=20)
            ... async def send_email(to: str) -> None:
            ...     print("to", to)
            >>> send_email.new(to="ada@example.org").data
            {'to': 'ada@example.org'}
        """

        def declare(function: Callable[..., Any], /) -> AnyWorker:
            inner = cast("AnyWorker", function).function if isinstance(function, Worker) else function
            worker: AnyWorker = Worker(name, inner, **options)
            self._add(worker, replace=replace)
            return worker

        return cast("Declare", declare) if function is None else declare(function)

    def add(self, worker: AnyWorker, *, replace: bool = False) -> None:
        """Take in a worker that has been made elsewhere, `Worker(name, function)`.

        Args:
            worker: The worker.
            replace: Whether it may take the place of another worker.

        Raises:
            InvalidArgumentError: This is no worker.
            WorkerRegistrationError: The name is taken.

        Example:
            >>> from monque import Monque, Worker
            >>> def shout(text: str) -> None:
            ...     print(text.upper())
            >>> monque = Monque()
            >>> monque.add(Worker("shout", shout))
        """
        if not isinstance(worker, Worker):
            raise InvalidArgumentError("worker", worker, "a Worker")
        self._add(worker, replace=replace)

    def _add(self, worker: AnyWorker, *, replace: bool) -> None:
        raise NotImplementedError


class Workers:
    """The workers of one `Monque` or `Router`, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, AnyWorker] = {}
        self._typed: dict[str, Payload] = {}
        self._siblings: dict[str, tuple[str, ...]] = {}

    def add(self, *workers: AnyWorker, replace: bool) -> None:
        """Register workers, all or none; a name that is taken raises `WorkerRegistrationError` unless `replace`."""
        added = dict(self._by_name)
        for worker in workers:
            self._check(worker, added, replace=replace)
            # Other names of one that is replaced stay its own, since jobs of them may be on their way here.
            added.update(dict.fromkeys(worker.names, worker))
        self._by_name = added
        self._typed = {name: worker.payload for name, worker in added.items() if worker.payload.is_typed}
        self._siblings = {
            name: tuple(n for n in worker.names if added.get(n) is worker) for name, worker in added.items()
        }

    @staticmethod
    def _check(worker: AnyWorker, others: dict[str, AnyWorker], *, replace: bool) -> None:
        for name in worker.names:
            if not replace and others.get(name, worker) is not worker:
                raise WorkerRegistrationError(
                    name, "there is a worker for this name already; pass replace=True to replace it"
                )

    def names(self) -> list[str]:
        """The names that have a worker, aliases included."""
        return list(self._by_name)

    def all(self) -> list[AnyWorker]:
        """The workers, each once."""
        return list(dict.fromkeys(self._by_name.values()))

    def siblings(self, name: str) -> tuple[str, ...]:
        """The names that have the same worker, and share its slots."""
        return self._siblings[name]

    def checked(self, name: object, data: object) -> Any:  # noqa: ANN401  whatever BSON can hold
        """`data` as they are stored, if there is a worker here that says what they must be.

        Raises:
            InvalidPayloadError: They are not what the worker takes.
        """
        payload = self._typed.get(name) if self._typed and isinstance(name, str) else None
        return data if payload is None else payload.check(data)

    def get(self, name: str) -> AnyWorker | None:
        """The worker of `name`; None if there is none, or none any more."""
        return self._by_name.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> AnyWorker:
        return self._by_name[name]
