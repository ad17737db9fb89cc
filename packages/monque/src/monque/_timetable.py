"""When an instance has to look up from what it is doing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from monque._clock import ServerClock

_NEVER = float("inf")
# The reckoning may be ahead by as long as an answer takes; a timer that rings a moment later seldom rings in vain.
_AFTER = 0.002


class Timetable:
    """The next poll, the next job that becomes due, the next lease that may run out. One timer serves them all.

    It may ring too early, the server's clock being reckoned: then the look finds nothing, and what lies ahead is asked
    for again.

    Attributes:
        unknown: Whether what lies ahead has to be asked for again.
    """

    def __init__(self, clock: ServerClock) -> None:
        self._clock = clock
        self._poll_at = 0.0
        self._due_at = _NEVER
        self._lease_at = _NEVER
        self._resume_at = _NEVER
        self._looked_at = time.monotonic()
        self._known: AbstractSet[str] = frozenset()
        self.unknown = True

    def is_time_to_look(self, interval: float) -> bool:
        """Whether to look for due jobs of all names now; the next poll is then `interval` seconds away."""
        now = time.monotonic()
        if now < min(self._poll_at, self._due_at):
            return False
        self._poll_at = now + interval
        self._due_at = _NEVER
        # Taken before anything is asked: a job that becomes due meanwhile is due after it.
        self._looked_at = now
        self._known = frozenset()
        self.unknown = True
        return True

    def age(self) -> float:
        """Seconds since it was time to look for jobs of all names."""
        return time.monotonic() - self._looked_at

    def is_lease_due(self) -> bool:
        """Whether a lease may have run out by now."""
        return time.monotonic() >= self._lease_at

    def resume(self, at: datetime | None) -> None:
        """What was paused goes on then."""
        self._resume_at = _NEVER if at is None else self._clock.at(at) + _AFTER

    def is_time_to_resume(self) -> bool:
        """Whether something that was paused may go on by now."""
        return time.monotonic() >= self._resume_at

    def hasten(self) -> None:
        """Poll at once."""
        self._poll_at = 0.0

    def expect(self, due: datetime) -> None:
        """A job will be due then."""
        self._due_at = min(self._due_at, self._clock.at(due) + _AFTER)

    def taken(self, names: AbstractSet[str]) -> None:
        """All jobs of these names that were due are taken; what comes next has to be known."""
        self.unknown = self.unknown or not names <= self._known

    def surveyed(self, names: AbstractSet[str], next_due: datetime | None, next_expiry: datetime | None) -> None:
        """What lies ahead for jobs of these names is this."""
        self._known |= names
        if next_due is not None:
            self.expect(next_due)
        self._lease_at = _NEVER if next_expiry is None else self._clock.at(next_expiry)
        self.unknown = False

    def left(self) -> float:
        """Seconds until there is something to do."""
        return max(min(self._poll_at, self._due_at, self._lease_at, self._resume_at) - time.monotonic(), 0)
