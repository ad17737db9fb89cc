"""Jobs for people: to look at, and to change by hand, one or many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bson import ObjectId
from pymongo import DeleteMany, ReturnDocument, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, DuplicateKeyError

from monque import _transitions as transitions
from monque import events as ev
from monque._intake import check_run_at
from monque._settlement import after
from monque._store.backlog import Backlog, backlog
from monque._store.errors import driver_errors, is_key_taken
from monque._store.filters import Document, JobFilter, Scan, check_filter, job_names, object_id, scans
from monque.errors import (
    ConnectionError,
    InvalidArgumentError,
    JobStateError,
    MonqueError,
    UniqueKeyConflictError,
)
from monque.job import Job, JobStatus, from_document
from monque.options import Duration, Retention, is_duration, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from pymongo.asynchronous.collection import AsyncCollection

    from monque._clock import ServerClock
    from monque._transitions import Transition

__all__ = ["BulkResult", "Jobs"]

# Told of jobs that may be due: their name, or None for any, and when.
Wake = Callable[[Iterable[tuple[str | None, "datetime"]]], None]

# Waits for so many seconds for the end of a job, and gives its result.
Wait = Callable[["ObjectId", float], Awaitable[Any]]

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What became of many jobs.

    Attributes:
        count: How many were changed.
        errors: Which ones could not be, and why. Those whose status does not allow it are not among them.
    """

    count: int
    errors: dict[ObjectId, MonqueError] = field(default_factory=dict[ObjectId, MonqueError])


