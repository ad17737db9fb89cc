"""Looking at jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from monque._store.core import EVERYTHING, PATIENCE, Core
from monque._store.errors import Deadline, driver_errors
from monque._store.filters import JobFilter, check_filter, object_id
from monque._store.paging import (
    LARGEST_PAGE,
    JobOrder,
    Page,
    Place,
    check_limit,
    check_order,
    check_size,
    read_cursor,
    write_cursor,
)
from monque._store.reading import Slice, read
from monque.errors import InvalidArgumentError, JobDocumentError
from monque.job import Job, from_document
from monque.options import Duration, is_duration, seconds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from bson import ObjectId

    from monque._store.paging import Order
    from monque._store.reading import Reader

__all__ = ["Found"]

_CHUNK = 500


class Found:
    """The jobs that `Jobs.find` finds: to await, which gives a list, or to iterate over with `async for`.

    Attributes:
        unreadable: What was found so far, but cannot be read as a job: why, by id.
    """

    def __init__(self, reader: Reader, filter: JobFilter, order: Order, limit: int | None, timeout: Duration) -> None:  # noqa: A002
        self.unreadable: dict[ObjectId, JobDocumentError] = {}
        self._reader = reader
        self._filter = filter
        self._order = order
        self._limit = limit
        self._timeout = timeout

    def __await__(self) -> Generator[Any, None, list[Job[Any]]]:
        return self.all().__await__()

    async def all(self) -> list[Job[Any]]:
        """All of them, the same as awaiting it.

        Returns:
            The jobs.

        Raises:
            AggregationTimeoutError: It took too long to find the next ones.
            ConnectionError: The database did not answer.
        """
        return [job async for job in self]

    async def __aiter__(self) -> AsyncGenerator[Job[Any]]:
        self.unreadable.clear()
        place, missing = None, self._limit
        while True:
            number = _CHUNK if missing is None else min(missing, _CHUNK)
            deadline = Deadline(self._timeout)
            with deadline.errors("find the jobs"):
                rows, place = await self._reader.stretch(Slice(self._filter, self._order, number, place), deadline)
            jobs, unreadable = read(rows)
            self.unreadable.update(unreadable)
            for job in jobs:
                yield job
            missing = None if missing is None else missing - len(rows)
            if place is None or missing == 0:
                return


class Looking(Core):
    """What can be asked about jobs."""

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

    def find(
        self,
        filter: JobFilter = EVERYTHING,  # noqa: A002  what it is
        *,
        order: JobOrder | None = None,
        limit: int | None = None,
        timeout: Duration = PATIENCE,
    ) -> Found:
        """Find jobs: await it for a list of them, or iterate over it with `async for`, which reads them bit by bit.

        What cannot be read as a job is left out, and is in `unreadable` of what this returns. For what happens to jobs
        that change meanwhile, see `page`.

        Args:
            filter: Which jobs; all if it is left out.
            order: By which time they are sorted; with a minus the latest come first. `due` is for pending jobs alone,
                and `updated` for filters by status without pending jobs. None is what fits the filter: `due` for
                pending jobs, `-updated` for those that are processing or have ended, otherwise `-created`.
            limit: How many at most.
            timeout: How long one step may take, as a timedelta or in seconds. A step ends with 500 jobs, or when some
                5,000 were read of which fewer are wanted; where few of many are, there may be any number of steps.

        Returns:
            The jobs, to be awaited or iterated over; only that asks the database.

        Raises:
            InvalidArgumentError: An argument makes no sense.
            AggregationTimeoutError: It took longer than `timeout`.
            ConnectionError: The database did not answer.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.enqueue_many([("resize", {"page": 1}), ("resize", {"page": 2}), ("report", {})])
            ...         jobs = await monque.jobs.find(JobFilter(name="resize"), limit=10)
            ...         print(len(jobs))
            ...         async for job in monque.jobs.find(order="created"):
            ...             print(job.name)
            >>> asyncio.run(main())
            2
            resize
            resize
            report
        """
        check_filter(filter)
        Deadline(timeout)
        return Found(self._reader, filter, check_order(order, filter), check_limit(limit), timeout)

    async def page(
        self,
        filter: JobFilter = EVERYTHING,  # noqa: A002  what it is
        *,
        order: JobOrder | None = None,
        size: int = 50,
        cursor: str | None = None,
        timeout: Duration = PATIENCE,
    ) -> Page:
        """A page of jobs, from the beginning or from a cursor on, at the same cost however far that is.

        Going on by `next`, and back by `previous`, shows every job once that does not change meanwhile. Sorted by
        `created` jobs never move. Sorted by `updated` a job that changes moves to the end of the latest: with
        `-updated` it may be passed over that way, and it is on the first page then; with `updated` it comes again.
        Sorted by `due` a job that is retried, snoozed or rescheduled moves likewise. One that no longer matches the
        filter is gone.

        Where no index answers the whole filter, a page comes of some 5,000 jobs that are read at most: then it may
        have fewer jobs than `size`, or none, and `next` leads on all the same. Only where `next` is None is the end.

        Args:
            filter: Which jobs; all if it is left out.
            order: By which time they are sorted; with a minus the latest come first. `due` is for pending jobs alone,
                and `updated` for filters by status without pending jobs. None is what fits the filter: `due` for
                pending jobs, `-updated` for those that are processing or have ended, otherwise `-created`.
            size: How many at most, 1 to 1,000.
            cursor: `next` or `previous` of another page with this filter and order.
            timeout: How long it may take, as a timedelta or in seconds.

        Returns:
            The page.

        Raises:
            InvalidArgumentError: An argument makes no sense.
            InvalidCursorError: The cursor is none, or belongs to another filter or order.
            AggregationTimeoutError: It took longer than `timeout`.
            ConnectionError: The database did not answer.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.enqueue_many(("resize", {"page": page}) for page in range(5))
            ...         page = await monque.jobs.page(order="created", size=3)
            ...         print([job.data["page"] for job in page.jobs], page.previous)
            ...         page = await monque.jobs.page(order="created", size=3, cursor=page.next)
            ...         print([job.data["page"] for job in page.jobs], page.next)
            >>> asyncio.run(main())
            [0, 1, 2] None
            [3, 4] None
        """
        check_filter(filter)
        direction = check_order(order, filter)
        number = check_size("size", size, LARGEST_PAGE)
        place = None if cursor is None else read_cursor(cursor, direction, filter)
        backward = place is not None and place.backward
        deadline = Deadline(timeout)
        with deadline.errors("get a page of jobs"):
            way = direction.reversed() if backward else direction
            rows, end = await self._reader.stretch(Slice(filter, way, number + 1, place), deadline)
        if len(rows) > number:
            rows = rows[:number]
            end = Place(rows[-1].time, rows[-1].id)
        onward = None if end is None else replace(end, backward=backward)
        back = None if place is None else place.turned()
        after, before = (back, onward) if backward else (onward, back)
        jobs, unreadable = read(rows[::-1] if backward else rows)
        cursors = [None if one is None else write_cursor(one, direction, filter) for one in (after, before)]
        return Page(jobs, cursors[0], cursors[1], unreadable)

    async def count(
        self,
        filter: JobFilter = EVERYTHING,  # noqa: A002  what it is
        *,
        limit: int | None = None,
        timeout: Duration = PATIENCE,
    ) -> int:
        """How many jobs there are.

        Without a filter it is what the server has in its books, which costs nothing. Otherwise keys of an index are
        counted, about a million in a second; where that is not enough, as with `error`, jobs are read, too.

        Args:
            filter: Which jobs; all if it is left out.
            limit: Where counting stops: that many means that many or more.
            timeout: How long it may take, as a timedelta or in seconds.

        Returns:
            How many.

        Raises:
            InvalidArgumentError: An argument makes no sense.
            AggregationTimeoutError: It took longer than `timeout`.
            ConnectionError: The database did not answer.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.enqueue_many([("resize", {"page": 1}), ("resize", {"page": 2}), ("report", {})])
            ...         print(await monque.jobs.count(), await monque.jobs.count(JobFilter(name="resize")))
            >>> asyncio.run(main())
            3 2
        """
        check_filter(filter)
        limit = check_limit(limit)
        deadline = Deadline(timeout)
        with deadline.errors("count the jobs"):
            return await self._reader.count(filter, limit, deadline)
