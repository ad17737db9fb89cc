"""Statistics of jobs: how many there are of each kind, how long they wait and run, and how many come and go."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from monque._store import indexes
from monque._store.filters import Document, JobFilter, job_names, statuses
from monque._store.paging import Order
from monque._store.plans import Scan, scans
from monque._store.reading import MOST_EXAMINED, Slice
from monque.errors import InvalidArgumentError
from monque.job import JobStatus
from monque.options import Duration, is_duration, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from monque._store.errors import Deadline
    from monque._store.reading import Reader

__all__ = ["Durations", "JobCount", "JobStats"]

# So many keys are counted at once, where names or times are told apart by keys alone: a tenth of a second.
_MOST_KEYS = 100_000
_MOST_NAMES = 1000
# So many jobs, the latest that completed, say how long jobs take.
SAMPLE = 1000
_FIRST_DUE, _LATEST = Order("due", descending=False), Order("updated", descending=True)
_NUMBER: Document = {"count": {"$sum": 1}}
_LARGEST: Document = {"$sort": {"count": -1}}
_TIME_FIELDS = {"nextRunAt": 1, "startedAt": 1, "updatedAt": 1}


@dataclass(frozen=True, slots=True)
class Durations:
    """How long something took, in seconds.

    Attributes:
        count: How often it was measured.
        mean: On average.
        median: Half of them took no longer.
        p95: 95 % of them took no longer.
        p99: 99 % of them took no longer.
        longest: None took longer.
    """

    count: int
    mean: float
    median: float
    p95: float
    p99: float
    longest: float


class JobCount(int):
    """How many there are, a number like any other; or how many were counted before counting stopped.

    Attributes:
        at_least: Whether there may be more.

    Example:
        >>> JobCount(10_000, at_least=True) == 10_000
        True
    """

    at_least: bool

    def __new__(cls, number: int, *, at_least: bool = False) -> Self:
        self = super().__new__(cls, number)
        self.at_least = at_least
        return self


@dataclass(frozen=True, slots=True)
class JobStats:
    """How things stand with jobs.

    Attributes:
        at: When this was so, by the server's clock.
        window: How many seconds before that `created`, `ended`, `runs` and `waits` cover.
        limit: No more than so many jobs of each name and status were counted; None if all were.
        statuses: How many jobs there are of each status.
        names: The same for each name. What has no text for a name is under None.
        oldest_wait: For how many seconds the job has been due that waits longest; 0 if none is due.
        longest_run: For how many seconds the job has been processing that has been so longest; 0 if none is.
        created: How many jobs were enqueued in the window and are still there.
        ended: How many jobs completed, failed for good and were cancelled in the window, and are still there.
        runs: How long the latest jobs that completed in the window ran, from claim to settle; None if there are none.
        waits: How long the same jobs had been due when they were claimed.
    """

    at: datetime
    window: float
    limit: int | None
    statuses: Mapping[JobStatus, JobCount]
    names: Mapping[str | None, Mapping[JobStatus, JobCount]]
    oldest_wait: float
    longest_run: float
    created: JobCount
    ended: Mapping[JobStatus, JobCount]
    runs: Durations | None
    waits: Durations | None

    @property
    def created_rate(self) -> float:
        """How many jobs were enqueued per second, on average over the window."""
        return self.created / self.window

    @property
    def ended_rate(self) -> float:
        """How many jobs ended per second, on average over the window."""
        return sum(self.ended.values()) / self.window


class Statistician:
    """Makes statistics of the jobs of a filter, as they are now; without a limit, of all of them."""

    def __init__(
        self,
        reader: Reader,
        filter: JobFilter,  # noqa: A002  what it is
        limit: int | None,
        deadline: Deadline,
        now: datetime,
    ) -> None:
        self._reader = reader
        self._filter = filter
        self._limit = limit
        self._most_read = None if limit is None else min(limit, MOST_EXAMINED)
        self._deadline = deadline
        self._now = now
        self._wanted = list(JobStatus) if (wanted := statuses(filter)) is None else wanted
        self._names: defaultdict[str | None, dict[JobStatus, JobCount]] = defaultdict(dict)
        # Of these some names were left out, or some jobs not looked at.
        self._unfinished: set[JobStatus] = set()
        self._longest_run = 0.0

    async def make(self, window: float) -> JobStats:
        """All of it."""
        for scan in scans(replace(self._filter, status=self._wanted)):
            await self._count(scan)
        begin = self._now - timedelta(seconds=window)
        ended = {s: await self._since("updated", begin, s) for s in self._wanted if s.value in indexes.ENDED}
        runs, waits = await self._durations(begin)
        return JobStats(
            at=self._now,
            window=window,
            limit=self._limit,
            statuses={status: self._all_of(status) for status in self._wanted},
            names=dict(sorted(self._names.items(), key=lambda item: (item[0] is not None, item[0] or ""))),
            oldest_wait=await self._oldest_wait(),
            longest_run=self._longest_run,
            created=await self._since("created", begin),
            ended=ended,
            runs=runs,
            waits=waits,
        )

    def _all_of(self, status: JobStatus) -> JobCount:
        counts = [counts[status] for counts in self._names.values() if status in counts]
        return JobCount(sum(counts), at_least=status in self._unfinished or any(count.at_least for count in counts))

    async def _count(self, scan: Scan) -> None:
        """Count the jobs of a scan by name and status."""
        if scan.rest or scan.index not in (indexes.CLAIM, indexes.ENDED_AT):
            await self._count_read(scan)
        elif await self._is_told_by_keys(scan):
            await self._count_keys(scan)
        else:
            await self._count_each_name(scan)

    async def _count_read(self, scan: Scan) -> None:
        """Read jobs, no more than so many, and count those that are meant."""
        some: list[Document] = [] if self._most_read is None else [{"$limit": self._most_read}]
        rest: list[Document] = [{"$match": scan.rest}] if scan.rest else []
        group = {"_id": {"name": "$name", "status": "$status"}, **_NUMBER, "since": {"$min": "$lockedAt"}}
        read = await self._names_of(scan, [{"$match": scan.keys}, *some, *rest, {"$group": group}, _LARGEST])
        number = 0 if self._most_read is None else await self._number(scan.index, scan.keys, self._most_read + 1)
        is_cut = self._most_read is not None and number > self._most_read
        if is_cut:
            self._unfinished.update(_statuses(scan))
        for row in read:
            status = JobStatus(row["_id"]["status"])
            self._add(row["_id"].get("name"), status, JobCount(row["count"], at_least=is_cut))
            if status is JobStatus.PROCESSING:
                self._longest_run = max(self._longest_run, self._age(row["since"]))

    async def _is_told_by_keys(self, scan: Scan) -> bool:
        """Whether the server had better go through all keys at once."""
        is_pending = scan.index == indexes.CLAIM
        if is_pending and scan.tally:
            return False
        if self._limit is None:
            return is_pending
        # Name by name it counts quicker what has ended, but would read what is pending.
        most = _MOST_KEYS if is_pending else self._limit
        return await self._number(scan.index, scan.tally, most + 1) <= most

    async def _count_keys(self, scan: Scan) -> None:
        (status,) = _statuses(scan)
        match = [{"$match": scan.tally}] if scan.tally else []
        for row in await self._names_of(scan, [*match, {"$group": {"_id": "$name", **_NUMBER}}, _LARGEST]):
            self._add(row["_id"], status, _stopped(row["count"], self._limit))

    async def _count_each_name(self, scan: Scan) -> None:
        (status,) = _statuses(scan)
        names: Sequence[object] | None = job_names(self._filter)
        if names is None:
            # What the server needs one key each for; the index of pending jobs has nothing else in it.
            match = [] if scan.index == indexes.CLAIM else [{"$match": {"status": status.value}}]
            names = [row["_id"] for row in await self._names_of(scan, [*match, {"$group": {"_id": "$name"}}])]
        stop = None if self._limit is None else self._limit + 1
        for name in names:
            number = await self._number(scan.index, {**scan.keys, "name": {"$eq": name}}, stop)
            if number:
                self._add(name, status, _stopped(number, self._limit))

    async def _names_of(self, scan: Scan, stages: list[Document]) -> list[Document]:
        """What a pipeline makes, a document for each name: of no more than so many."""
        if self._limit is None:
            return await self._reader.aggregate(scan.index, stages, self._deadline)
        rows = await self._reader.aggregate(scan.index, [*stages, {"$limit": _MOST_NAMES + 1}], self._deadline)
        if len(rows) > _MOST_NAMES:
            self._unfinished.update(_statuses(scan))
        return rows[:_MOST_NAMES]

    async def _number(self, index: str, query: Document, limit: int | None) -> int:
        return await self._reader.count_in(index, query, limit, self._deadline)

    def _add(self, name: object, status: JobStatus, count: JobCount) -> None:
        counts = self._names[name if isinstance(name, str) else None]
        there = counts.get(status, JobCount(0))
        counts[status] = JobCount(there + count, at_least=there.at_least or count.at_least)

    async def _since(self, time: str, begin: datetime, status: JobStatus | None = None) -> JobCount:
        """How many were created, or changed, since then."""
        filter_ = _from(self._filter if status is None else replace(self._filter, status=status), time, begin)
        if filter_ is None:
            return JobCount(0)
        counts = [await self._of(scan) for scan in await self._reader.plan(filter_, time, self._deadline)]
        return JobCount(sum(counts), at_least=any(count.at_least for count in counts))

    async def _of(self, scan: Scan) -> JobCount:
        """How many there are in a scan."""
        if self._most_read is None or scan.is_whole:
            return JobCount(await self._number(scan.index, scan.query, None))
        if not scan.rest:
            return _stopped(await self._number(scan.index, scan.keys, _MOST_KEYS + 1), _MOST_KEYS)
        stages: list[Document] = [{"$match": scan.keys}, {"$limit": self._most_read}, {"$match": scan.rest}]
        rows = await self._reader.aggregate(scan.index, [*stages, {"$count": "count"}], self._deadline)
        number = await self._number(scan.index, scan.keys, self._most_read + 1)
        return JobCount(rows[0]["count"] if rows else 0, at_least=number > self._most_read)

    async def _oldest_wait(self) -> float:
        if JobStatus.PENDING not in self._wanted:
            return 0.0
        pending = replace(self._filter, status=JobStatus.PENDING)
        due, _ = await self._reader.stretch(Slice(pending, _FIRST_DUE, 1, fields={"nextRunAt": 1}), self._deadline)
        return self._age(due[0].document["nextRunAt"]) if due else 0.0

    async def _durations(self, begin: datetime) -> tuple[Durations | None, Durations | None]:
        """How long the latest that completed ran, and waited before."""
        filter_ = _from(replace(self._filter, status=JobStatus.COMPLETED), "updated", begin)
        if JobStatus.COMPLETED not in self._wanted or filter_ is None:
            return None, None
        latest, _ = await self._reader.stretch(Slice(filter_, _LATEST, SAMPLE, fields=_TIME_FIELDS), self._deadline)
        documents = [row.document for row in latest]
        return _summary(_lengths(documents, "startedAt", "updatedAt")), _summary(
            _lengths(documents, "nextRunAt", "startedAt")
        )

    def _age(self, moment: object) -> float:
        return max((self._now - moment).total_seconds(), 0.0) if isinstance(moment, datetime) else 0.0


def _statuses(scan: Scan) -> list[JobStatus]:
    """Which ones the jobs of a scan can have."""
    said: Any = {**scan.rest, **scan.keys}["status"]
    return [JobStatus(said)] if isinstance(said, str) else [JobStatus(status) for status in said["$in"]]


def _stopped(number: int, limit: int | None) -> JobCount:
    """What was counted, no farther than one beyond the limit."""
    return JobCount(number) if limit is None else JobCount(min(number, limit), at_least=number > limit)


def check_window(window: Duration) -> float:
    """Refuse what is no time to look back over; give it in seconds."""
    if is_duration(window) and seconds(window) > 0:
        return seconds(window)
    raise InvalidArgumentError("window", window, "a timedelta or a number of seconds, more than 0")


def _from(filter: JobFilter, time: str, begin: datetime) -> JobFilter | None:  # noqa: A002  what it is
    """Those of the filter since then; None if there can be none."""
    least, end = getattr(filter, f"{time}_from"), getattr(filter, f"{time}_until")
    begin = begin if least is None else max(least, begin)
    narrower: dict[str, Any] = {f"{time}_from": begin}
    return None if end is not None and begin >= end else replace(filter, **narrower)


def _lengths(documents: Iterable[Document], begin: str, end: str) -> list[float]:
    pairs = [(document.get(begin), document.get(end)) for document in documents]
    return sorted(
        max((end - begin).total_seconds(), 0.0)
        for begin, end in pairs
        if isinstance(begin, datetime) and isinstance(end, datetime)
    )


def _summary(lengths: Sequence[float]) -> Durations | None:
    if not lengths:
        return None
    median, p95, p99 = (lengths[math.ceil(share * len(lengths)) - 1] for share in (0.5, 0.95, 0.99))
    return Durations(len(lengths), sum(lengths) / len(lengths), median, p95, p99, lengths[-1])
