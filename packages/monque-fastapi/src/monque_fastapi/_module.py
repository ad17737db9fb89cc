"""The module: what joins a FastAPI application and a Monque."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from contextvars import ContextVar
from inspect import Parameter
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, FastAPI
from fastapi.exceptions import FastAPIError

from monque import ConfigurationError, Job, Monque, Router, WorkerRegistrationError
from monque.job import current_job
from monque_fastapi._connections import Native, check_connection, made_by, open_native
from monque_fastapi._declare import JOBS, AnyJob, Cron, DeclaredJob, runner
from monque_fastapi._dependencies import JOB, MODULES, MONQUE
from monque_fastapi._dishka import request_scope
from monque_fastapi._injection import Injection, Surroundings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from typing_extensions import override

    from monque import Options

    Source = Callable[[], AbstractAsyncContextManager[Native]] | str
    State = Mapping[str, Any]
    Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[State]]
else:

    def override(method: Any) -> Any:  # noqa: ANN401  any method
        return method


__all__ = ["MonqueModule"]

# The module that a process without a web server works for; the others in it only produce.
_working_for: ContextVar[MonqueModule | None] = ContextVar("monque_fastapi_working_for", default=None)


class _LivingMonque(Monque):
    """A Monque that runs within the lifespan of its module's application, also where somebody else calls `run`."""

    def __init__(self, module: MonqueModule, source: Source, options: Options | None) -> None:
        super().__init__(source, options)
        self._module = module

    @override
    async def run(self) -> None:
        if self._module.is_alive:
            await super().run()
        else:
            await self._module.run()


