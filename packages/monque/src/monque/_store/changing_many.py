"""Changing many jobs by hand: all to which a filter applies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bson import ObjectId
from pymongo import DeleteMany, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError

from monque import _transitions as transitions
from monque import events as ev
from monque._intake import check_run_at
from monque._store.core import Core, allowed
from monque._store.errors import driver_errors, is_key_taken, key_conflict
from monque._store.filters import JobFilter, check_filter, job_names
from monque._store.plans import scans
from monque.errors import ConnectionError, MonqueError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from monque._store.filters import Document
    from monque._store.plans import Scan

__all__ = ["BulkResult"]

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


class ChangingMany(Core):
    """What can be done with many jobs."""

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
        change = self._cancellation([])
        with driver_errors("cancel the jobs"):
            count = await self._update_all(scans(filter, allowed(change)), change.update)
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
            >>> from monque import JobStatus, Monque
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
        found = scans(filter, allowed(change))
        errors: dict[ObjectId, MonqueError] = {}
        with driver_errors("retry the jobs"):
            count = await self._update_all(
                [scan.also({"uniqueKey": {"$exists": False}}) for scan in found], change.update
            )
            for scan in found:
                count += await self._revive_one_by_one(scan.also({"uniqueKey": {"$exists": True}}), now, errors)
        if count:
            self._events.emit(ev.JobsRetriedEvent, count)
            self._wake_for(filter, now)
        return BulkResult(count, errors)

    async def reschedule_many(self, filter: JobFilter, run_at: datetime, *, all: bool = False) -> BulkResult:  # noqa: A002
        """Let those of the jobs that are pending run at another time; see `reschedule`.

        Args:
            filter: Which jobs.
            run_at: When they are due now, as an aware datetime; a past one is due at once.
            all: Has to be said if the filter is empty and all jobs are meant.

        Returns:
            How many are due then.

        Raises:
            InvalidArgumentError: The filter is empty and `all` was not said, or an argument makes no sense.
            ConnectionError: The database did not confirm the change; some may be rescheduled.

        Example:
            >>> import asyncio
            >>> from datetime import UTC, datetime
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.enqueue_many([("resize", {"page": 1}), ("resize", {"page": 2})])
            ...         result = await monque.jobs.reschedule_many(
            ...             JobFilter(name="resize"), datetime(2100, 1, 1, tzinfo=UTC)
            ...         )
            ...         print(result.count)
            >>> asyncio.run(main())
            2
        """
        check_filter(filter, all=all)
        return await self._reschedule_many(filter, check_run_at(run_at))

    async def run_now_many(self, filter: JobFilter, *, all: bool = False) -> BulkResult:  # noqa: A002  what it is
        """Let those of the jobs that are pending run at once; see `run_now`.

        Args:
            filter: Which jobs.
            all: Has to be said if the filter is empty and all jobs are meant.

        Returns:
            How many are due now.

        Raises:
            InvalidArgumentError: The filter is empty and `all` was not said, or it is no filter.
            ConnectionError: The database did not confirm the change; some may be due now.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.enqueue("report", delay=3600, tags="monthly")
            ...         print((await monque.jobs.run_now_many(JobFilter(tags="monthly"))).count)
            >>> asyncio.run(main())
            1
        """
        check_filter(filter, all=all)
        return await self._reschedule_many(filter, self._clock.now())

    async def _reschedule_many(self, filter: JobFilter, run_at: datetime) -> BulkResult:  # noqa: A002  what it is
        change = transitions.reschedule([], run_at=run_at)
        with driver_errors("reschedule the jobs"):
            count = await self._update_all(scans(filter, allowed(change)), change.update)
        if count:
            self._wake_for(filter, run_at)
        return BulkResult(count)

    def _wake_for(self, filter: JobFilter, due: datetime) -> None:  # noqa: A002  what it is
        names = job_names(filter)
        self._wake([(None, due)] if names is None else [(name, due) for name in names])

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


def _refusal(row: Document, failure: Document) -> MonqueError:
    if is_key_taken(failure):
        return key_conflict(row["_id"], row)
    return ConnectionError(f"cannot retry job {row['_id']}: {failure['errmsg']}")
