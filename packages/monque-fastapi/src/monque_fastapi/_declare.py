"""Declaring jobs: functions, and classes whose methods are jobs, that FastAPI fills the parameters of."""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from monque import Worker, WorkerRegistrationError, call_in_thread
from monque_fastapi._parameters import constructor, split

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from inspect import Parameter
    from typing import Self, Unpack

    from typing_extensions import override

    from monque.worker import WorkerOptions
else:

    def override(method: Any) -> Any:  # noqa: ANN401  any method
        return method


__all__ = ["Cron", "Declare", "DeclaredJob", "Runner", "cron", "job", "job_controller"]

P = ParamSpec("P")
P2 = ParamSpec("P2")
Q = ParamSpec("Q")
C = TypeVar("C")
K = TypeVar("K", bound=type)
R = TypeVar("R")
S = TypeVar("S")

# The jobs of a controller, in the class.
JOBS = "__monque_jobs__"


@dataclass(frozen=True, slots=True)
class Cron:
    """When a declared cron job runs.

    Attributes:
        expression: Five fields, six with seconds first, or `@daily` and the like.
        timezone: IANA name of the zone whose clock it is read on.
    """

    expression: str
    timezone: str


class Runner(Protocol):
    """Runs handlers with all that is injected into them: what a module is to the jobs it runs."""

    async def __call__(self, declared: AnyJob, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """Run the handler of a job, called with what is in its data."""


# Set around each run by the module that it takes place in.
runner: ContextVar[Runner] = ContextVar("monque_fastapi_runner")


class DeclaredJob(Worker[P, C, Q, R]):
    """A function or method that runs the jobs of a name: what `@job` and `@cron` make of it.

    It is a `monque.Worker`: it enqueues jobs of its name, with what is left of the parameters when FastAPI has filled
    its part. It can be called like the function itself, which then has to be given everything.

    Attributes:
        declared: The function itself.
        injected: The parameters that FastAPI fills.
        receiver: The controller whose method it is, if it is one.
        cron: When it is to be run again and again, if it is.

    Example:
        >>> from typing import Annotated
        >>> from fastapi import Depends
        >>> def get_greeting() -> str:
        ...     return "Hello"
        >>> @job("greet")
        ... def greet(name: str, greeting: Annotated[str, Depends(get_greeting)]) -> str:
        ...     return f"{greeting} {name}"
        >>> greet("Ada", "Good morning")
        'Good morning Ada'
        >>> greet.new(name="Ada").data
        {'name': 'Ada'}
    """

    declared: Callable[P, C]
    injected: tuple[Parameter, ...]
    receiver: type | None
    cron: Cron | None
    _place: str

    def __init__(
        self,
        name: str,
        function: Callable[P, C],
        /,
        *,
        receiver: type | None = None,
        cron: Cron | None = None,
        **options: Unpack[WorkerOptions],
    ) -> None:
        _check_function(name, function)
        parts = split(name, function, receiver=receiver)
        own = {"declared": function, "injected": parts.injected, "receiver": receiver, "cron": cron}
        vars(self).update(own, _place="loop")
        if parts.injected and not inspect.iscoroutinefunction(function):
            vars(self)["_place"] = _place(name, options.pop("run_in", None))
        call = self._filled(parts.payload) if parts.injected else function
        super().__init__(name, cast("Callable[P, C]", call), **options)

    @override
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        return self.declared(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(
        self: DeclaredJob[Concatenate[S, P2], C, Q, R], instance: S, owner: type | None = None, /
    ) -> Callable[P2, C]: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> object:
        return self if instance is None else functools.partial(self.declared, instance)  # type: ignore[arg-type]

    async def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], injected: dict[str, Any]) -> object:
        """Run the function as a handler, where it belongs.

        Args:
            args: What comes from the data of the job.
            kwargs: Likewise, by name.
            injected: What FastAPI has filled.

        Returns:
            What the function returned.
        """
        if self.receiver is not None:
            args = (injected.pop(self.injected[0].name), *args)
        function = cast("Callable[..., object]", self.declared)
        if self._place == "thread":
            return await call_in_thread(function, *args, **kwargs, **injected)
        returned = function(*args, **kwargs, **injected)
        return await returned if inspect.isawaitable(returned) else returned

    def _filled(self, payload: inspect.Signature) -> Callable[..., Coroutine[Any, Any, object]]:
        """The function as the engine calls it: with what is in the data of a job, the rest being filled in."""

        @functools.wraps(self.declared)
        async def filled(*args: Any, **kwargs: Any) -> object:  # noqa: ANN401  the data of the job
            run = runner.get(None)
            if run is None:
                raise WorkerRegistrationError(
                    self.name, "what its handler asks for comes from FastAPI, by way of a MonqueModule; give it to one"
                )
            return await run(self, args, kwargs)

        described: Any = filled
        described.__signature__ = payload
        return filled


AnyJob = DeclaredJob[..., Any, ..., Any]


class JobMethod:
    """A method that will be a job once its class is a controller."""

    def __init__(
        self, name: str | None, function: Callable[..., Any], cron: Cron | None, options: WorkerOptions
    ) -> None:
        self._name = name or function.__name__
        self._function = function
        self._cron = cron
        self._options = options

    def of(self, controller: type, prefix: str) -> AnyJob:
        """The job of a controller, which it can be enqueued by, too."""
        name = f"{prefix}.{self._name}" if prefix else self._name
        return DeclaredJob(name, self._function, receiver=controller, cron=self._cron, **self._options)


