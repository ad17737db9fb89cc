"""Changing one job by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from monque import _transitions as transitions
from monque import events as ev
from monque._intake import check_run_at
from monque._store.core import allowed
from monque._store.errors import driver_errors, is_key_taken, key_conflict
from monque._store.filters import object_id
from monque._store.looking import Looking
from monque.errors import JobStateError, MonqueError
from monque.job import Job, JobStatus, from_document

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bson import ObjectId

    from monque._store.filters import Document
    from monque._transitions import Transition


class ChangingOne(Looking):
    """What can be done with one job."""

    async def cancel(self, job_id: ObjectId | str) -> Job[Any] | None:
        """Keep a job from running, or from going on running.

        The instance that runs it notices within a third of the lease, cancels its handler, and reports `job:lost`.

        Args:
            job_id: Its id, as an ObjectId or its 24 hexadecimal digits.

        Returns:
            The job as it is now, also if it was cancelled before; None if there is none.

        Raises:
            JobStateError: It has completed or failed.
            InvalidJobIdentifierError: `job_id` is no id.
            JobDocumentError: It was cancelled, but cannot be read as a job.
            ConnectionError: The database did not confirm the change.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         enqueued = await monque.enqueue("send-email", delay=60)
            ...         job = await monque.jobs.cancel(enqueued.id)
            ...         print(job and job.status)
            >>> asyncio.run(main())
            cancelled
        """
        try:
            job = await self._change(self._cancellation([object_id(job_id)]), "cancel")
        except JobStateError as error:
            if error.current_status is not JobStatus.CANCELLED:
                raise
            return await self.get(job_id)
        if job is not None:
            self._events.emit(ev.JobCancelledEvent, job)
        return job

    async def retry(self, job_id: ObjectId | str) -> Job[Any] | None:
        """Let a failed or cancelled job run after all: at once, and with all its attempts.

        Args:
            job_id: Its id, as an ObjectId or its 24 hexadecimal digits.

        Returns:
            The job as it is now; None if there is none.

        Raises:
            JobStateError: It is neither failed nor cancelled.
            UniqueKeyConflictError: Another job has its unique key now.
            InvalidJobIdentifierError: `job_id` is no id.
            JobDocumentError: It is pending now, but cannot be read as a job.
            ConnectionError: The database did not confirm the change.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         enqueued = await monque.enqueue("send-email")
            ...         await monque.jobs.cancel(enqueued.id)
            ...         job = await monque.jobs.retry(enqueued.id)
            ...         print(job and job.status)
            >>> asyncio.run(main())
            pending
        """
        job = await self._change(transitions.revive([object_id(job_id)], now=self._clock.now()), "retry")
        if job is not None:
            self._events.emit(ev.JobRetriedEvent, job)
            self._wake([(job.name, job.next_run_at)])
        return job

    async def reschedule(self, job_id: ObjectId | str, run_at: datetime) -> Job[Any] | None:
        """Let a pending job run at another time.

        A recurring job moves for its next run only; those after it follow from its schedule.

        Args:
            job_id: Its id, as an ObjectId or its 24 hexadecimal digits.
            run_at: When it is due now, as an aware datetime; a past one is due at once.

        Returns:
            The job as it is now; None if there is none.

        Raises:
            JobStateError: It is not pending.
            InvalidArgumentError: `run_at` is no aware datetime.
            InvalidJobIdentifierError: `job_id` is no id.
            JobDocumentError: It was rescheduled, but cannot be read as a job.
            ConnectionError: The database did not confirm the change.

        Example:
            >>> import asyncio
            >>> from datetime import UTC, datetime
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         enqueued = await monque.enqueue("send-email")
            ...         job = await monque.jobs.reschedule(enqueued.id, datetime(2100, 1, 1, tzinfo=UTC))
            ...         print(job and job.next_run_at.year)
            >>> asyncio.run(main())
            2100
        """
        return await self._reschedule(job_id, check_run_at(run_at), "reschedule")

    async def run_now(self, job_id: ObjectId | str) -> Job[Any] | None:
        """Let a pending job run at once, whenever it was due; `reschedule` to the present.

        Args:
            job_id: Its id, as an ObjectId or its 24 hexadecimal digits.

        Returns:
            The job as it is now; None if there is none.

        Raises:
            JobStateError: It is not pending; `retry` is for what has failed or was cancelled.
            InvalidJobIdentifierError: `job_id` is no id.
            JobDocumentError: It is due now, but cannot be read as a job.
            ConnectionError: The database did not confirm the change.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         enqueued = await monque.enqueue("report", delay=3600)
            ...         job = await monque.jobs.run_now(enqueued.id)
            ...         print(job and job.next_run_at < enqueued.next_run_at)
            >>> asyncio.run(main())
            True
        """
        return await self._reschedule(job_id, self._clock.now(), "run_now")

    async def _reschedule(self, job_id: ObjectId | str, run_at: datetime, action: str) -> Job[Any] | None:
        job = await self._change(transitions.reschedule([object_id(job_id)], run_at=run_at), action)
        if job is not None:
            self._wake([(job.name, job.next_run_at)])
        return job

    async def delete(self, job_id: ObjectId | str) -> bool:
        """Remove a job that is not running; cancel it first if it is.

        What cannot be read as a job is removed, too; the event is then `jobs:deleted`, with a count of 1.

        Args:
            job_id: Its id, as an ObjectId or its 24 hexadecimal digits.

        Returns:
            Whether there was one.

        Raises:
            JobStateError: It is processing.
            InvalidJobIdentifierError: `job_id` is no id.
            ConnectionError: The database did not confirm the change.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         job = await monque.enqueue("send-email")
            ...         print(await monque.jobs.delete(job.id), await monque.jobs.delete(job.id))
            >>> asyncio.run(main())
            True False
        """
        job_id = object_id(job_id)
        with driver_errors("delete the job"):
            while (document := await self._jobs.find_one_and_delete(transitions.delete([job_id]))) is None:
                if not await self._may(job_id, "delete", transitions.DELETABLE):
                    return False
        self._tell_of_deleted(document)
        return True

    def _tell_of_deleted(self, document: Document) -> None:
        try:
            job = from_document(document)
        except MonqueError:
            self._events.emit(ev.JobsDeletedEvent, 1)
        else:
            self._events.emit(ev.JobDeletedEvent, job)

    async def _change(self, change: Transition, action: str) -> Job[Any] | None:
        """Make a change of one job and return the job as it is then; None if there is none."""
        (job_id,) = change.jobs
        with driver_errors(f"{action} the job"):
            while True:
                try:
                    document = await self._jobs.find_one_and_update(
                        change.filter, change.update, return_document=ReturnDocument.AFTER
                    )
                except DuplicateKeyError as error:
                    if error.details is None or not is_key_taken(error.details):
                        raise
                    raise key_conflict(job_id, error.details["keyValue"]) from error
                if document is not None:
                    return from_document(document)
                if not await self._may(job_id, action, allowed(change)):
                    return None

    async def _may(self, job_id: ObjectId, action: str, possible: Sequence[JobStatus]) -> bool:
        """Whether it is worth trying (again); False if there is no such job."""
        job = await self.get(job_id)
        if job is not None and job.status not in possible:
            raise JobStateError(job_id, job.status, action, " or ".join(possible))
        return job is not None
