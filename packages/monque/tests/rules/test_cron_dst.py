"""Clocks that are put forward and back: by example, and against a walk through every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monque._cron import Cron

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)


def local_firings(expression: str, timezone: str, date: str) -> list[str]:
    """Every firing whose local date is `date`."""
    zone, cron = ZoneInfo(timezone), Cron.parse(expression, timezone)
    midnight = datetime.fromisoformat(date).replace(tzinfo=UTC)
    found = midnight - DAY
    local: list[datetime] = []
    while found < midnight + 2 * DAY:
        found = cron.next_after(found)
        local.append(found.astimezone(zone))
    return [f"{time:%H:%M%z}" for time in local if f"{time:%Y-%m-%d}" == date]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 2 * * *", "03:00"),
        ("0 2 * * *", "03:00"),
        ("0,30 2 * * *", "03:00"),
        ("*/30 2 * * *", "03:00"),
        ("0-59/30 2 * * *", "03:00"),
        ("* 2 * * *", "03:00"),
        ("*/20 30 2 * * *", "03:00"),
        ("0 2,3 * * *", "03:00"),
        ("30 2,3 * * *", "03:00 03:30"),
        ("15 1-4 * * *", "01:15 03:00 03:15 04:15"),
        ("0 */2 * * *", "00:00 03:00 04:00 06:00 08:00 10:00 12:00 14:00 16:00 18:00 20:00 22:00"),
        ("*/30 1-2 * * *", "01:00 01:30 03:00"),
        ("*/30 2-3 * * *", "03:00 03:30"),
        ("*/30 1-4 * * *", "01:00 01:30 03:00 03:30 04:00 04:30"),
        ("30 2 29 3 *", "03:00"),
        ("*/30 2 29 3 *", "03:00"),
        ("30 2 28 3 *", ""),
        ("30 3 * * *", "03:30"),
    ],
)
def test_a_skipped_hour(expression: str, expected: str) -> None:
    found = local_firings(expression, "Europe/Berlin", "2026-03-29")
    assert " ".join(time[:5] for time in found) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 2 * * *", "02:30+0200"),
        ("0 2 * * *", "02:00+0200"),
        ("0 3 * * *", "03:00+0100"),
        ("0,30 2 * * *", "02:00+0200 02:30+0200"),
        ("*/30 30 2 * * *", "02:30+0200 02:30+0200"),
        ("*/60 2 * * *", "02:00+0200"),
        ("0 */2 1,25 10 *", " ".join(["00:00+0200 02:00+0200", *(f"{hour:02}:00+0100" for hour in range(4, 24, 2))])),
        ("15 1-3 * * *", "01:15+0200 02:15+0200 03:15+0100"),
        ("0 2-23/12 * * *", "02:00+0200 14:00+0100"),
        ("*/30 2 * * *", "02:00+0200 02:30+0200 02:00+0100 02:30+0100"),
        ("0/30 2 * * *", "02:00+0200 02:30+0200 02:00+0100 02:30+0100"),
        ("*/30 2 25 10 *", "02:00+0200 02:30+0200 02:00+0100 02:30+0100"),
    ],
)
def test_a_doubled_hour(expression: str, expected: str) -> None:
    assert " ".join(local_firings(expression, "Europe/Berlin", "2026-10-25")) == expected


@pytest.mark.parametrize(
    ("expression", "timezone"),
    [
        ("17 * * * *", "Europe/Berlin"),
        ("0 0-23 * * *", "Europe/Dublin"),
        ("*/30 * * * *", "America/Santiago"),
        ("@hourly", "Africa/Cairo"),
    ],
)
def test_round_the_clock_the_rhythm_is_unbroken(expression: str, timezone: str) -> None:
    cron = Cron.parse(expression, timezone)
    times = [cron.next_after(datetime(2026, 1, 1, tzinfo=UTC))]
    while times[-1].year == 2026:
        times.append(cron.next_after(times[-1]))
    assert len({after - before for before, after in pairwise(times)}) == 1


@pytest.mark.parametrize(
    ("timezone", "date", "expression", "expected"),
    [
        # Half an hour: 02:00 becomes 02:30, 02:00 becomes 01:30
        ("Australia/Lord_Howe", "2026-10-04", "15 2 * * *", "02:30+1100"),
        ("Australia/Lord_Howe", "2026-10-04", "45 2 * * *", "02:45+1100"),
        ("Australia/Lord_Howe", "2026-10-04", "15 1-3 * * *", "01:15+1030 02:30+1100 03:15+1100"),
        ("Australia/Lord_Howe", "2026-04-05", "45 1 * * *", "01:45+1100"),
        ("Australia/Lord_Howe", "2026-04-05", "15 1 * * *", "01:15+1100"),
        ("Australia/Lord_Howe", "2026-04-05", "*/20 1 * * *", "01:00+1100 01:20+1100 01:40+1100 01:40+1030"),
        # Midnight itself is skipped, or what follows 23:00 is 23:00
        ("America/Santiago", "2026-09-06", "0 0 * * *", "01:00-0300"),
        ("America/Santiago", "2026-04-04", "30 23 * * *", "23:30-0300"),
        ("America/Santiago", "2026-04-05", "0 0 * * *", "00:00-0400"),
        ("Asia/Beirut", "2026-03-29", "@daily", "01:00+0300"),
        ("Asia/Beirut", "2026-10-24", "30 23 * * *", "23:30+0300"),
        ("Africa/Cairo", "2026-04-24", "@daily", "01:00+0300"),
        ("America/Havana", "2026-11-01", "0 */12 * * *", "00:00-0400 12:00-0500"),
        # A day that never was
        ("Pacific/Apia", "2011-12-30", "0 12 * * *", ""),
        ("Pacific/Apia", "2011-12-31", "0 12 * * *", "00:00+1400 12:00+1400"),
        ("Pacific/Apia", "2011-12-31", "0 12 30 * *", "00:00+1400"),
        ("Pacific/Apia", "2011-12-31", "*/30 * * * 5", "00:00+1400"),
        ("Pacific/Apia", "2011-12-31", "*/30 9 * * *", "09:00+1400 09:30+1400"),
        # Summer is standard time, winter is the exception
        ("Europe/Dublin", "2026-03-29", "30 1 * * *", "02:00+0100"),
        ("Europe/Dublin", "2026-10-25", "30 1 * * *", "01:30+0100"),
        ("Asia/Kathmandu", "2026-03-29", "30 2 * * *", "02:30+0545"),
        # Two hours at once
        ("Antarctica/Troll", "2026-03-29", "30 1,2 * * *", "03:00+0200"),
        ("Antarctica/Troll", "2026-10-25", "30 1,2 * * *", "01:30+0200 02:30+0200"),
    ],
)  # fmt: skip
def test_other_clocks(timezone: str, date: str, expression: str, expected: str) -> None:
    assert " ".join(local_firings(expression, timezone, date)) == expected


def test_from_within_the_doubled_hour() -> None:
    fixed, often = Cron.parse("30 2 * * *", "Europe/Berlin"), Cron.parse("*/30 2 25 10 *", "Europe/Berlin")
    quarter_past_again = AUTUMN + timedelta(hours=1, minutes=15)
    assert fixed.next_after(quarter_past_again) == AUTUMN + timedelta(hours=25, minutes=30)
    assert often.next_after(quarter_past_again) == AUTUMN + timedelta(hours=1, minutes=30)
    assert often.next_after(AUTUMN + timedelta(minutes=30)) == AUTUMN + timedelta(hours=1)
    assert often.next_after(AUTUMN + timedelta(minutes=90)).year == 2027


def test_a_run_that_is_late_beyond_a_change_of_the_clock() -> None:
    cron = Cron.parse("30 2 * * *", "Europe/Berlin")
    planned = SPRING - timedelta(days=1) + timedelta(minutes=90)
    assert cron.next_from(planned, SPRING + timedelta(minutes=59)) == SPRING + timedelta(hours=1)
    assert cron.next_from(planned, SPRING + timedelta(minutes=60)) == SPRING + timedelta(hours=24, minutes=30)


def test_times_of_one_zone_are_compared_as_instants() -> None:
    """02:20 of the second showing is later than 02:40 of the first, though the clock says otherwise."""
    berlin = ZoneInfo("Europe/Berlin")
    planned, now = (datetime(2026, 10, 25, 2, minute, tzinfo=berlin) for minute in (40, 20))
    found = Cron.parse("*/10 * * * *", "Europe/Berlin").next_from(planned, now.replace(fold=1))
    assert found == AUTUMN + timedelta(minutes=90)


class Schedule(NamedTuple):
    """An expression beside what it means."""

    text: str
    minutes: frozenset[int]
    hours: frozenset[int]
    weekdays: frozenset[int]

    @property
    def rhythmic(self) -> bool:
        return "/" in self.text.split()[0] or len(self.hours) == 24

    def names(self, wall: datetime) -> bool:
        return wall.minute in self.minutes and wall.hour in self.hours and wall.isoweekday() % 7 in self.weekdays


def comma(values: frozenset[int]) -> str:
    return ",".join(map(str, sorted(values)))


def sets(of: range) -> st.SearchStrategy[frozenset[int]]:
    return st.frozensets(st.sampled_from(of), min_size=1, max_size=3)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    step = draw(st.sampled_from([0, 0, 7, 15, 20, 30]))
    minutes = frozenset(range(0, 60, step)) if step else draw(sets(range(60)))
    hours = draw(st.just(frozenset(range(24))) | sets(range(24)) | sets(range(4)))
    weekdays = draw(st.just(frozenset(range(7))) | sets(range(7)))
    text = f"{f'*/{step}' if step else comma(minutes)} {comma(hours)} * * {comma(weekdays)}"
    return Schedule(text, minutes, hours, weekdays)


def walk(schedule: Schedule, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """What the rule says, found by looking at the clock every minute."""
    shown: set[datetime] = set()
    due: list[datetime] = []
    instant, before = start, start.astimezone(zone).replace(tzinfo=None)
    while instant < end:
        wall = instant.astimezone(zone).replace(tzinfo=None, fold=0)
        hidden = [before + n * MINUTE for n in range(1, (wall - before) // MINUTE)]
        if (schedule.names(wall) and (schedule.rhythmic or wall not in shown)) or owed(schedule, hidden, wall):
            due.append(instant)
        shown.add(wall)
        instant, before = instant + MINUTE, wall
    return due


def owed(schedule: Schedule, hidden: list[datetime], wall: datetime) -> bool:
    """Whether the gap that ends at `wall` swallowed what nothing makes up for."""
    waited = next((n for n, time in enumerate(hidden) if schedule.names(time)), None)
    if waited is None:
        return False
    in_time = any(schedule.names(wall + n * MINUTE) for n in range(waited + 1))
    return not (schedule.rhythmic and in_time)


CHANGES = [
    ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"),
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("Europe/Dublin", "2026-03-29"),
    ("Europe/Dublin", "2026-10-25"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),
    ("America/Santiago", "2026-04-05"),
    ("America/Santiago", "2026-09-06"),
    ("Asia/Beirut", "2026-03-29"),
    ("Asia/Beirut", "2026-10-25"),
    ("Africa/Cairo", "2026-04-24"),
    ("Africa/Cairo", "2026-10-30"),
    ("America/Havana", "2026-03-08"),
    ("America/Havana", "2026-11-01"),
    ("Antarctica/Troll", "2026-03-29"),
    ("Antarctica/Troll", "2026-10-25"),
    ("Asia/Pyongyang", "2018-05-04"),
    ("Asia/Kathmandu", "1985-12-31"),
    ("America/Caracas", "2007-12-09"),
    ("Africa/Casablanca", "2026-02-15"),
    ("Pacific/Apia", "2011-12-30"),
    ("Pacific/Kwajalein", "1993-08-21"),
]


@settings(deadline=None, derandomize=True, max_examples=80)
@given(st.sampled_from(CHANGES), schedules(), st.lists(st.integers(0, 3 * 24 * 3600 - 1), max_size=4))
def test_every_minute_around_a_change(change: tuple[str, str], schedule: Schedule, seconds: list[int]) -> None:
    timezone, date = change
    start = datetime.fromisoformat(date).replace(tzinfo=UTC) - DAY - timedelta(hours=12)
    end = start + 3 * DAY
    cron = Cron.parse(schedule.text, timezone)
    due = walk(schedule, ZoneInfo(timezone), start, end)
    found = [cron.next_after(start - MINUTE)]
    while found[-1] < end:
        found.append(cron.next_after(found[-1]))
    assert found[:-1] == due
    for after in (start + timedelta(seconds=n) for n in seconds):
        upcoming = cron.next_after(after)
        assert upcoming > after
        assert upcoming == next((time for time in due if time > after), found[-1])
