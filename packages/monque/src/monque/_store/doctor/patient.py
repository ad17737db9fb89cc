"""What is examined, and how findings are made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure, PyMongoError

from monque.diagnosis import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymongo import IndexModel
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

    from monque.options import Options

Document = dict[str, Any]

ok = partial(Finding, severity=Severity.OK)
unknown = partial(Finding, severity=Severity.UNKNOWN)
warning = partial(Finding, severity=Severity.WARNING)
error = partial(Finding, severity=Severity.ERROR)

FIX = "run `monque doctor --fix-indexes`"
_UNAUTHORIZED = (13, 8000)


@dataclass(frozen=True, slots=True)
class Patient:
    """A collection of jobs, and what is wanted of it.

    Attributes:
        jobs: The collection. Text in it that is no valid UTF-8 keeps nothing from being read.
        options: Those of the instance that asks.
        indexes: Which indexes it is to have.
    """

    jobs: AsyncCollection[Document]
    options: Options
    indexes: Sequence[IndexModel]

    @property
    def admin(self) -> AsyncDatabase[Any]:
        """Where the server answers questions about itself."""
        return self.jobs.database.client.admin

    async def hello(self) -> Document:
        """Who the server says it is."""
        return await self.admin.command("hello")

    async def now(self) -> datetime:
        """The server's time."""
        return aware((await self.hello())["localTime"])


def aware(moment: datetime) -> datetime:
    """What a client of the user's own settings has read."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def unseen(check: str, problem: PyMongoError) -> Finding:
    """What could not be looked at."""
    if isinstance(problem, OperationFailure) and problem.code in _UNAUTHORIZED:
        advice = "to see it, ask as a user with the roles clusterMonitor, and read on the database `local`"
        return unknown(check, seen=f"could not be seen: {wording(problem)}", advice=advice)
    return unknown(
        check, seen=f"could not be seen: {wording(problem)}", advice="ask again, and look at the server's log"
    )


def wording(problem: PyMongoError) -> str:
    """What the server said."""
    details = problem.details if isinstance(problem, OperationFailure) else None
    said = str((details or {}).get("errmsg") or problem)
    # What the server repeats of the command itself helps nobody.
    return said.partition(" {")[0].partition(", full error")[0]


def span(length: timedelta) -> str:
    """A length of time for people, in its two largest units."""
    left = round(abs(length.total_seconds()))
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number:
            parts.append(f"{number:,} {unit}")
    return " ".join(parts[:2]) or "0 s"


def few(names: Sequence[object], most: int = 5) -> str:
    """The first few of them."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
