"""`Monque.jobs.stats`: how things stand."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from monque import (
    AggregationTimeoutError,
    ConnectionError,
    Durations,
    InvalidArgumentError,
    Job,
    JobCount,
    JobFilter,
    JobStats,
    JobStatus,
    Monque,
)
from monque._store import reading
from monque._store import stats as stats_module
from monque.testing import eventually

from .support import FUTURE, PAST, explain, statements, stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.collection import Collection

    from .support import Commands, Document, Lab, Plan

COMPLETED, FAILED, CANCELLED = JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED
PENDING, PROCESSING = JobStatus.PENDING, JobStatus.PROCESSING


def at(minutes: float) -> datetime:
    return PAST + timedelta(minutes=minutes)


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


async def test_jobs_are_counted_by_status_and_name(monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_many(
        [
            *(stored(status, name="a") for status in ("completed", "failed", "failed", "pending", "cancelled")),
            *(stored(status, name="b") for status in ("completed", "completed", "processing")),
            stored("completed", name=5),
            stored("completed", name=6),
            stored("scheduled", name="c"),
        ]
    )
    stats = await monque.jobs.stats()
    assert stats.statuses == {PENDING: 1, PROCESSING: 1, COMPLETED: 5, FAILED: 2, CANCELLED: 1}
    assert stats.names == {
        None: {COMPLETED: 2},
        "a": {PENDING: 1, COMPLETED: 1, FAILED: 2, CANCELLED: 1},
        "b": {PROCESSING: 1, COMPLETED: 2},
    }
    assert list(stats.names) == [None, "a", "b"]

    stats = await monque.jobs.stats(JobFilter(name="a", status=[FAILED, PENDING]))
    assert (stats.statuses, stats.names) == ({PENDING: 1, FAILED: 2}, {"a": {PENDING: 1, FAILED: 2}})


async def test_without_jobs_there_is_nothing_to_say(monque: Monque, now: datetime) -> None:
    stats = await monque.jobs.stats(window=timedelta(minutes=1))
    zero = JobCount(0)
    nothing = dict.fromkeys(JobStatus, zero)
    ended: dict[JobStatus, JobCount] = dict.fromkeys((COMPLETED, FAILED, CANCELLED), zero)
    assert abs(stats.at - now) < timedelta(minutes=1)
    assert stats == JobStats(stats.at, 60.0, 10_000, nothing, {}, 0.0, 0.0, zero, ended, None, None)
    assert (stats.created_rate, stats.ended_rate) == (0, 0)


async def test_other_filters_count_likewise(monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_many(
        [
            stored("failed", tags=["t"], failReason="no answer"),
            stored("failed", failReason="no answer"),
            stored("completed", tags=["t"], uniqueKey="k"),
            stored(tags=["t"]),
        ]
    )
    one = dict.fromkeys(JobStatus, 0) | {FAILED: 1, COMPLETED: 1, PENDING: 1}
    assert (await monque.jobs.stats(JobFilter(tags="t"))).statuses == one
    assert (await monque.jobs.stats(JobFilter(error="answer"))).statuses[FAILED] == 2
    keyed = await monque.jobs.stats(JobFilter(name="work", unique_key="k"))
    assert keyed.names == {"work": {COMPLETED: 1}}


async def test_the_oldest_ones_are_told(monque: Monque, raw: Collection[Document], now: datetime) -> None:
    ages = [timedelta(seconds=seconds) for seconds in (50, 100, 200)]
    raw.insert_many(
        stored(nextRunAt=now - age, priority=priority) for age, priority in zip(ages, (None, 5, -1), strict=True)
    )
    raw.insert_many(stored("processing", lockedAt=now - age, nextRunAt=PAST) for age in ages)
    raw.insert_many([stored("completed"), stored(nextRunAt=FUTURE), stored("processing", lockedAt=None)])
    stats = await monque.jobs.stats()
    assert 190 < stats.oldest_wait < 260
    assert 190 < stats.longest_run < 260
    ended = await monque.jobs.stats(JobFilter(status=COMPLETED))
    assert (ended.oldest_wait, ended.longest_run) == (0, 0)
    assert (await monque.jobs.stats(JobFilter(due_from=FUTURE))).oldest_wait == 0


async def test_what_comes_and_goes_is_counted_in_the_window(
    monque: Monque, raw: Collection[Document], now: datetime
) -> None:
    recently, before = now - timedelta(minutes=5), now - timedelta(minutes=30)
    raw.insert_many(
        [
            *(stored("completed", createdAt=before, updatedAt=recently) for _ in range(3)),
            stored("failed", createdAt=recently, updatedAt=recently),
            stored("cancelled", createdAt=before, updatedAt=before),
            stored(createdAt=recently, updatedAt=recently),
        ]
    )
    stats = await monque.jobs.stats(window=600)
    assert (stats.created, stats.ended) == (2, {COMPLETED: 3, FAILED: 1, CANCELLED: 0})
    assert stats.created_rate == pytest.approx(2 / 600)
    assert stats.ended_rate == pytest.approx(4 / 600)
    longer = await monque.jobs.stats(window=timedelta(hours=1))
    assert (longer.created, longer.ended[CANCELLED]) == (6, 1)
    ever = await monque.jobs.stats(window=timedelta(days=365 * 999))
    assert ever.created == 6
    # A filter may begin later than the window, or end before it.
    within = JobFilter(updated_from=now - timedelta(minutes=10), created_until=now - timedelta(minutes=20))
    assert (await monque.jobs.stats(within)).ended == {COMPLETED: 3, FAILED: 0, CANCELLED: 0}
    over = await monque.jobs.stats(JobFilter(updated_until=now - timedelta(minutes=20)), window=600)
    assert (over.ended, over.runs) == ({COMPLETED: 0, FAILED: 0, CANCELLED: 0}, None)


async def test_the_latest_runs_say_how_long_jobs_take(monque: Monque, raw: Collection[Document], now: datetime) -> None:
    def ran(seconds: float, waited: float = 1, **more: Any) -> Document:
        started = now - timedelta(minutes=5)
        due, ended = started - timedelta(seconds=waited), started + timedelta(seconds=seconds)
        return stored("completed", **{"nextRunAt": due, "startedAt": started, "updatedAt": ended, **more})

    raw.insert_many([*(ran(number, 2 * number) for number in range(1, 101)), stored("completed", updatedAt=now)])
    raw.insert_one(ran(1000, name="long ago", updatedAt=now - timedelta(hours=2)))
    stats = await monque.jobs.stats()
    assert stats.runs == Durations(100, 50.5, 50.0, 95.0, 99.0, 100.0)
    assert stats.waits == Durations(100, 101.0, 100.0, 190.0, 198.0, 200.0)
    assert (await monque.jobs.stats(JobFilter(status=FAILED))).runs is None
    assert (await monque.jobs.stats(JobFilter(name="long ago"))).waits is None


async def test_jobs_that_ran_have_their_times(database: AsyncDatabase[Document]) -> None:
    monque = Monque(database)

    @monque.worker("work")
    async def work(job: Job[Any]) -> None: ...

    async with monque:
        enqueued = await monque.enqueue("work")
        await monque.start()

        async def completed() -> bool:
            job = await monque.jobs.get(enqueued.id)
            return job is not None and job.status is COMPLETED

        await eventually(completed)
        job = await monque.jobs.get(enqueued.id)
        assert job is not None
        assert job.started_at is not None
        assert enqueued.next_run_at <= job.started_at
        stats = await monque.jobs.stats()
    assert (stats.created, stats.ended[COMPLETED]) == (1, 1)
    assert stats.runs is not None
    assert stats.runs.count == 1


@pytest.mark.parametrize("window", [0, -1, "1", None, True, float("nan"), float("inf"), timedelta(0)])
async def test_a_window_that_makes_no_sense_is_refused(monque: Monque, window: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="window: expected a timedelta or a number of seconds"):
        await monque.jobs.stats(window=window)


async def test_a_filter_or_limit_that_makes_no_sense_is_refused(monque: Monque) -> None:
    nonsense: Any = "failed"
    with pytest.raises(InvalidArgumentError, match="filter: expected a JobFilter"):
        await monque.jobs.stats(nonsense)
    with pytest.raises(InvalidArgumentError, match="timeout: expected"):
        await monque.jobs.stats(timeout=0)


async def test_what_takes_too_long_is_ended(lab: Lab) -> None:
    async with lab.connected() as database, Monque(database) as monque:
        lab.jobs.insert_one(stored("completed"))
        for command in ("aggregate", "count", "find"):
            with lab.failing(command, errorCode=50), pytest.raises(AggregationTimeoutError) as caught:
                await monque.jobs.stats(timeout=7)
            assert caught.value.timeout == 7
        with lab.failing("aggregate", errorCode=13), pytest.raises(ConnectionError, match="cannot make statistics"):
            await monque.jobs.stats()


async def test_a_large_history_is_ended_in_time_for_real(monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_many(stored("completed", name=f"name-{number % 50}") for number in range(20_000))
    with pytest.raises(AggregationTimeoutError):
        await monque.jobs.stats(timeout=0.001)


# --- where counting stops -------------------------------------------------------------------------------------------


def test_a_count_is_a_number() -> None:
    count = JobCount(10_000, at_least=True)
    assert (count, count + 1, f"{count:,}") == (10_000, 10_001, "10,000")
    for copied in (copy.copy(count), pickle.loads(pickle.dumps(count))):  # noqa: S301  our own
        assert (copied, copied.at_least) == (count, True)
    assert not JobCount(3).at_least


def unfinished(stats: JobStats) -> dict[str | None, set[JobStatus]]:
    """What there may be more of: of which statuses for each name, and in all."""
    rows: dict[str | None, Mapping[JobStatus, JobCount]] = {**stats.names, "all": stats.statuses}
    found = {name: {status for status, count in counts.items() if count.at_least} for name, counts in rows.items()}
    return {name: statuses for name, statuses in found.items() if statuses}


@pytest.fixture(params=[False, True], ids=["at once", "by name"])
def few_keys(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether there are more keys than are counted at once."""
    if request.param:
        monkeypatch.setattr(stats_module, "_MOST_KEYS", 2)
    return bool(request.param)


