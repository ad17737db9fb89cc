"""When a job that failed runs again."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from monque.errors import ConfigurationError
from monque.job import read_retry
from monque.options import Retry, seconds
from monque.outcome import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping


def retry_delay(retry: Retry, fail_count: int) -> timedelta | None:
    """How long to wait after failure number `fail_count`, or None when it was the last one."""
    if fail_count >= retry.max_retries:
        return None
    cap = seconds(retry.cap)
    # Past 2^64 the cap has long taken over, and floats would overflow.
    delay = min(seconds(retry.base) * 2.0 ** min(fail_count, 64), cap)
    spread = delay * retry.jitter
    return timedelta(seconds=min(random.uniform(delay - spread, delay + spread), cap))  # noqa: S311  not a secret


def meaning(retry: Retry, error: BaseException) -> Verdict | None:
    """What the policy has to say about an exception of this type; None if that is nothing.

    Raises:
        ConfigurationError: It says something that means nothing.
    """
    say = next((retry.on[kind] for kind in type(error).__mro__ if kind in retry.on), None)
    try:
        said = None if say is None else say(error)
    except Verdict as raised:
        said = raised
    if said is None or isinstance(said, Verdict):
        return said
    raise ConfigurationError("retry.on", said, "Snooze, RetryIn, Cancel, Fail or None of its functions")


def policy_of_document(retry: Retry, document: Mapping[str, Any]) -> Retry:
    """The same for a job of which there are a few fields only, and no telling what is in them."""
    try:
        return policy(retry, None if document.get("retry") is None else read_retry(document["retry"]))
    except TypeError:
        return retry


def policy(retry: Retry, own: Retry | None) -> Retry:
    """The policy of a worker, or the one a job has of its own; the latter says nothing about exceptions."""
    return retry if own is None else replace(own, on=retry.on)