class Declare(Protocol):
    """Makes a job of a function or a method: what `@job("name")` is before it is applied."""

    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> DeclaredJob[P, Coroutine[Any, Any, R], ..., R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> DeclaredJob[P, R, ..., R]: ...
    def __call__(self, function: Callable[..., Any], /) -> AnyJob:
        """Make a job of a function."""
        ...


def job(name: str, /, **options: Unpack[WorkerOptions]) -> Declare:
    """Declare the function, or the method of a controller, that runs jobs of `name`.

    Its parameters are filled by FastAPI as those of a route are, where they ask for something: `Depends`, `Request`,
    `BackgroundTasks`, `Monque`, and `FromDishka`. The rest is the payload, from the data of the job, as in `monque`:
    either one `Job`, or what is in its data, by name; in the latter case the `Job` can be asked for, too.

    Args:
        name: The job name; for a method, the part of it after that of the controller and a dot.
        **options: See `monque.worker.WorkerOptions`.

    Returns:
        The decorator.

    Raises:
        WorkerRegistrationError: There is a parameter that nobody can fill, or an option makes no sense.

    Example:
        >>> from typing import Annotated
        >>> from fastapi import Depends
        >>> def get_sender() -> str:
        ...     return "office@example.org"
        >>> @job("send-email", concurrency=20)
        ... async def send_email(to: str, sender: Annotated[str, Depends(get_sender)]) -> None:
        ...     print(f"from {sender} to {to}")
        >>> from monque_fastapi import MonqueModule
        >>> module = MonqueModule("mongodb://localhost/app", jobs=[send_email])
    """
    return _declares(name, None, options)


def cron(
    expression: str, name: str | None = None, /, *, timezone: str = "UTC", **options: Unpack[WorkerOptions]
) -> Declare:
    """Declare the function, or the method of a controller, that runs again and again.

    There is one job for it, however many processes declare it: wherever a module begins to work, that job is made, or
    given the expression that is declared now. Its payload is empty, so what FastAPI does not fill needs a default.

    Args:
        expression: Five fields (`0 9 * * 1-5`), six with seconds first, or `@daily` and the like.
        name: The job name; that of the function unless something else is said. Otherwise as for `job`.
        timezone: IANA name of the zone whose clock the expression is read on.
        **options: See `monque.worker.WorkerOptions`.

    Returns:
        The decorator.

    Raises:
        WorkerRegistrationError: There is a parameter that nobody can fill, or an option makes no sense.

    Example:
        >>> from monque_fastapi import MonqueDep
        >>> @cron("0 9 * * 1-5", timezone="Europe/Berlin")
        ... async def report(monque: MonqueDep) -> None:
        ...     print("in", monque.instance_id)
        >>> report.name
        'report'
    """
    return _declares(name, Cron(expression, timezone), options)


def _declares(name: str | None, cron: Cron | None, options: WorkerOptions) -> Declare:
    def declare(function: Callable[..., Any], /) -> object:
        if _is_in_class(function):
            return JobMethod(name, function, cron, options)
        declared: AnyJob = DeclaredJob(name or function.__name__, function, cron=cron, **options)
        return declared

    return cast("Declare", declare)


def job_controller(prefix: str = "", /) -> Callable[[K], K]:
    """Make a class a controller: its methods under `@job` and `@cron` are jobs, each run with an instance of its own.

    FastAPI makes the instance as it makes any class that is a dependency: the parameters of its `__init__` are filled
    like those of a route, within the run.

    Args:
        prefix: What the names of its jobs begin with, before a dot.

    Returns:
        The decorator, which gives the class itself.

    Raises:
        WorkerRegistrationError: It cannot be made, has no jobs, or one of them cannot be declared.

    Example:
        >>> from typing import Annotated
        >>> from fastapi import Depends
        >>> def get_sender() -> str:
        ...     return "office@example.org"
        >>> @job_controller("email")
        ... class EmailJobs:
        ...     def __init__(self, sender: Annotated[str, Depends(get_sender)]) -> None:
        ...         self.sender = sender
        ...
        ...     @job("send")
        ...     async def send(self, to: str) -> None:
        ...         print(f"from {self.sender} to {to}")
        ...
        ...     @cron("0 9 * * *")
        ...     async def digest(self) -> None:
        ...         print("what came in")
        >>> EmailJobs.send.name, EmailJobs.digest.name
        ('email.send', 'email.digest')
    """

    def control(controller: K) -> K:
        made: Any = controller
        made.__signature__ = constructor(prefix or controller.__name__, controller)
        found = {name: inspect.getattr_static(controller, name) for name in dir(controller)}
        jobs = {name: method.of(controller, prefix) for name, method in found.items() if isinstance(method, JobMethod)}
        if not jobs:
            raise WorkerRegistrationError(
                prefix or controller.__name__, f"{controller!r} has no method under @job or @cron"
            )
        for name, declared in jobs.items():
            setattr(controller, name, declared)
        setattr(controller, JOBS, tuple(jobs.values()))
        return controller

    return control


def _check_function(name: str, function: object) -> None:
    """Refuse what the engine cannot see through what is put around it."""
    if not inspect.isroutine(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise WorkerRegistrationError(name, f"expected a function that returns, async or plain, got {function!r}")


def _place(name: str, run_in: str | None) -> str:
    """Where a plain function runs that something is injected into."""
    if run_in in {None, "thread", "loop"}:
        return run_in or "thread"
    raise WorkerRegistrationError(
        name,
        f"what FastAPI fills cannot be sent to another process; expected run_in 'thread' or 'loop', got {run_in!r}",
    )


def _is_in_class(function: object) -> bool:
    """Whether a function is being defined in the body of a class."""
    outside, _, _ = str(getattr(function, "__qualname__", "")).rpartition(".")
    return bool(outside) and not outside.endswith("<locals>")
