"""Whose lease ran out, and what becomes of the job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from monque import _transitions as transitions
from monque._cron import Cron
from monque.errors import InvalidArgumentError, LeaseExpiredError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from monque._transitions import Transition

Lease = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What to do about leases.

    Attributes:
        requeue: Takes back jobs that have attempts left.
        fail: Takes back jobs that have none, each with the reason.
        next_expiry: When the first of the other leases runs out if it is not renewed.
    """

    requeue: list[Transition]
    fail: list[tuple[Transition, LeaseExpiredError]]
    next_expiry: datetime | None


def plan_recovery(
    leases: Iterable[Lease], *, now: datetime, timeout: float, max_attempts: Callable[[Lease], int]
) -> Recovery:
    """Sort out which of the leases ran out.

    A lease lasts for three heartbeat intervals of whoever took it, or for `timeout` seconds where that is not known.
    How many attempts a job gets, `max_attempts` says.
    """
    plan = Recovery([], [], None)
    expiries: list[datetime] = []
    for lease in leases:
        ended = expiry(lease, timeout)
        if ended is not None and ended > now:
            expiries.append(ended)
        elif (attempts := _attempts(lease)) >= max_attempts(lease):
            error = LeaseExpiredError(lease["_id"], attempts)
            plan.fail.append((_give_up(lease, now, str(error)), error))
        else:
            plan.requeue.append(transitions.recover(lease, failed_because=None))
    return Recovery(plan.requeue, plan.fail, min(expiries, default=None))


def expiry(lease: Lease, timeout: float) -> datetime | None:
    """When a lease runs out if it is not renewed; None if it says nothing about that, and so has run out."""
    renewed = lease.get("lastHeartbeat") or lease.get("lockedAt")
    if not isinstance(renewed, datetime):
        return None
    interval = lease.get("heartbeatInterval")
    if isinstance(interval, int | float) and interval > 0:
        timeout = min(3 * interval / 1000, _LONGEST_LEASE)
    try:
        return renewed + timedelta(seconds=timeout)
    except OverflowError:
        return None


_LONGEST_LEASE = 86_400.0


def _attempts(lease: Lease) -> int:
    attempts = lease.get("attempts")
    if isinstance(attempts, float) and attempts.is_integer():
        return int(attempts)
    return attempts if isinstance(attempts, int) else 0


def _give_up(lease: Lease, now: datetime, reason: str) -> Transition:
    """It fails; one with a follow-up goes on with that, and a recurring one with its next occurrence."""
    if lease.get("isFollowed"):
        return transitions.recover_followed(lease, failed_because=reason)
    expression, timezone = lease.get("repeatInterval"), lease.get("timezone") or "UTC"
    try:
        cron = Cron.parse(str(expression), str(timezone)) if expression else None
    except InvalidArgumentError:
        cron = None
    if cron is None:
        return transitions.recover(lease, failed_because=reason)
    return transitions.recover_recurring(lease, next_run_at=cron.next_after(now), failed_because=reason)
