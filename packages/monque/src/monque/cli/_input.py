"""Waiting for what people type, or a program writes, on stdin."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def interruptible() -> Generator[None]:
    """Let Ctrl-C end what waits for input; asyncio would wait for the input first."""
    before: Any = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