@pytest.mark.usefixtures("few_keys")
@pytest.mark.parametrize("names", [None, ["a", "b", "nobody"]], ids=["all", "some"])
async def test_counting_stops_at_the_limit(monque: Monque, raw: Collection[Document], names: Any) -> None:
    raw.insert_many(
        stored(status, name=name)
        for status in ("pending", "completed", "failed")
        for name, number in (("a", 4), ("b", 3), ("c", 2))
        for _ in range(number)
    )
    stats = await monque.jobs.stats(JobFilter(name=names), limit=3)
    three = dict.fromkeys((PENDING, COMPLETED, FAILED), 3)
    two = {} if names else {"c": dict.fromkeys(three, 2)}
    assert stats.limit == 3
    assert stats.names == {"a": three, "b": three, **two}
    assert stats.statuses[COMPLETED] == sum(counts[COMPLETED] for counts in stats.names.values())
    assert unfinished(stats) == {"a": set(three), "all": set(three)}

    for limit in (None, 4):
        stats = await monque.jobs.stats(JobFilter(name=names), limit=limit)
        assert [counts[PENDING] for counts in stats.names.values()] == ([4, 3] if names else [4, 3, 2])
        assert [counts[FAILED] for counts in stats.names.values()] == ([4, 3] if names else [4, 3, 2])
        assert unfinished(stats) == {}


