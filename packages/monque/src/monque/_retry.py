"""When a job that failed runs again."""

from __future__ import annotations

import random
from dataclasses import replace
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


def meaning(retry: Retry, error: BaseException) -> object:
    """What the policy has to say about an exception of this type; None if that is nothing."""
    say = next((retry.on[kind] for kind in type(error).__mro__ if kind in retry.on), None)
    return None if say is None else say(error)


def policy(retry: Retry, own: Retry | None) -> Retry:
    """The policy of a worker, or the one a job has of its own; the latter says nothing about exceptions."""
    return retry if own is None else replace(own, on=retry.on)
