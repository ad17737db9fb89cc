"""The end of an instance: whether it has been called for, and how long everything may take from then on."""

from __future__ import annotations

import asyncio
import time


class Shutdown:
    """Whether an instance is to end.

    Attributes:
        begun: Set once it is.
        hurry: Set once nobody waits for handlers any more.
        since: When it was said, on the monotonic clock.
        give_up_at: When nothing is tried any more.
        clean_up: How many seconds handlers that were cancelled get to clean up.
    """

    clean_up = 5.0

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.hurry = asyncio.Event()
        self.since = self.give_up_at = float("inf")

    def begin(self, timeout: float) -> None:
        """It is to end; handlers at work have so many seconds."""
        if not self.begun.is_set():
            self.begun.set()
            self.since = time.monotonic()
            self.give_up_at = self.since + timeout + self.clean_up
