"""Waiting for jobs to end: one look at the database for all who wait."""

from __future__ import annotations

import asyncio
import time
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from monque._waiting import happens_within
from monque.errors import (
    ConnectionError,
    JobCancelledError,
    JobFailedError,
    JobMissingError,
    ResultError,
    ResultTimeoutError,
)
from monque.job import JobStatus, from_document

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from bson import ObjectId

    from monque import events as ev
    from monque.job import Job

    Document = dict[str, Any]
    # Of those of these jobs that exist: their status, and the document if they have ended.
    Look = Callable[[list[ObjectId]], Awaitable[Mapping[ObjectId, tuple[str, Document | None]]]]

# Seconds from one look to the next.
_SHORTEST, _LONGEST = 0.02, 1.0
_GROWTH = 1.5
# A look takes those along whose time has not quite come, by this part of their pause: so they come together.
_SLACK = 0.5
_HEARD_OF = ("job:complete", "job:fail", "job:cancelled", "job:deleted")
_HEARD_OF_MANY = ("jobs:cancelled", "jobs:deleted")


@dataclass(eq=False, slots=True)
class _Wait:
    """A job that somebody waits for.

    Attributes:
        due: When to look at it again, on the loop's clock.
        pause: How long it was left alone last.
        status: What it was when it was looked at last, if it was.
        futures: Those who wait.
    """

    due: float
    pause: float = _SHORTEST
    status: str | None = None
    futures: set[asyncio.Future[Document | None]] = field(default_factory=set[Any])


class Waiting:
    """Those who wait for jobs to end.

    There is one command for all of them at a time: soon after they have begun to wait, then less and less often, but
    at once when an instance in this process says that something has ended. While nobody waits there is nothing.
    """

    def __init__(self, look: Look, events: ev.Events) -> None:
        self._look = look
        self._events = events
        self._waits: dict[ObjectId, _Wait] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._trouble: Exception | None = None

    async def result(self, job_id: ObjectId, timeout: float) -> Any:  # noqa: ANN401  what a handler returned
        """The result of a job, as it is stored, once there is one.

        Raises:
            JobFailedError: It has failed.
            JobCancelledError: It was cancelled.
            JobMissingError: There is no such job, or none any more.
            ResultError: It has completed, but its result could not be stored.
            ResultTimeoutError: It has not ended in time.
        """
        document = await self._end(job_id, timeout)
        if document is None:
            raise JobMissingError(job_id)
        return _result(from_document(document))

    async def close(self) -> None:
        """Let nobody wait any longer."""
        for wait in self._waits.values():
            for future in wait.futures:
                future.set_exception(ConnectionError("closed while a result was waited for"))
        self._waits.clear()
        self._news.set()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _end(self, job_id: ObjectId, timeout: float) -> Document | None:
        future: asyncio.Future[Document | None] = asyncio.get_running_loop().create_future()
        wait = self._join(job_id, future)
        try:
            await asyncio.wait([future], timeout=timeout)
        finally:
            self._leave(job_id, wait, future)
        if not future.done():
            raise ResultTimeoutError(job_id, timeout, wait.status) from (None if wait.status else self._trouble)
        return future.result()

    def _join(self, job_id: ObjectId, future: asyncio.Future[Document | None]) -> _Wait:
        wait = self._waits.setdefault(job_id, _Wait(time.monotonic()))
        wait.due, wait.pause = time.monotonic(), _SHORTEST
        wait.futures.add(future)
        self._news.set()
        if self._task is None:
            # In a context of its own: what holds for whoever is the first to wait is nothing to the others.
            self._task = asyncio.get_running_loop().create_task(self._keep_looking(), context=Context())
        return wait

    def _leave(self, job_id: ObjectId, wait: _Wait, future: asyncio.Future[Document | None]) -> None:
        wait.futures.discard(future)
        if not wait.futures and self._waits.get(job_id) is wait:
            del self._waits[job_id]
            self._news.set()

    async def _keep_looking(self) -> None:
        self._listen()
        try:
            while self._waits:
                self._news.clear()
                due = self._due()
                if due:
                    await self._look_at(due)
                else:
                    first = min(wait.due for wait in self._waits.values())
                    await happens_within(self._news, first - time.monotonic())
        finally:
            self._task = None
            self._ignore()

    def _due(self) -> list[ObjectId]:
        now = time.monotonic()
        if all(wait.due > now for wait in self._waits.values()):
            return []
        return [job_id for job_id, wait in self._waits.items() if wait.due <= now + wait.pause * _SLACK]

    async def _look_at(self, jobs: list[ObjectId]) -> None:
        for job_id in jobs:
            self._waits[job_id].due = float("inf")
        try:
            found = await self._look(jobs)
        except Exception as error:  # noqa: BLE001  whoever has no time left is told
            self._trouble = error
            found = None
        for job_id in jobs:
            wait = self._waits.get(job_id)
            if wait is not None:
                if found is not None:
                    self._tell(job_id, wait, *found.get(job_id, (None, None)))
                # Unless there was news of it meanwhile.
                if wait.due == float("inf"):
                    wait.due = time.monotonic() + wait.pause
                    wait.pause = min(wait.pause * _GROWTH, _LONGEST)

    def _tell(self, job_id: ObjectId, wait: _Wait, status: str | None, document: Document | None) -> None:
        wait.status = status
        if status is None or document is not None:
            del self._waits[job_id]
            for future in wait.futures:
                future.set_result(document)

    # --- what is heard of jobs in this process ----------------------------------------------------------------------

    def _listen(self) -> None:
        for name in _HEARD_OF:
            self._events.on(name, self._heard)
        for name in _HEARD_OF_MANY:
            self._events.on(name, self._heard_of_many)

    def _ignore(self) -> None:
        for name in _HEARD_OF:
            self._events.off(name, self._heard)
        for name in _HEARD_OF_MANY:
            self._events.off(name, self._heard_of_many)

    def _heard(self, event: ev.JobCompleteEvent | ev.JobFailEvent | ev.JobCancelledEvent | ev.JobDeletedEvent) -> None:
        wait = self._waits.get(event.job.id)
        if wait is not None:
            self._hasten([wait])

    def _heard_of_many(self, _: object) -> None:
        self._hasten(self._waits.values())

    def _hasten(self, waits: Iterable[_Wait]) -> None:
        for wait in waits:
            wait.due = 0
        self._news.set()


def _result(job: Job[Any]) -> Any:  # noqa: ANN401  what a handler returned
    if job.status is JobStatus.FAILED:
        raise JobFailedError(job)
    if job.status is JobStatus.CANCELLED:
        raise JobCancelledError(job)
    if job.result_error is not None:
        raise ResultError(job.id, job.result_error)
    return job.result
