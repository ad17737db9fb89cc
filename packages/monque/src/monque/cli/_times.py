"""Moments and lengths of time as people write them."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
_WORDS = {
    "millisecond": "ms",
    "sec": "s",
    "second": "s",
    "min": "m",
    "minute": "m",
    "hour": "h",
    "hr": "h",
    "day": "d",
    "week": "w",
}
_PART = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]+)\s*(?:,|and\b)?\s*")
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_SPACES = re.compile(r"\s+")

DURATIONS = "a length of time such as 90s, 10m, 1h30m, 2 days or 1w"
TIMES = (
    "a time such as now, 'in 10m', '2h ago', 'tomorrow 9:00', 2026-11-26, '2026-11-26 09:00' or "
    "2026-11-26T09:00:00+01:00 (without an offset, on this machine's clock)"
)


class TimeError(ValueError):
    """A text that says no time."""


def parse_duration(text: str) -> timedelta:
    """Read a length of time: `10m`, `1h30m`, `2 days`.

    Raises:
        TimeError: It is none.

    Example:
        >>> parse_duration("1h30m").total_seconds()
        5400.0
    """
    rest = text.strip().lower()
    total, at = timedelta(), 0
    try:
        while part := _PART.match(rest, at):
            total += _unit(part["unit"]) * float(part["number"])
            at = part.end()
    except (KeyError, OverflowError):
        at = 0
    if at == 0 or at < len(rest):
        raise TimeError(f"expected {DURATIONS}, got {text!r}")
    return total


def parse_time(text: str, now: datetime) -> datetime:
    """Read a moment: `in 10m`, `2h ago`, `tomorrow 9:00`, or ISO 8601.

    Args:
        text: What was written.
        now: From when to count, as an aware datetime.

    Raises:
        TimeError: It is none.

    Example:
        >>> from datetime import UTC, datetime
        >>> parse_time("in 10m", datetime(2030, 1, 1, tzinfo=UTC)).isoformat()
        '2030-01-01T00:10:00+00:00'
    """
    words = _SPACES.sub(" ", text.strip().lower())
    try:
        return _read(words, now).astimezone(UTC)
    except (ValueError, OverflowError):
        raise TimeError(f"expected {TIMES}, got {text!r}") from None


def _read(words: str, now: datetime) -> datetime:
    if words == "now":
        return now
    if words.startswith("in "):
        return now + parse_duration(words.removeprefix("in "))
    if words.endswith(" ago"):
        return now - parse_duration(words.removesuffix(" ago"))
    day, _, clock = words.partition(" ")
    if day in _DAYS:
        return _on(now.astimezone().date() + timedelta(days=_DAYS[day]), clock)
    return datetime.fromisoformat(words.upper())


def _on(day: date, clock: str) -> datetime:
    hour, _, rest = clock.removeprefix("at ").partition(":")
    # Python's own reading wants two digits of the hour.
    return datetime.combine(day, time.fromisoformat(f"{hour:0>2}:{rest or '00'}") if clock else time())


def _unit(word: str) -> timedelta:
    return _UNITS[word] if word in _UNITS else _UNITS[_WORDS[word.removesuffix("s")]]


def shown_duration(length: timedelta | float) -> str:
    """A length of time for people, in its two largest units.

    Example:
        >>> shown_duration(5400), shown_duration(0.25)
        ('1h 30m', '250ms')
    """
    rest = length.total_seconds() if isinstance(length, timedelta) else length
    if 0 < rest < 1:
        return f"{rest * 1000:.0f}ms"
    rest, parts = round(rest), list[str]()
    for unit in ("d", "h", "m", "s"):
        number, rest = divmod(rest, round(_UNITS[unit].total_seconds()))
        if number or parts:
            parts.append(f"{number}{unit}")
    return " ".join(part for part in parts[:2] if part[0] != "0") or "0s"


def shown_time(moment: datetime) -> str:
    """A moment for people, on this machine's clock.

    Example:
        >>> from datetime import UTC, datetime
        >>> len(shown_time(datetime(2030, 1, 1, tzinfo=UTC)))
        25
    """
    return moment.astimezone().isoformat(" ", "seconds")


def shown_from_now(moment: datetime, now: datetime) -> str:
    """How far away a moment is.

    Example:
        >>> from datetime import UTC, datetime, timedelta
        >>> now = datetime(2030, 1, 1, tzinfo=UTC)
        >>> shown_from_now(now + timedelta(minutes=10), now), shown_from_now(now - timedelta(hours=2), now)
        ('in 10m', '2h ago')
    """
    away = moment - now
    if abs(away) < timedelta(seconds=1):
        return "now"
    return f"in {shown_duration(away)}" if away > timedelta() else f"{shown_duration(-away)} ago"
