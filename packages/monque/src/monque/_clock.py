"""The server's clock, as seen from here."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ServerClock:
    """Reckons the server's time from what it said last and the time that went by here since.

    The reckoning is never ahead: what the server said was read before its answer arrived. A job that is to run "now"
    is therefore due at once, and nothing is early. The machine's own date plays no part.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._offset = 0.0

    def observe(self, *answers: tuple[datetime, float]) -> None:
        """Take over what the server said, each with the monotonic time its answer arrived; the quickest counts."""
        self._offset = max((said - _EPOCH).total_seconds() - arrived for said, arrived in answers)

    def correct(self, said: datetime, *, asked: float, arrived: float) -> None:
        """Give up what cannot be true any more: the server said this between the question and its answer."""
        since_epoch = (said - _EPOCH).total_seconds()
        self._offset = min(max(self._offset, since_epoch - arrived), since_epoch - asked)

    def now(self) -> datetime:
        """The server's time, cut to milliseconds as BSON keeps it."""
        elapsed = self._monotonic() + self._offset
        return _EPOCH + timedelta(milliseconds=int(elapsed * 1000))

    def at(self, moment: datetime) -> float:
        """The monotonic time at which the server's clock will show `moment`."""
        return (moment - _EPOCH).total_seconds() - self._offset