async def test_of_jobs_that_have_to_be_read_so_many_are(monque: Monque, raw: Collection[Document]) -> None:
    raw.insert_many(stored(status, tags=["t"]) for status in ("pending", "failed", "failed", "failed"))
    raw.insert_many(stored("failed", name="z", failReason="no answer", updatedAt=at(number)) for number in range(3))
    raw.insert_many(stored("processing", name="b", lockedAt=at(number)) for number in range(3))
    stats = await monque.jobs.stats(JobFilter(tags="t"), limit=2)
    assert stats.statuses[PENDING] + stats.statuses[FAILED] == 2
    assert unfinished(stats)["all"] == set(JobStatus)
    assert unfinished(await monque.jobs.stats(JobFilter(tags="t"), limit=4)) == {}

    stats = await monque.jobs.stats(JobFilter(error="ANSWER"), limit=2)
    assert (stats.statuses[FAILED], stats.statuses[FAILED].at_least) == (0, True)
    stats = await monque.jobs.stats(JobFilter(error="ANSWER"), limit=6)
    assert (stats.statuses[FAILED], stats.statuses[FAILED].at_least) == (3, False)
    assert (await monque.jobs.stats(JobFilter(error="ANSWER"), limit=None)).statuses[FAILED] == 3

    stats = await monque.jobs.stats(limit=2)
    assert (stats.statuses[PROCESSING], stats.statuses[PROCESSING].at_least) == (2, True)
    stats = await monque.jobs.stats(JobFilter(name="b"), limit=3)
    assert (stats.statuses[PROCESSING], stats.statuses[PROCESSING].at_least) == (3, False)


