"""Workers: handlers registered under the names of the jobs they run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from monque._names import check_job_name
from monque.errors import ConfigurationError, WorkerRegistrationError
from monque.job import Job
from monque.options import check_count

__all__ = ["Handler", "Worker"]

Handler = Callable[[Job[Any]], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A handler with its name and options.

    Attributes:
        name: The job name it serves.
        handler: The async function that runs a job.
        concurrency: How many of its jobs run at once in one instance; None for the instance's default.
    """

    name: str
    handler: Handler
    concurrency: int | None = None

    def __post_init__(self) -> None:
        check_job_name(self.name)
        if not _is_async(self.handler):
            raise WorkerRegistrationError(
                self.name,
                f"expected an async function of one job, got {self.handler!r}; "
                "write `async def` and hand blocking calls to asyncio.to_thread",
            )
        if self.concurrency is not None:
            try:
                check_count("concurrency", self.concurrency)
            except ConfigurationError as error:
                raise WorkerRegistrationError(self.name, str(error)) from None


def _is_async(handler: object) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if isinstance(handler, type):
        return False
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)  # noqa: B004  the method itself is wanted
    )


class Workers:
    """The workers of one `Monque`, by name."""

    def __init__(self) -> None:
        self._by_name: dict[str, Worker] = {}

    def add(self, worker: Worker, *, replace: bool) -> None:
        """Register `worker`; a name that is taken raises `WorkerRegistrationError` unless `replace`."""
        if worker.name in self._by_name and not replace:
            raise WorkerRegistrationError(
                worker.name, "there is a worker for this name already; pass replace=True to replace it"
            )
        self._by_name[worker.name] = worker

    def names(self) -> list[str]:
        """The names that have a worker."""
        return list(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Worker:
        return self._by_name[name]