class Jobs:
    """The jobs of a collection, for people to look at and to change; `Monque.jobs` is one.

    Each change says which status it starts from, in the same write, so that it cannot get in the way of an instance
    that claims or completes the job at this very moment.
    """

    def __init__(
        self,
        collection: AsyncCollection[Document],
        clock: ServerClock,
        events: ev.Events,
        wake: Wake,
        wait: Wait,
        retention: Retention = Retention(),  # noqa: B008  it is frozen
    ) -> None:
        # Text that is no valid UTF-8 is shown as well as it can be: somebody wants to see, or get rid of, just that.
        lenient = collection.codec_options.with_options(unicode_decode_error_handler="replace")
        self._jobs = collection.with_options(codec_options=lenient)
        self._clock = clock
        self._events = events
        self._wake = wake
        self._retention = retention
        self._wait = wait

    # --- one --------------------------------------------------------------------------------------------------------

    async def get(self, job_id: ObjectId | str) -> Job[Any] | None:
        """The job as it is now.

        Args:
            job_id: Its id, as an ObjectId or its 24 hexadecimal digits.

        Returns:
            The job, or None if there is none.

        Raises:
            InvalidJobIdentifierError: `job_id` is no id.
            JobDocumentError: What is stored under the id cannot be read as a job.
            ConnectionError: The database did not answer.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         enqueued = await monque.enqueue("send-email")
            ...         job = await monque.jobs.get(str(enqueued.id))
            ...         print(job == enqueued)
            >>> asyncio.run(main())
            True
        """
        with driver_errors("get the job"):
            document = await self._jobs.find_one({"_id": object_id(job_id)})
        return None if document is None else from_document(document)

    async def result(self, job_id: ObjectId | str, timeout: Duration = 60) -> Any:  # noqa: ANN401
        """Wait for a job to end, and give what its handler returned, if its worker stores that.

        Any number may wait at once, in handlers, too: there is one command for all of them at a time.

        Args:
            job_id: Its id, as an ObjectId or its 24 hexadecimal digits.
            timeout: For how long to wait, as a timedelta or in seconds.

        Returns:
            The result as it is stored; None if there is none.

        Raises:
            JobFailedError: It has failed for good.
            JobCancelledError: It was cancelled.
            JobMissingError: There is no such job, or none any more.
            ResultError: It has completed, but its result could not be stored.
            ResultTimeoutError: It has not ended in time. So it is with a recurring job, which never ends.
            InvalidJobIdentifierError: `job_id` is no id.
            InvalidArgumentError: `timeout` is no length of time.
            JobDocumentError: It has ended, but cannot be read as a job.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> monque = Monque()
            >>> @monque.worker("count", store_result=True)
            ... async def count(job: Job[list[int]]) -> int:
            ...     return len(job.data)
            >>> async def main() -> None:
            ...     async with monque:
            ...         await monque.start()
            ...         job = await monque.enqueue("count", [1, 2, 3])
            ...         print(await monque.jobs.result(job.id))
            >>> asyncio.run(main())
            3
        """
        job_id = object_id(job_id)
        if not is_duration(timeout) or seconds(timeout) < 0:
            raise InvalidArgumentError("timeout", timeout, "a timedelta or a number of seconds, 0 to 1,000 years")
        return await self._wait(job_id, seconds(timeout))

    async def backlog(self) -> list[Backlog]:
        """What waits and what runs, by job name: for autoscaling, metrics and the like.

        The server takes at most 2 seconds over it. Names of which nothing is pending or processing are left out, and
        so are the smaller ones beyond 1,000.

        Returns:
            One for each name, in the order of the names.

        Raises:
            ConnectionError: The database did not answer, or not in time.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.enqueue("tidy-up", delay=60)
            ...         print([(one.pending, one.due) for one in await monque.jobs.backlog() if one.name == "tidy-up"])
            >>> asyncio.run(main())
            [(1, 0)]
        """
        with driver_errors("count the jobs"):
            return await backlog(self._jobs)

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
            job = await self._change(self._cancel([object_id(job_id)]), "cancel")
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
        change = transitions.reschedule([object_id(job_id)], run_at=check_run_at(run_at))
        job = await self._change(change, "reschedule")
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

    def _cancel(self, jobs: Sequence[ObjectId]) -> Transition:
        return transitions.with_expiry(transitions.cancel(jobs), after(self._clock.now(), self._retention.cancelled))

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
                    raise _conflict(job_id, error.details["keyValue"]) from error
                if document is not None:
                    return from_document(document)
                if not await self._may(job_id, action, _allowed(change)):
                    return None

    async def _may(self, job_id: ObjectId, action: str, allowed: Sequence[JobStatus]) -> bool:
        """Whether it is worth trying (again); False if there is no such job."""
        job = await self.get(job_id)
        if job is not None and job.status not in allowed:
            raise JobStateError(job_id, job.status, action, " or ".join(allowed))
        return job is not None

    # --- many -------------------------------------------------------------------------------------------------------

    async def cancel_many(self, filter: JobFilter, *, all: bool = False) -> BulkResult:  # noqa: A002  what it is
        """Cancel those of the jobs that are pending or processing; see `cancel`.

        Args:
            filter: Which jobs.
            all: Has to be said if the filter is empty and all jobs are meant.

        Returns:
            How many were cancelled.

        Raises:
            InvalidArgumentError: The filter is empty and `all` was not said, or it is no filter.
            ConnectionError: The database did not confirm the change; some may be cancelled.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.enqueue_many([("resize", {"page": 1}), ("resize", {"page": 2})])
            ...         result = await monque.jobs.cancel_many(JobFilter(name="resize"))
            ...         print(result.count)
            >>> asyncio.run(main())
            2
        """
        check_filter(filter, all=all)
        change = self._cancel([])
        with driver_errors("cancel the jobs"):
            count = await self._update_all(scans(filter, _allowed(change)), change.update)
        if count:
            self._events.emit(ev.JobsCancelledEvent, count)
        return BulkResult(count)

    async def retry_many(self, filter: JobFilter, *, all: bool = False) -> BulkResult:  # noqa: A002  what it is
        """Retry those of the jobs that are failed or cancelled; see `retry`.

        Args:
            filter: Which jobs.
            all: Has to be said if the filter is empty and all jobs are meant.

        Returns:
            How many are pending now, and under `errors` those that are not, because another job has their unique key.

        Raises:
            InvalidArgumentError: The filter is empty and `all` was not said, or it is no filter.
            ConnectionError: The database did not confirm the change; some may be pending now.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.enqueue_many([("resize", {"page": 1}), ("resize", {"page": 2})])
            ...         await monque.jobs.cancel_many(JobFilter(name="resize"))
            ...         result = await monque.jobs.retry_many(JobFilter(name="resize", status=JobStatus.CANCELLED))
            ...         print(result)
            >>> asyncio.run(main())
            BulkResult(count=2, errors={})
        """
        check_filter(filter, all=all)
        now = self._clock.now()
        change = transitions.revive([], now=now)
        found = scans(filter, _allowed(change))
        errors: dict[ObjectId, MonqueError] = {}
        with driver_errors("retry the jobs"):
            count = await self._update_all(
                [scan.also({"uniqueKey": {"$exists": False}}) for scan in found], change.update
            )
            for scan in found:
                count += await self._revive_one_by_one(scan.also({"uniqueKey": {"$exists": True}}), now, errors)
        if count:
            self._events.emit(ev.JobsRetriedEvent, count)
            names = job_names(filter)
            self._wake([(None, now)] if names is None else [(name, now) for name in names])
        return BulkResult(count, errors)

    async def delete_many(self, filter: JobFilter, *, all: bool = False) -> BulkResult:  # noqa: A002  what it is
        """Delete those of the jobs that are not processing.

        Args:
            filter: Which jobs.
            all: Has to be said if the filter is empty and all jobs are meant.

        Returns:
            How many are gone.

        Raises:
            InvalidArgumentError: The filter is empty and `all` was not said, or it is no filter.
            ConnectionError: The database did not confirm the change; some may be gone.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         job = await monque.enqueue("resize", {"page": 1})
            ...         result = await monque.jobs.delete_many(JobFilter(ids=[job.id]))
            ...         print(result.count)
            >>> asyncio.run(main())
            1
        """
        check_filter(filter, all=all)
        found = scans(filter, transitions.DELETABLE)
        with driver_errors("delete the jobs"):
            count = 0
            if found:
                deletes = [DeleteMany(scan.query, hint=scan.index) for scan in found]
                count = (await self._jobs.bulk_write(deletes, ordered=False)).deleted_count
        if count:
            self._events.emit(ev.JobsDeletedEvent, count)
        return BulkResult(count)

    async def _update_all(self, found: Sequence[Scan], update: Document) -> int:
        if not found:
            return 0
        updates = [UpdateMany(scan.query, update, hint=scan.index) for scan in found]
        return (await self._jobs.bulk_write(updates, ordered=False)).modified_count

    async def _revive_one_by_one(self, scan: Scan, now: datetime, errors: dict[ObjectId, MonqueError]) -> int:
        """Revive jobs with unique keys: an `update_many` would stop at the first whose key is taken."""
        count = 0
        cursor = self._jobs.find(scan.query, {"name": 1, "uniqueKey": 1}, hint=scan.index)
        while rows := await cursor.to_list(_BATCH):
            changes = [transitions.revive([row["_id"]], now=now) for row in rows]
            updates = [UpdateOne(change.filter, change.update) for change in changes]
            try:
                count += (await self._jobs.bulk_write(updates, ordered=False)).modified_count
            except BulkWriteError as error:
                if error.details["writeConcernErrors"]:
                    raise
                count += error.details["nModified"]
                for failure in error.details["writeErrors"]:
                    row = rows[int(failure["index"])]
                    errors[row["_id"]] = _refusal(row, failure)
        return count


def _allowed(change: Transition) -> list[JobStatus]:
    return [JobStatus(status) for status in change.filter["status"]["$in"]]


def _refusal(row: Document, failure: Document) -> MonqueError:
    if is_key_taken(failure):
        return _conflict(row["_id"], row)
    return ConnectionError(f"cannot retry job {row['_id']}: {failure['errmsg']}")


def _conflict(job_id: ObjectId, key: Mapping[str, Any]) -> UniqueKeyConflictError:
    problem = f"cannot retry job {job_id} while another one has it; wait for that one, or cancel it first"
    return UniqueKeyConflictError(job_id, str(key.get("name")), str(key.get("uniqueKey")), problem)
