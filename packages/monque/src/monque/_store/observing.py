"""Seeing how things stand with jobs, and what happens to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monque._store.backlog import Backlog, backlog
from monque._store.core import EVERYTHING, PATIENCE, Core
from monque._store.errors import Deadline, driver_errors
from monque._store.filters import JobFilter, check_filter
from monque._store.paging import check_limit
from monque._store.stats import JobStats, Statistician, check_window
from monque._store.watching import Watch

if TYPE_CHECKING:
    from monque.options import Duration


class Observing(Core):
    """What can be seen of jobs without looking at each."""

    async def stats(
        self,
        filter: JobFilter = EVERYTHING,  # noqa: A002  what it is
        *,
        window: Duration = 3600,
        limit: int | None = 10_000,
        timeout: Duration = PATIENCE,
    ) -> JobStats:
        """How things stand: how many jobs there are of each status and name, how long they wait and run, how many come.

        Counting stops at `limit`, and at 1,000 names; what there may be more of says so by its `at_least`. Counting
        all that ever completed takes half a second for a million. Where jobs have to be read for the filter, how long
        they wait and run is said by those among some 5,000, the first that are due and the latest that completed.

        Args:
            filter: Which jobs; all if it is left out.
            window: How far to look back for what comes and goes, as a timedelta or in seconds. There, 100,000 are
                counted at most, or `limit` where jobs have to be read for the filter.
            limit: How many jobs of each name and status are counted at most; where jobs have to be read for the filter,
                how many of each status are read. None counts all.
            timeout: How long it may take, likewise.

        Returns:
            The statistics.

        Raises:
            InvalidArgumentError: An argument makes no sense.
            AggregationTimeoutError: It took longer than `timeout`.
            ConnectionError: The database did not answer.

        Example:
            >>> import asyncio
            >>> from monque import JobStatus, Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque:
            ...         await monque.enqueue_many([("resize", {"page": 1}), ("resize", {"page": 2}), ("report", {})])
            ...         stats = await monque.jobs.stats()
            ...         print(stats.statuses[JobStatus.PENDING], stats.names["resize"], stats.created)
            >>> asyncio.run(main())
            3 {<JobStatus.PENDING: 'pending'>: 2} 3
        """
        check_filter(filter)
        length = check_window(window)
        limit = check_limit(limit)
        deadline = Deadline(timeout)
        with deadline.errors("make statistics of the jobs"):
            return await Statistician(self._reader, filter, limit, deadline, self._clock.now()).make(length)

    def watch(self, filter: JobFilter = EVERYTHING) -> Watch:  # noqa: A002  what it is
        """Watch jobs change, live: iterate over it with `async for`, which goes on until it is left.

        The server tells of each job that is made, changes its state or says how far it has come, where the filter
        applies to the job as it is then. Of a deleted job nothing is known but its id: deletions are told if the
        filter is empty, or says nothing but `ids`. After a broken connection it goes on where it was; only what the
        server no longer remembers is passed over.

        What happens before the first change is asked for is not told. Where that matters, enter it with `async with`:
        then it is all that happens in the block.

        Args:
            filter: Which jobs; all if it is left out.

        Returns:
            The changes.

        Raises:
            InvalidArgumentError: It is no filter.
            ChangeStreamsUnavailableError: In the iteration: the server has no change streams.
            ConnectionError: In the iteration: the database refuses.

        Example:
            >>> import asyncio
            >>> from monque import Monque
            >>> async def main() -> None:
            ...     async with Monque() as monque, monque.jobs.watch(JobFilter(name="report")) as changes:
            ...         job = await monque.enqueue("report")
            ...         await monque.jobs.cancel(job.id)
            ...         async for change in changes:
            ...             print(change.kind, change.job_id == job.id)
            ...             if change.kind == "changed":
            ...                 break
            >>> asyncio.run(main())
            created True
            changed True
        """
        check_filter(filter)
        return Watch(self._jobs, filter)

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
