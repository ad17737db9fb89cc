"""Functions for processes: a module of its own, which the children find by its name."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from monque import current_job


def double(number: int) -> tuple[str, int]:
    current_job().progress(0.5, "half")
    return str(current_job().id), 2 * number


def wait() -> None:
    current_job().progress(0)
    threading.Event().wait(60)


def wait_come_what_may() -> None:
    current_job().progress(0)
    for _ in range(600):
        with suppress(BaseException):
            time.sleep(0.1)
