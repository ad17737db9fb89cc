"""Cron expressions: what they accept, and when they come true.

The grammar is checked here, so that a mistake can be pointed at. Which wall-clock times an expression names
is left to cronsim, which never sees a time zone. When those times are, on clocks that are put forward and
back, is decided here, by the rule in `docs/explanation/cron.md`.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from monque.errors import InvalidArgumentError, InvalidCronError

__all__ = ["Cron"]

_MAX_LENGTH = 1024  # cron-parser's limit; naming every value of every field takes half of it
_USUAL = "a datetime with a time zone, well within the years 1 to 9999"
_SECOND = timedelta(seconds=1)
_PROBE = datetime(2000, 1, 1)  # noqa: DTZ001  a wall-clock time; every 29 February falls due within 50 years of it

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class _Field(NamedTuple):
    title: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # the first one means `low`
    extra: str = ""

    @property
    def accepts(self) -> str:
        names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"the {self.title} field accepts {self.low}-{self.high}{names}, *, a-b, a,b, */n{self.extra}"


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_DAY = _Field("day-of-month", 1, 31, extra=", L (the last day)")
_WEEKDAY = _Field("day-of-week", 0, 7, _WEEKDAYS, ", 5L (the last Friday), 1#2 (the second Monday); 7 is Sunday too")
_SECONDS = _Field("second", 0, 59)
_ORDER = "minute hour day-of-month month day-of-week"
_FIELDS = (_Field("minute", 0, 59), _Field("hour", 0, 23), _DAY, _Field("month", 1, 12, _MONTHS), _WEEKDAY)


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression that is known to be valid, in its time zone. Made by `Cron.parse`.

    Attributes:
        expression: The expression, verbatim.
        timezone: IANA name of the time zone whose clock it is read on.
    """

    expression: str
    timezone: str
    _zone: ZoneInfo = field(repr=False, compare=False)
    _fields: str = field(repr=False, compare=False)
    _rhythmic: bool = field(repr=False, compare=False)  # it follows elapsed time where the clock jumps

    @classmethod
    def parse(cls, expression: str, timezone: str = "UTC") -> Cron:
        """Check an expression and a time zone.

        Raises:
            InvalidCronError: The expression cannot be understood, or never comes true.
            InvalidArgumentError: There is no such time zone.
        """
        return _parse(expression, timezone)

    def next_after(self, planned: datetime) -> datetime:
        """The first occurrence after `planned`, in UTC and whole seconds.

        Raises:
            InvalidArgumentError: `planned` has no time zone, or the calendar ends first.
        """
        instant = _in_utc("planned", planned).replace(microsecond=0)
        try:
            return self._following(instant.astimezone(self._zone))
        except (StopIteration, OverflowError) as error:
            raise InvalidArgumentError("planned", planned, _USUAL) from error

    def next_from(self, planned: datetime, now: datetime) -> datetime:
        """The planned time after a run that was planned for `planned` and is over `now`.

        Occurrences missed in between are not run one by one: the run that is over has caught up with them.

        Raises:
            InvalidArgumentError: A time has no time zone, or the calendar ends first.
        """
        return self.next_after(max(_in_utc("planned", planned), _in_utc("now", now)))

    def _following(self, local: datetime) -> datetime:
        wall = local.replace(tzinfo=None, fold=0)
        upcoming = self._wall_after(wall)
        jump = self._jump_at(wall)
        if jump is None or (not local.fold and upcoming < jump.old):
            return self._instant(upcoming)
        # The clock is put back: it shows `jump.new` to `jump.old` twice, and the first time is over.
        if self._rhythmic:
            again = upcoming if local.fold else self._wall_from(jump.new)
            if again < jump.old:
                return _utc(again, self._zone, fold=1)
        return self._instant(self._wall_from(jump.old))

    def _instant(self, wall: datetime) -> datetime:
        """When an occurrence runs that the clock has not shown yet."""
        jump = self._jump_at(wall)
        if jump is None or jump.new < jump.old:
            return _utc(wall, self._zone)
        if self._rhythmic:
            upcoming = self._wall_from(jump.new)
            if upcoming - jump.new <= wall - jump.old:
                return self._instant(upcoming)
        return jump.instant

    def _wall_after(self, wall: datetime) -> datetime:
        return next(CronSim(self._fields, wall))

    def _wall_from(self, wall: datetime) -> datetime:
        return self._wall_after(wall - _SECOND)

    def _jump_at(self, wall: datetime) -> _Jump | None:
        """The jump of the clock that hides this wall-clock time, or shows it twice."""
        first, second = _utc(wall, self._zone), _utc(wall, self._zone, fold=1)
        if first == second:
            return None
        low, high = min(first, second), max(first, second)
        before, after = self._offset(low), self._offset(high)
        seconds = range((high - low) // _SECOND)
        instant = low + _SECOND * bisect_left(seconds, x=True, key=lambda s: self._offset(low + s * _SECOND) == after)
        wall_in_utc = instant.replace(tzinfo=None)
        return _Jump(instant, wall_in_utc + before, wall_in_utc + after)

    def _offset(self, instant: datetime) -> timedelta:
        return instant.astimezone(self._zone).replace(tzinfo=None) - instant.replace(tzinfo=None)


class _Jump(NamedTuple):
    """The clock is put forward or back: at `instant` it shows `new` instead of `old`."""

    instant: datetime
    old: datetime
    new: datetime


def _utc(wall: datetime, zone: ZoneInfo, fold: int = 0) -> datetime:
    return wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _in_utc(argument: str, time: datetime) -> datetime:
    # Through UTC, because datetimes of one zone are compared by their wall-clock times.
    with suppress(OverflowError):
        if time.utcoffset() is not None:
            return time.astimezone(UTC)
    raise InvalidArgumentError(argument, time, _USUAL)


@lru_cache(maxsize=512)
def _parse(expression: str, timezone: str) -> Cron:
    zone = _zone(timezone)
    if len(expression) > _MAX_LENGTH:
        raise InvalidCronError(expression, _MAX_LENGTH, f"expected at most {_MAX_LENGTH} characters")
    words = list(re.finditer(r"\S+", expression, re.ASCII))
    aliased = bool(words) and words[0].group().startswith("@")
    fields = _expand(expression, words) if aliased else _read(expression, words)
    simulator = _simulate(expression, fields, words[-min(3, len(words))].start())
    every_few_minutes = len(simulator.minutes) > 1 and bool(re.search("[*/]", fields[1]))
    rhythmic = every_few_minutes or len(simulator.hours) == 24
    return Cron(expression, timezone, zone, " ".join(fields), rhythmic)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:  # OSError: "Europe" is a directory
        raise InvalidArgumentError("timezone", name, "an IANA time zone name such as 'Europe/Berlin'") from error


def _simulate(expression: str, fields: list[str], position: int) -> CronSim:
    try:
        simulator = CronSim(" ".join(fields), _PROBE)
        next(simulator)
    except (CronSimError, StopIteration) as error:
        problem = "it never comes true: no day has this day-of-month, month and day-of-week"
        raise InvalidCronError(expression, position, problem) from error
    return simulator


def _expand(expression: str, words: list[re.Match[str]]) -> list[str]:
    alias = words[0].group()
    if alias.lower() not in _ALIASES:
        raise InvalidCronError(expression, words[0].start(), f"expected one of {', '.join(_ALIASES)}, got {alias!r}")
    if len(words) > 1:
        raise InvalidCronError(expression, words[1].start(), f"nothing may follow {alias}")
    return ["0", *_ALIASES[alias.lower()].split()]


def _read(expression: str, words: list[re.Match[str]]) -> list[str]:
    """Check every field, and return all six in a spelling that cronsim takes for what is meant."""
    kinds = _FIELDS if len(words) < 6 else (_SECONDS, *_FIELDS)
    fields = [_Reader(expression, word, kind).read() for word, kind in zip(words, kinds, strict=False)]
    if not 5 <= len(words) <= 6:
        position = words[6].start() if len(words) > 6 else len(expression)
        problem = f"expected 5 fields ({_ORDER}) or 6 (second first), got {len(words)}"
        raise InvalidCronError(expression, position, problem)
    return fields if len(fields) == 6 else ["0", *fields]


class _Reader:
    """Reads one field, and knows how far it has come."""

    def __init__(self, expression: str, word: re.Match[str], kind: _Field) -> None:
        self._expression = expression
        self._word = word
        self._at = word.start()
        self._kind = kind

    def read(self) -> str:
        items = [self._item()]
        while self._take(","):
            items.append(self._item())
        if self._at < self._word.end():
            raise self._error(self._at)
        return ",".join(items)

    def _item(self) -> str:
        if self._kind is _DAY and self._take("L"):
            return "L"
        if self._take(r"\*"):
            return "*" + self._step()
        low = self._value()
        if self._kind is _WEEKDAY and self._take("L"):
            return f"{low}L"
        if self._kind is _WEEKDAY and self._take("#"):
            return f"{low}#{self._number(1, 5)}"
        return self._range(low) if self._take("-") else f"{low}{self._step()}"

    def _range(self, low: int) -> str:
        start = self._at
        high = self._value()
        if high < low:
            raise self._error(start, f"; a range runs upwards, not from {low} to {high}")
        step = self._step()
        # cronsim reads 5-5/15 as 5/15, which is 5, 20, 35, 50.
        return f"{low}-{high}{step}" if low < high else str(low)

    def _step(self) -> str:
        return f"/{self._number(1)}" if self._take("/") else ""

    def _value(self) -> int:
        start = self._at
        name = self._take("[A-Z]{3}").upper()
        if not name:
            return self._number(self._kind.low, self._kind.high)
        if name not in self._kind.names:
            raise self._error(start)
        return self._kind.low + self._kind.names.index(name)

    def _number(self, low: int, high: int = sys.maxsize) -> int:
        start = self._at
        digits = self._take("[0-9]+")
        if not digits or not low <= int(digits) <= high:
            raise self._error(start)
        return int(digits)

    def _take(self, pattern: str) -> str:
        """Go past what matches here, if anything does."""
        end = self._word.end()
        found = re.compile(pattern, re.ASCII | re.IGNORECASE).match(self._expression, self._at, end)
        self._at = found.end() if found else self._at
        return found.group() if found else ""

    def _error(self, position: int, more: str = "") -> InvalidCronError:
        problem = f"{self._kind.accepts}, got {self._word.group()!r}{more}"
        return InvalidCronError(self._expression, position, problem)
