"""Ctrl-C and SIGTERM: the first asks to stop, the second to hurry, the third does what it does by default."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Watches for signals while its block lasts.

    Args:
        stop: Called at the first signal.
        hurry: Called at the second.

    Attributes:
        begun: Set by the first signal.
        exit_code: 128 + the number of the first signal, or 0.
    """

    def __init__(self, *, stop: Callable[[], None], hurry: Callable[[], None]) -> None:
        self.begun = asyncio.Event()
        self.exit_code = 0
        self._stop = stop
        self._hurry = hurry

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._received, number)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave_to_default()

    def _received(self, number: signal.Signals) -> None:
        if self.begun.is_set():
            self._leave_to_default()
            self._hurry()
        else:
            self.exit_code = 128 + number
            self.begun.set()
            self._stop()

    def _leave_to_default(self) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
