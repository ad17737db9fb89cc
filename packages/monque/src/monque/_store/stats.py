"""Statistics of jobs: how many there are of each kind, how long they wait and run, and how many come and go."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from monque._store import indexes
from monque._store.filters import JobFilter, only, statuses
from monque._store.paging import Order
from monque._store.plans import Scan, scans
from monque._store.reading import Slice
from monque.errors import InvalidArgumentError
from monque.job import JobStatus
from monque.options import Duration, is_duration, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from monque._store.errors import Deadline
    from monque._store.filters import Document
    from monque._store.reading import Reader

__all__ = ["Durations", "JobStats"]

# So many jobs, the latest that completed, say how long jobs take.
SAMPLE = 1000
_FIRST_DUE, _LATEST = Order("due", descending=False), Order("updated", descending=True)
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


@dataclass(frozen=True, slots=True)
class JobStats:
    """How things stand with jobs.

    Attributes:
        at: When this was so, by the server's clock.
        window: How many seconds before that `created`, `ended`, `runs` and `waits` cover.
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
    statuses: Mapping[JobStatus, int]
    names: Mapping[str | None, Mapping[JobStatus, int]]
    oldest_wait: float
    longest_run: float
    created: int
    ended: Mapping[JobStatus, int]
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
    """Makes statistics of the jobs of a filter, as they are now."""

    def __init__(self, reader: Reader, filter: JobFilter, deadline: Deadline, now: datetime) -> None:  # noqa: A002
        self._reader = reader
        self._filter = filter
        self._deadline = deadline
        self._now = now
        self._wanted = list(JobStatus) if (wanted := statuses(filter)) is None else wanted
        self._names: defaultdict[str | None, dict[JobStatus, int]] = defaultdict(dict)
        self._longest_run = 0.0

    async def make(self, window: float) -> JobStats:
        """All of it."""
        for status in self._wanted:
            await self._count(status)
        begin = self._now - timedelta(seconds=window)
        ended = {s: await self._since("updated", begin, s) for s in self._wanted if s.value in indexes.ENDED}
        runs, waits = await self._durations(begin)
        return JobStats(
            at=self._now,
            window=window,
            statuses={s: sum(counts.get(s, 0) for counts in self._names.values()) for s in self._wanted},
            names=dict(sorted(self._names.items(), key=lambda item: (item[0] is not None, item[0] or ""))),
            oldest_wait=await self._oldest_wait(),
            longest_run=self._longest_run,
            created=await self._since("created", begin),
            ended=ended,
            runs=runs,
            waits=waits,
        )

    async def _count(self, status: JobStatus) -> None:
        """Count the jobs of a status by name."""
        filter_ = replace(self._filter, status=status)
        rows: list[Document] = []
        for scan in scans(filter_):
            if scan.index == indexes.ENDED_AT and only(filter_, "name", "status"):
                rows += await self._count_keys(scan)
            else:
                rows += await self._reader.aggregate(
                    scan,
                    [{"$group": {"_id": "$name", "count": {"$sum": 1}, "since": {"$min": "$lockedAt"}}}],
                    self._deadline,
                )
        for row in rows:
            name = row["_id"] if isinstance(row["_id"], str) else None
            self._names[name][status] = self._names[name].get(status, 0) + int(row["count"])
            if status is JobStatus.PROCESSING:
                self._longest_run = max(self._longest_run, self._age(row["since"]))

    async def _count_keys(self, scan: Scan) -> list[Document]:
        """The same where keys alone tell: the server counts those of one name quicker than it tells names apart."""
        names = await self._reader.aggregate(scan, [{"$group": {"_id": "$name"}}], self._deadline)
        alone = [(row["_id"], Scan({**scan.query, "name": row["_id"]}, scan.index)) for row in names]
        return [{"_id": name, "count": await self._reader.count_in(one, self._deadline)} for name, one in alone]

    async def _since(self, time: str, begin: datetime, status: JobStatus | None = None) -> int:
        """How many were created, or changed, since then."""
        filter_ = _from(self._filter if status is None else replace(self._filter, status=status), time, begin)
        return 0 if filter_ is None else await self._reader.count(filter_, self._deadline)

    async def _oldest_wait(self) -> float:
        if JobStatus.PENDING not in self._wanted:
            return 0.0
        pending = replace(self._filter, status=JobStatus.PENDING)
        due = await self._reader.rows(Slice(pending, _FIRST_DUE, 1, fields={"nextRunAt": 1}), self._deadline)
        return self._age(due[0].document["nextRunAt"]) if due else 0.0

    async def _durations(self, begin: datetime) -> tuple[Durations | None, Durations | None]:
        """How long the latest that completed ran, and waited before."""
        filter_ = _from(replace(self._filter, status=JobStatus.COMPLETED), "updated", begin)
        if JobStatus.COMPLETED not in self._wanted or filter_ is None:
            return None, None
        latest = await self._reader.rows(Slice(filter_, _LATEST, SAMPLE, fields=_TIME_FIELDS), self._deadline)
        documents = [row.document for row in latest]
        return _summary(_lengths(documents, "startedAt", "updatedAt")), _summary(
            _lengths(documents, "nextRunAt", "startedAt")
        )

    def _age(self, moment: object) -> float:
        return max((self._now - moment).total_seconds(), 0.0) if isinstance(moment, datetime) else 0.0


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
