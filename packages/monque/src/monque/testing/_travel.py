"""Letting time go by: what Monque has written down moves into the past, and the real code finds it there."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from monque._store.indexes import ENDED
from monque._store.orders import PAUSES, fleet_of
from monque.errors import InvalidArgumentError
from monque.job import JobStatus
from monque.options import is_duration, seconds

if TYPE_CHECKING:
    from monque._monque import Monque

# Every date of a job's document, those of small documents in it, and those of lists of such.
_DATES = ("nextRunAt", "createdAt", "updatedAt", "lockedAt", "lastHeartbeat", "startedAt", "expireAt")
_PARTS = {"followUp": "nextRunAt", "progress": "at"}
_LISTS = {"errors": "at", "logs": "at"}
# Longer than any lease.
_LONG_AGO = timedelta(days=2)
_UNITS = {"weeks": 604_800, "days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1}


async def travel(
    monque: Monque, *, weeks: float = 0, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
) -> None:
    """Let time go by for the jobs of this collection, as if every process had stood still meanwhile.

    Due times and leases follow the server's clock, so it is the jobs that move: every date in their documents goes back
    by this much, and the instance looks at them anew. What became due is due, leases ran out unless this very instance
    holds them, and jobs whose retention is over are gone, as are pauses. Nothing runs by itself: `drain` comes next, if
    the instance is not at work.

    A recurring job runs once, however many of its occurrences went by; travel from one to the next to have all of them.
    Its next time is then one on the real clock again. `datetime.now()` in handlers does not move.

    Args:
        monque: The connected instance.
        weeks: How many weeks go by.
        days: How many days, in addition.
        hours: How many hours, in addition.
        minutes: How many minutes, in addition.
        seconds: How many seconds, in addition.

    Raises:
        InvalidArgumentError: That is no length of time.
        ConnectionError: Not connected.

    Example:
        >>> import asyncio
        >>> from monque import Monque
        >>> from monque.testing import drain
        >>> monque = Monque()
        >>> @monque.worker("remind")
        ... async def remind(who: str) -> None:
        ...     print("Time to go,", who)
        >>> async def main() -> None:
        ...     async with monque:
        ...         await remind.with_(delay=3 * 3600).enqueue("Ada")
        ...         await travel(monque, hours=3)
        ...         await drain(monque)
        >>> asyncio.run(main())
        Time to go, Ada
    """
    await go_by(monque, _distance(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds))


def _distance(**units: float) -> timedelta:
    for unit, number in units.items():
        if not is_duration(number) or isinstance(number, timedelta) or number < 0:
            raise InvalidArgumentError(unit, number, "a number, not below 0: time goes forward only")
    total = float(sum(number * _UNITS[unit] for unit, number in units.items()))
    if not is_duration(total):
        raise InvalidArgumentError("seconds", total, "no more than 1,000 years in all")
    return timedelta(seconds=seconds(total))


async def go_by(monque: Monque, distance: timedelta) -> None:
    """The same, given as one length of time."""
    connected = monque._connection()
    milliseconds = round(distance.total_seconds() * 1000)
    await connected.collection.update_many({}, [{"$set": _moved(milliseconds)}])
    pauses = {field: _earlier(f"${field}", milliseconds) for field in ("since", "expireAt")}
    await fleet_of(connected.collection).update_many(PAUSES, [{"$set": pauses}])
    # The server does it by itself, but only once a minute.
    expired = {"status": {"$in": ENDED}, "expireAt": {"$type": "date"}, "$expr": {"$lte": ["$expireAt", "$$NOW"]}}
    await connected.collection.delete_many(expired)
    _look_anew(monque)


def _moved(milliseconds: int) -> dict[str, Any]:
    """The dates of a document, so much earlier; what is no date, or is not there, stays as it is."""
    moved: dict[str, Any] = {name: _earlier(f"${name}", milliseconds) for name in _DATES}
    for name, date in _PARTS.items():
        moved[name] = _part(f"${name}", date, milliseconds)
    for name, date in _LISTS.items():
        parts = {"$map": {"input": f"${name}", "in": _part("$$this", date, milliseconds)}}
        moved[name] = {"$cond": [{"$isArray": f"${name}"}, parts, f"${name}"]}
    return moved


def _part(part: str, date: str, milliseconds: int) -> dict[str, Any]:
    merged = {"$mergeObjects": [part, {date: _earlier(f"{part}.{date}", milliseconds)}]}
    return {"$cond": [{"$eq": [{"$type": part}, "object"]}, merged, part]}


def _earlier(date: str, milliseconds: int) -> dict[str, Any]:
    return {"$cond": [{"$eq": [{"$type": date}, "date"]}, {"$subtract": [date, milliseconds]}, date]}


async def expire_leases(monque: Monque, name: str | None = None) -> int:
    """Let the leases of jobs run out at once that another process holds, or has held: one that was killed, say.

    They are then taken back like any others: by the instance, if it is at work, or by `drain`.

    Args:
        monque: The connected instance. What it runs itself stays its own.
        name: Of which jobs, if not of all.

    Returns:
        How many there were.

    Raises:
        ConnectionError: Not connected.

    Example:
        >>> import asyncio
        >>> from monque import Monque
        >>> async def main() -> None:
        ...     async with Monque() as monque:
        ...         print(await expire_leases(monque))
        >>> asyncio.run(main())
        0
    """
    connected = monque._connection()
    query: dict[str, Any] = {"status": JobStatus.PROCESSING.value, "claimedBy": {"$ne": monque.instance_id}}
    if name is not None:
        query["name"] = name
    back = round(_LONG_AGO.total_seconds() * 1000)
    moved = {field: _earlier(f"${field}", back) for field in ("lockedAt", "lastHeartbeat")}
    expired = await connected.collection.update_many(query, [{"$set": moved}])
    _look_anew(monque)
    return expired.modified_count


def _look_anew(monque: Monque) -> None:
    connected = monque._connection()
    connected.obey()
    if connected.engine is not None:
        connected.engine.look_anew()
