"""A handle on a job that was enqueued: to wait for what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from monque.errors import JobMissingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bson import ObjectId

    from monque.job import Job
    from monque.options import Duration

__all__ = ["JobHandle"]

R_co = TypeVar("R_co", covariant=True)


class Store(Protocol):
    """Where jobs are found: a `Jobs`."""

    async def get(self, job_id: ObjectId, /) -> Job[Any] | None:
        """The job as it is now."""

    async def result(self, job_id: ObjectId, /, timeout: Duration) -> Any:  # noqa: ANN401  see there
        """Its result, once there is one."""


class JobHandle(Generic[R_co]):
    """A job that was enqueued, with what comes of it: what `worker.enqueue(...)` gives.

    Attributes:
        job: The job, as it was when it was enqueued, or refreshed last.

    Example:
        >>> import asyncio
        >>> from monque import Monque
        >>> monque = Monque()
        >>> @monque.worker("add", store_result=True)
        ... async def add(one: int, other: int) -> int:
        ...     return one + other
        >>> async def main() -> None:
        ...     async with monque:
        ...         await monque.start()
        ...         handle = await add.enqueue(1, 2)
        ...         print(await handle.result())
        >>> asyncio.run(main())
        3
    """

    def __init__(self, job: Job[Any], jobs: Store, load: Callable[[Any], Any]) -> None:
        self.job = job
        self._jobs = jobs
        self._load = load

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override is newer
        return f"<JobHandle {self.job.name!r} {self.id}>"

    @property
    def id(self) -> ObjectId:
        """The job's id."""
        return self.job.id

    async def result(self, timeout: Duration = 60) -> R_co:
        """What the function returned, once it has: stored by the worker, and checked against what it says it returns.

        Args:
            timeout: For how long to wait, as a timedelta or in seconds.

        Returns:
            The result; None if the worker stores none.

        Raises:
            JobFailedError: The job has failed for good.
            JobCancelledError: It was cancelled.
            JobMissingError: There is no such job any more.
            ResultError: It has completed, but its result could not be stored.
            ResultTimeoutError: It has not ended in time.
            InvalidArgumentError: `timeout` is no length of time.
            InvalidPayloadError: What is stored is not what the function says it returns.
        """
        stored = await self._jobs.result(self.id, timeout=timeout)
        return cast("R_co", None if stored is None else self._load(stored))

    async def refresh(self) -> Job[Any]:
        """Read the job anew.

        Returns:
            The job as it is now, in `job`, too.

        Raises:
            JobMissingError: There is no such job any more.
            JobDocumentError: What is stored cannot be read as a job.
            ConnectionError: The database did not answer.
        """
        job = await self._jobs.get(self.id)
        if job is None:
            raise JobMissingError(self.id)
        self.job = job
        return job