@pytest.mark.usefixtures("few_keys")
async def test_no_more_than_so_many_names_are_told(
    monque: Monque, raw: Collection[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_module, "_MOST_NAMES", 2)
    raw.insert_many(stored(status, name=name) for status in ("pending", "completed", "processing") for name in "abbc")
    stats = await monque.jobs.stats()
    assert len(stats.names) <= 3
    assert all(sum(status in counts for counts in stats.names.values()) == 2 for status in (PENDING, COMPLETED))
    assert unfinished(stats) == {"all": {PENDING, COMPLETED, PROCESSING}}
    stats = await monque.jobs.stats(limit=None)
    assert (len(stats.names), stats.statuses[PENDING]) == (3, 4)
    assert unfinished(stats) == {}


async def test_in_the_window_counting_stops_too(
    monque: Monque, raw: Collection[Document], now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    recently = now - timedelta(minutes=5)
    raw.insert_many(
        stored("failed", createdAt=recently, updatedAt=recently, failReason=f"no {number}") for number in range(4)
    )
    monkeypatch.setattr(stats_module, "_MOST_KEYS", 3)
    monkeypatch.setattr(reading, "MOST_EXAMINED", 1)
    stats = await monque.jobs.stats()
    assert (stats.created, stats.created.at_least) == (3, True)
    assert (stats.ended[FAILED], stats.ended[FAILED].at_least) == (3, True)
    assert (stats.ended[COMPLETED], stats.ended[COMPLETED].at_least) == (0, False)
    stats = await monque.jobs.stats(limit=None)
    assert (stats.created, stats.created.at_least) == (4, False)

    # Where jobs have to be read, it stops at the limit.
    stats = await monque.jobs.stats(JobFilter(error="no"), limit=2)
    assert (stats.created, stats.created.at_least, stats.ended[FAILED]) == (2, True, 2)
    stats = await monque.jobs.stats(JobFilter(error="no 3"), limit=4)
    assert (stats.created, stats.created.at_least, stats.ended[FAILED]) == (1, False, 1)
    stats = await monque.jobs.stats(JobFilter(error="else"), limit=4)
    assert (stats.created, stats.ended[FAILED]) == (0, 0)

    # Where there are few, all are read.
    monkeypatch.setattr(reading, "MOST_EXAMINED", 10)
    stats = await monque.jobs.stats(JobFilter(error="no"), limit=2)
    assert (stats.created, stats.created.at_least) == (4, False)


@pytest.mark.parametrize("limit", [0, -1, 1.0, "1", True])
async def test_a_limit_that_makes_no_sense_is_refused(monque: Monque, limit: Any) -> None:
    for call in (monque.jobs.stats, monque.jobs.count):
        with pytest.raises(InvalidArgumentError, match="limit: expected a whole number from 1, got"):
            await call(limit=limit)


# --- cost -----------------------------------------------------------------------------------------------------------

NAMES = [f"name-{number}" for number in range(20)]


async def _plans_of(
    raw: Collection[Document], commands: Commands, asking: Awaitable[JobStats]
) -> tuple[JobStats, list[Plan]]:
    plans: list[Plan] = []
    commands.before = lambda command: plans.extend(explain(raw.database, one) for one in statements(command))
    stats = await asking
    commands.before = None
    assert all("COLLSCAN" not in plan.stages for plan in plans)
    return stats, plans


async def test_no_job_that_has_ended_or_waits_is_read_to_be_counted(
    monque: Monque, raw: Collection[Document], commands: Commands
) -> None:
    raw.insert_many(stored("completed", name=NAMES[number % 20]) for number in range(5000))
    raw.insert_many(stored("failed") for _ in range(10))
    raw.insert_many(stored(name=NAMES[number % 20], nextRunAt=FUTURE) for number in range(1000))
    stats, plans = await _plans_of(raw, commands, monque.jobs.stats())
    assert (stats.statuses[COMPLETED], stats.statuses[PENDING]) == (5000, 1000)
    # Each twice for its name and status; a few keys for each name in the window, and to find the names; one that waits.
    assert sum(plan.keys for plan in plans) <= 2 * 6010 + 20 * 20
    assert sum(plan.documents for plan in plans) <= 1
    stats, plans = await _plans_of(raw, commands, monque.jobs.stats(limit=None))
    assert (stats.statuses[COMPLETED], stats.statuses[PENDING]) == (5000, 1000)
    assert sum(plan.keys for plan in plans) <= 6010 + 20 * 20
    assert sum(plan.documents for plan in plans) <= 1


async def test_statistics_have_a_price_whatever_there_is(
    monque: Monque, raw: Collection[Document], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats_module, "_MOST_KEYS", 100)
    monkeypatch.setattr(reading, "MOST_EXAMINED", 100)
    now = datetime.now(UTC)
    for status in ("completed", "failed", "cancelled", "pending", "processing"):
        raw.insert_many(
            stored(status, name=NAMES[number % 20], createdAt=now, updatedAt=now, tags=["t"]) for number in range(1000)
        )
    around = 8 * 100 + 20 * 20
    stats, plans = await _plans_of(raw, commands, monque.jobs.stats(limit=10))
    assert stats.statuses[COMPLETED] == 200
    # Of the latest runs 1,000 are read in any case; for what waits, the jobs are read that are counted.
    assert sum(plan.keys for plan in plans) <= 4 * 20 * 11 + 1000 + around
    assert sum(plan.documents for plan in plans) <= 20 * 11 + 30 + 1000
    for filter_ in (JobFilter(error="no"), JobFilter(tags="t"), JobFilter(due_from=PAST, error="no")):
        _, plans = await _plans_of(raw, commands, monque.jobs.stats(filter_, limit=10))
        assert sum(plan.keys for plan in plans) <= 1000 + 2 * around
        assert sum(plan.documents for plan in plans) <= 1000
