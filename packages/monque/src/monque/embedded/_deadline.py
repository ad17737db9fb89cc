"""How long a start may take, and whether anybody still wants it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from monque.embedded._errors import StartTimeoutError

if TYPE_CHECKING:
    import threading

_PAUSE = 0.01


class Abandoned(Exception):  # noqa: N818  nobody's error
    """Nobody wants the server any more."""


class Deadline:
    """Ends waiting loops."""

    def __init__(self, seconds: float, abandoned: threading.Event) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._abandoned = abandoned

    def pause(self) -> None:
        """Wait a moment.

        Raises:
            Abandoned: Nobody is interested any more.
            StartTimeoutError: Time is up.
        """
        self._abandoned.wait(_PAUSE)
        self.check()

    def check(self) -> None:
        """Raise if there is nothing to wait for, as `pause` does."""
        if self._abandoned.is_set():
            raise Abandoned
        if time.monotonic() > self._end:
            raise StartTimeoutError(f"MongoDB was not ready within {self._seconds:g} s")