class MonqueModule:
    """A Monque in a FastAPI application: connected, and at work, for as long as the application lives.

    The connection is said in one of three ways.

    Args:
        connection: A connection of any kind: a `mongodb://` URI; an `AsyncDatabase` or `AsyncMongoClient`; a `Database`
            or `MongoClient`; a client or database of Motor; a document class of Beanie or MongoEngine; an engine of
            ODMantic. Or a `Monque`, whose options and workers are its own.
        factory: A function, plain or async, that makes one when the application starts. What it makes is not closed.
        dependency: A FastAPI dependency that provides one; what it opens is closed when the application stops.
        jobs: What to run: functions under `@job` or `@cron`, classes under `@job_controller`, `monque.Router`s, and
            Python modules, for the functions and classes that are defined in them.
        work: Whether jobs are run in this application; False for one that only enqueues them.
        options: See `monque.Options`.

    Raises:
        ConfigurationError: There is no connection, there are several, or it is of no kind that is known.
        WorkerRegistrationError: A name is taken, or a handler asks for something that FastAPI cannot provide.

    Attributes:
        monque: The Monque. Its `run()` is that of the module, so it can be given to `monque worker`, as
            `package.main:module.monque`.

    Example:
        >>> from monque_fastapi import MonqueDep, job
        >>> @job("send-email")
        ... async def send_email(to: str, monque: MonqueDep) -> None:
        ...     print("to", to)
        >>> module = MonqueModule("mongodb://localhost/app", jobs=[send_email])
        >>> app = FastAPI(lifespan=module.lifespan)
    """

    def __init__(
        self,
        connection: object = None,
        *,
        factory: Callable[[], object] | None = None,
        dependency: Callable[..., object] | None = None,
        jobs: Iterable[object] = (),
        work: bool = True,
        options: Options | None = None,
    ) -> None:
        given = {"connection": connection, "factory": factory, "dependency": dependency}
        _check_one({name: value for name, value in given.items() if value is not None})
        self._connection, self._factory, self._dependency = connection, factory, dependency
        if isinstance(connection, Monque):
            if options is not None:
                raise ConfigurationError("options", options, "nothing beside a Monque, which has its own")
            self.monque = connection
        elif isinstance(connection, str):
            self.monque = _LivingMonque(self, connection, options)
        else:
            if connection is not None:
                check_connection(connection)
            self.monque = _LivingMonque(self, self._open, options)
        self._work = work
        self._app: FastAPI | None = None
        self._state: State = {}
        self._start: Callable[[FastAPI], AbstractAsyncContextManager[object]] = self.lifespan
        self._crons: dict[str, Cron] = {}
        self._injections: dict[str, Injection] = {}
        self.monque.use(self._around)
        self.include(*jobs)

    # --- declaring --------------------------------------------------------------------------------------------------

    def include(self, *jobs: object) -> None:
        """Take in further jobs.

        Args:
            *jobs: As for `jobs` above.

        Raises:
            ConfigurationError: One of them is nothing of the kind.
            WorkerRegistrationError: A name is taken, or a handler asks for something that FastAPI cannot provide.

        Example:
            >>> emails = Router()
            >>> module = MonqueModule("mongodb://localhost/app")
            >>> module.include(emails)
        """
        for found in jobs:
            if isinstance(found, DeclaredJob):
                self._add(cast("AnyJob", found))
            elif isinstance(found, Router):
                self.monque.include(found)
            elif isinstance(found, type) and JOBS in vars(found):
                self.include(*getattr(found, JOBS))
            elif isinstance(found, ModuleType):
                self.include(*_defined_in(found))
            else:
                expected = "functions under @job or @cron, classes under @job_controller, Routers or Python modules"
                raise ConfigurationError("jobs", found, expected)

    def _add(self, declared: AnyJob) -> None:
        if declared.injected:
            try:
                self._injections[declared.name] = Injection(declared.injected)
            except FastAPIError as error:
                raise WorkerRegistrationError(declared.name, f"FastAPI cannot fill its parameters: {error}") from error
        self.monque.add(declared)
        if declared.cron is not None:
            self._crons[declared.name] = declared.cron

    # --- living -----------------------------------------------------------------------------------------------------

    def lifespan(self, app: FastAPI) -> AbstractAsyncContextManager[None]:
        """The lifespan of an application that has no other: `FastAPI(lifespan=module.lifespan)`.

        Args:
            app: The application.

        Returns:
            Connected, and at work unless `work=False`, within; stopped, gracefully, and closed when it is left.

        Raises:
            ConfigurationError: The connection is of no kind that is known, or the module is at work already.
            ConnectionError: The database cannot be reached.
        """
        return self._living(app, None)

    def wrap(self, lifespan: Callable[[Any], Any]) -> Lifespan:
        """A lifespan of the application's own, and the module's within: `FastAPI(lifespan=module.wrap(lifespan))`.

        Args:
            lifespan: The application's own. It begins first, so it can connect what the module uses, and ends last.

        Returns:
            The lifespan to give to FastAPI; what the application's own yields is the state of requests and runs.

        Example:
            >>> @asynccontextmanager
            ... async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
            ...     print("before the first job")
            ...     yield
            ...     print("after the last one")
            >>> module = MonqueModule("mongodb://localhost/app")
            >>> app = FastAPI(lifespan=module.wrap(lifespan))
        """
        own: Lifespan = asynccontextmanager(lifespan) if inspect.isasyncgenfunction(lifespan) else lifespan

        @asynccontextmanager
        async def wrapped(app: FastAPI) -> AsyncGenerator[State]:
            async with own(app) as state, self._living(app, state):
                yield state

        self._start = wrapped
        return wrapped

    def install(self, app: FastAPI) -> None:
        """Have the module live within the lifespan that an application has already, whatever that is.

        Args:
            app: The application.

        Example:
            >>> app = FastAPI()
            >>> module = MonqueModule("mongodb://localhost/app")
            >>> module.install(app)
        """
        app.router.lifespan_context = cast("Any", self.wrap(app.router.lifespan_context))

        @asynccontextmanager
        async def start(_: FastAPI) -> AsyncGenerator[None]:
            async with app.router.lifespan_context(app):
                yield

        self._start = start

    async def run(self) -> None:
        """Work without a web server until SIGTERM or SIGINT, then stop; for processes of their own.

        The lifespan of the application is run as its server would. The module works, also with `work=False`; others in
        the same application only produce.

        Raises:
            ConfigurationError: As for `lifespan`.
            ConnectionError: The database cannot be reached.
        """
        token = _working_for.set(self)
        try:
            async with self._start(FastAPI()):
                await self.monque.run()
        finally:
            _working_for.reset(token)

    @property
    def is_alive(self) -> bool:
        """Whether the lifespan of an application has begun, and not ended."""
        return self._app is not None

    @asynccontextmanager
    async def _living(self, app: FastAPI, state: State | None) -> AsyncGenerator[None]:
        if self.is_alive:
            raise ConfigurationError(
                "app", app, "one application at a time; this module is at work in another lifespan"
            )
        self._app, self._state = app, state or {}
        modules: list[MonqueModule] = getattr(app.state, MODULES, [])
        setattr(app.state, MODULES, [*modules, self])
        try:
            async with self.monque:
                await self._begin()
                yield
        finally:
            setattr(app.state, MODULES, [module for module in getattr(app.state, MODULES) if module is not self])
            self._app = None

    async def _begin(self) -> None:
        working_for = _working_for.get()
        if self._work if working_for is None else working_for is self:
            await self._schedule()
        if self._work and working_for is None:
            await self.monque.start()

    async def _schedule(self) -> None:
        """See to it that there is one job for each cron job that is declared, with the expression of now."""
        for name, cron in self._crons.items():
            key = f"declared:{name}"
            await self.monque.schedule(cron.expression, name, timezone=cron.timezone, unique_key=key)

    # --- connecting -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[Native]:
        async with self._given() as connection, open_native(connection) as native:
            yield native

    @asynccontextmanager
    async def _given(self) -> AsyncGenerator[object]:
        if self._dependency is not None:
            async with self._provided(self._dependency) as provided:
                yield provided
        else:
            yield self._connection if self._factory is None else await made_by(self._factory)

    @asynccontextmanager
    async def _provided(self, dependency: Callable[..., object]) -> AsyncGenerator[object]:
        """What a dependency provides, from a call that is made now and ends when this is left."""
        provided: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        is_over = asyncio.Event()

        async def hold(values: dict[str, Any]) -> None:
            provided.set_result(values["connection"])
            await is_over.wait()

        asked = Parameter("connection", Parameter.KEYWORD_ONLY, annotation=Annotated[Any, Depends(dependency)])
        call = asyncio.create_task(Injection([asked]).call(hold, self._surroundings()))
        try:
            await asyncio.wait([call, provided], return_when=asyncio.FIRST_COMPLETED)
            if provided.done():
                yield provided.result()
        finally:
            is_over.set()
            await call  # or say why it has provided nothing

    # --- running ----------------------------------------------------------------------------------------------------

    def get_monque(self) -> Monque:
        """This module's Monque, as a dependency, for applications with several: `Depends(module.get_monque)`."""
        return self.monque

    @asynccontextmanager
    async def _around(self, job: Job[Any]) -> AsyncGenerator[None]:  # noqa: ARG002  as Monque calls it
        token = runner.set(self._run)
        try:
            yield
        finally:
            runner.reset(token)

    async def _run(self, declared: AnyJob, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        job = current_job()

        async def function(values: dict[str, Any]) -> object:
            return await declared.run(args, kwargs, values)

        where = self._surroundings()
        async with request_scope(where.app, job, self.monque) as more:
            state = {**where.state, **more}
            known = {MONQUE: self.monque, JOB: job}
            return await self._injections[declared.name].call(function, Surroundings(where.app, state, known))

    def _surroundings(self) -> Surroundings:
        if self._app is None:
            raise ConfigurationError(
                "app", None, "a module whose lifespan has begun; it begins with that of an application"
            )
        return Surroundings(self._app, self._state, {})


def _check_one(given: dict[str, object]) -> None:
    if len(given) != 1:
        came = " and ".join(given) or "nothing"
        raise ConfigurationError("connection", came, "one of connection, factory and dependency")
    for name in given.keys() & {"factory", "dependency"}:
        if not callable(given[name]):
            raise ConfigurationError(name, given[name], "a function")


def _defined_in(module: ModuleType) -> list[object]:
    """The jobs that are defined in a Python module, and not those that it imports."""
    return [value for value in vars(module).values() if _is_job(value) and value.__module__ == module.__name__]


def _is_job(value: object) -> bool:
    return isinstance(value, DeclaredJob) or (isinstance(value, type) and JOBS in vars(value))
