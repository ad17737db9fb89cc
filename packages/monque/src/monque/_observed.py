"""An instance as those see it who watch it, from whatever thread."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from monque import sync
from monque._monque import Monque
from monque.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from monque._store.backlog import Backlog

# Seconds: the same answer will do for so long, and nobody waits longer for a new one.
_FRESH = 5.0
_PATIENCE = 2.5


class Observed:
    """One instance, and what it was found to have to do last.

    Attributes:
        monque: The instance itself.
    """

    def __init__(self, monque: Monque | sync.Monque) -> None:
        self.monque = sync.asynchronous(monque) if isinstance(monque, sync.Monque) else monque
        if not isinstance(self.monque, Monque):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidArgumentError("monque", monque, "a Monque, or a monque.sync.Monque")
        self._lock = threading.Lock()
        self._question: Future[list[Backlog]] | None = None
        self._asked = 0.0
        self._known: Sequence[Backlog] = ()

    def backlog(self) -> Sequence[Backlog]:
        """What waits and what runs, as it was a moment ago.

        Where an event loop runs, nobody may wait: the question is asked, and its answer is there the next time.
        """
        question = self._ask()
        if question is not None:
            with suppress(Exception):  # the database does not answer; what was known last is told again
                self._known = question.result(0 if _is_on_a_loop() else _PATIENCE)
        return self._known

    def _ask(self) -> Future[list[Backlog]] | None:
        with self._lock:
            if self._question is None or (self._question.done() and time.monotonic() - self._asked >= _FRESH):
                self._asked = time.monotonic()
                self._question = self.monque.ask_for_backlog()
            return self._question


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
