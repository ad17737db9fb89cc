"""When a job that failed runs again."""

from __future__ import annotations

import random
from datetime import timedelta

from monque.options import Retry, seconds


def retry_delay(retry: Retry, fail_count: int) -> timedelta | None:
    """How long to wait after failure number `fail_count`, or None when it was the last one."""
    if fail_count >= retry.max_retries:
        return None
    cap = seconds(retry.cap)
    # Past 2^64 the cap has long taken over, and floats would overflow.
    delay = min(seconds(retry.base) * 2.0 ** min(fail_count, 64), cap)
    spread = delay * retry.jitter
    return timedelta(seconds=min(random.uniform(delay - spread, delay + spread), cap))  # noqa: S311  not a secret
