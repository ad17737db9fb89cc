"""What can be said about a worker, and what makes no sense."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any, Literal, TypedDict, TypeVar, cast

from monque._names import check_job_name
from monque.errors import ConfigurationError, WorkerRegistrationError
from monque.options import Duration, Retention, Retry, Timeout, check_count

T = TypeVar("T")

RunIn = Literal["loop", "thread", "process"]

# As many records as a worker with `keep_logs=True` keeps of each job.
_USUAL_LOGS = 100


class WorkerOptions(TypedDict, total=False):
    """What can be said about a worker beside its name and its function.

    Attributes:
        concurrency: How many of its jobs run at once in one instance; None for the instance's default.
        aliases: Older names whose jobs it runs, too.
        run_in: Where the function runs: `"loop"`, `"thread"` or `"process"`. Async functions run on the event loop,
            plain ones in a thread unless something else is said.
        timeout: How long a run may take, as a `Timeout`, a timedelta or in seconds.
        retry: What happens after a failure; None for the instance's default.
        retention: How long its jobs are kept when they have ended; None for the instance's default.
        store_result: Whether what the function returns is stored in the job.
        keep_logs: How many log records of a run are kept in the job; True for 100.
        transaction: Whether a run is one transaction.
    """

    concurrency: int | None
    aliases: Iterable[str]
    run_in: RunIn | None
    timeout: Timeout | Duration | None
    retry: Retry | None
    retention: Retention | None
    store_result: bool
    keep_logs: bool | int
    transaction: bool


class OptionsReader:
    """Reads the options of one worker."""

    def __init__(self, name: str, function: object, *, is_async: bool) -> None:
        self._name = name
        self._function = function
        self._is_async = is_async

    def read(self, options: WorkerOptions) -> dict[str, Any]:
        """The options, each with its value."""
        for unknown in options.keys() - WorkerOptions.__annotations__.keys():
            raise self._refusal(f"there is no option {unknown!r}; there are {', '.join(WorkerOptions.__annotations__)}")
        try:
            values = self._values(options)
        except ConfigurationError as error:
            raise self._refusal(str(error)) from None
        if values["transaction"] and values["run_in"] != "loop":
            raise self._refusal(
                f"transaction=True is for async functions on the event loop, this one runs in a {values['run_in']}; "
                "make it an async function, or leave transaction out"
            )
        return values

    def _values(self, options: WorkerOptions) -> dict[str, Any]:
        concurrency = options.get("concurrency")
        if concurrency is not None:
            check_count("concurrency", concurrency)
        return {
            "concurrency": concurrency,
            "aliases": self._aliases(options.get("aliases", ())),
            "run_in": self._place(options.get("run_in")),
            "timeout": _timeout(options.get("timeout")),
            "retry": _a("retry", options.get("retry"), Retry, type(None)),
            "retention": _a("retention", options.get("retention"), Retention, type(None)),
            "store_result": _a("store_result", options.get("store_result", False), bool),
            "keep_logs": _keep_logs(options.get("keep_logs", 0)),
            "transaction": _a("transaction", options.get("transaction", False), bool),
        }

    def _aliases(self, aliases: object) -> tuple[str, ...]:
        if isinstance(aliases, str) or not isinstance(aliases, Iterable):
            raise ConfigurationError("aliases", aliases, "a list of names")
        names = tuple(cast("Iterable[str]", aliases))
        for name in names:
            check_job_name(name)
        if len({self._name, *names}) <= len(names):
            raise ConfigurationError("aliases", names, f"each name once, and not {self._name!r} itself")
        return names

    def _place(self, run_in: RunIn | None) -> RunIn:
        if run_in is None:
            return "loop" if self._is_async else "thread"
        if run_in not in {"loop", "thread", "process"}:
            raise ConfigurationError("run_in", run_in, "'loop', 'thread' or 'process'")
        if self._is_async and run_in != "loop":
            raise self._refusal(
                f"run_in={run_in!r} is for plain functions, and this one is async; write `def`, or leave run_in out"
            )
        if run_in == "process" and not _is_at_module_level(self._function):
            raise self._refusal(
                f"run_in='process' needs a function that another process can import, got {self._function!r}; "
                "define it with `def` at the level of a module"
            )
        return run_in

    def _refusal(self, problem: str) -> WorkerRegistrationError:
        return WorkerRegistrationError(self._name, problem)


def _is_at_module_level(function: object) -> bool:
    return inspect.isfunction(function) and function.__qualname__ == function.__name__ != "<lambda>"


def _timeout(timeout: Timeout | Duration | None) -> Timeout | None:
    return timeout if timeout is None or isinstance(timeout, Timeout) else Timeout(timeout)


def _keep_logs(number: object) -> int:
    if isinstance(number, bool):
        return _USUAL_LOGS if number else 0
    check_count("keep_logs", number, least=0)
    return cast("int", number)


def _a(option: str, value: T, *kinds: type) -> T:
    if not isinstance(value, kinds):
        raise ConfigurationError(option, value, f"a {kinds[0].__name__}")
    return value


def check_function(name: str, function: object) -> bool:
    """Whether a handler is async; refuse what is none."""
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    call = getattr(inner, "__call__", None)  # noqa: B004  the method itself is wanted
    if call is None or isinstance(inner, type):
        raise WorkerRegistrationError(name, f"expected a function, async or plain, got {function!r}")
    for candidate in (inner, call):
        if inspect.isasyncgenfunction(candidate) or inspect.isgeneratorfunction(candidate):
            raise WorkerRegistrationError(
                name, f"expected a function that returns, async or plain, got the generator {function!r}"
            )
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(call)
