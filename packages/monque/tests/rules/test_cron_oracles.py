"""Whole years: against every wall-clock time they hold, and against croniter where no clock jumps."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from monque._cron import Cron

STEADY = settings(deadline=None, derandomize=True)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
YEARS = [
    ("UTC", 2026),
    ("Europe/Berlin", 2026),
    ("Europe/Dublin", 2024),
    ("America/New_York", 2028),
    ("America/Santiago", 2022),
    ("America/Havana", 2026),
    ("Australia/Lord_Howe", 2026),
    ("Asia/Beirut", 2026),
    ("Asia/Kathmandu", 2026),
    ("Africa/Cairo", 2025),
    ("Africa/Casablanca", 2026),
    ("Pacific/Apia", 2011),
]


class Fixed(NamedTuple):
    """Some minutes of some hours on some days, and the expression that says so."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]

    @property
    def text(self) -> str:
        return " ".join(",".join(map(str, sorted(values))) for values in self) + " *"


def some(low: int, high: int, most: int) -> st.SearchStrategy[frozenset[int]]:
    return st.frozensets(st.integers(low, high), min_size=1, max_size=most)


every_day, every_month = st.just(frozenset(range(1, 32))), st.just(frozenset(range(1, 13)))
daily = st.builds(Fixed, some(0, 59, 1), some(0, 3, 1) | some(0, 23, 1), every_day, every_month)
sparse = st.builds(Fixed, some(0, 59, 3), some(0, 3, 4) | some(0, 23, 4), some(1, 28, 4), every_month | some(1, 12, 3))


@cache
def instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first time the clock shows this, or the first time it shows something later."""
    showing = wall.replace(tzinfo=zone).astimezone(UTC)
    if showing.astimezone(zone).replace(tzinfo=None) == wall:
        return showing
    showing = wall.replace(tzinfo=zone, fold=1).astimezone(UTC).replace(second=0)
    while showing.astimezone(zone).replace(tzinfo=None) < wall:
        showing += MINUTE
    return showing


def named(schedule: Fixed, year: int) -> list[datetime]:
    dates = (date(year, 1, 1) + n * DAY for n in range(366))
    meant = [day for day in dates if day.year == year and day.day in schedule.days and day.month in schedule.months]
    times = [time(hour, minute) for hour in schedule.hours for minute in schedule.minutes]
    return [datetime.combine(day, time_of_day) for day in meant for time_of_day in times]


def firings(cron: Cron, year: int) -> list[datetime]:
    zone = ZoneInfo(cron.timezone)
    found = [cron.next_after(datetime(year, 1, 1, tzinfo=zone) - MINUTE)]
    while found[-1].astimezone(zone).year == year:
        found.append(cron.next_after(found[-1]))
    return found[:-1]


@settings(STEADY, max_examples=40)
@given(st.sampled_from(YEARS), sparse)
def test_no_fixed_time_is_dropped_or_doubled(where: tuple[str, int], schedule: Fixed) -> None:
    timezone, year = where
    expected = {instant(wall, ZoneInfo(timezone)) for wall in named(schedule, year)}
    assert firings(Cron.parse(schedule.text, timezone), year) == sorted(expected)


@settings(STEADY, max_examples=30)
@given(st.sampled_from(YEARS), daily)
def test_a_daily_time_comes_once_a_day(where: tuple[str, int], schedule: Fixed) -> None:
    timezone, year = where
    zone = ZoneInfo(timezone)
    found = firings(Cron.parse(schedule.text, timezone), year)
    assert all(before < after for before, after in pairwise(found))
    assert len(found) == (date(year + 1, 1, 1) - date(year, 1, 1)).days
    local = [time.astimezone(zone) for time in found]
    unusual = [time for time in local if time.hour not in schedule.hours or time.minute not in schedule.minutes]
    assert all(follows_a_change(time) for time in unusual)


def follows_a_change(local: datetime) -> bool:
    before = (local.astimezone(UTC) - MINUTE).astimezone(local.tzinfo)
    return before.utcoffset() != local.utcoffset()


STARTS = st.datetimes(datetime(2000, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
EXPRESSIONS = st.tuples(
    st.sampled_from(["*", "*/7", "0", "59", "3,33", "10-20/5", "7/20"]),
    st.sampled_from(["*", "*/5", "0", "23", "2,14", "9-17", "8-20/6"]),
    st.sampled_from(["* {} *", "1 {} *", "28 {} *", "L {} *", "*/10 {} *", "* {} 0", "* {} 7", "* {} MON-fri"])
    | st.sampled_from(["* {} 5L", "* {} 2#1", "13 {} 5", "1,15 {} MON", "31 {} 0"]),
    st.sampled_from(["*", "2", "JAN,jul", "*/4", "3-10"]),
).map(lambda parts: f"{parts[0]} {parts[1]} {parts[2].format(parts[3])}")


@STEADY
@given(EXPRESSIONS, STARTS, st.sampled_from(["UTC", "Asia/Kathmandu", "Asia/Tokyo"]))
def test_croniter_agrees_where_no_clock_jumps(expression: str, start: datetime, timezone: str) -> None:
    local = start.astimezone(ZoneInfo(timezone))
    theirs = croniter(expression.replace("5L", "L5"), local).get_next(datetime)
    assert Cron.parse(expression, timezone).next_after(start) == theirs


@STEADY
@given(st.sampled_from(["*/20 * * * * *", "0,30 */2 9 * * *", "59 59 23 * * *"]), STARTS)
def test_croniter_agrees_on_seconds(expression: str, start: datetime) -> None:
    theirs = croniter(expression, start, second_at_beginning=True).get_next(datetime)
    assert Cron.parse(expression).next_after(start) == theirs
