"""The fleet as values: instances at work, and names that are paused."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  annotations are for users to look at
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003  likewise
from typing import Literal

from bson import ObjectId  # noqa: TC002  likewise

__all__ = ["Health", "Instance", "InstanceStatus", "Pause", "RunningJob"]

NOT_CONNECTED = "not connected: initialize() was not called, or close() was"

InstanceStatus = Literal["working", "draining", "stopping", "missing"]


@dataclass(frozen=True, slots=True)
class Pause:
    """A name of which no jobs are claimed; see `Monque.fleet`.

    Attributes:
        name: The name.
        since: When this was said, by the server's clock.
        until: When it ends by itself; None if it does not.
        reason: Why, if that was said.
    """

    name: str
    since: datetime
    until: datetime | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job at work in an instance.

    Attributes:
        job_id: Its id.
        name: Its name.
        since: When it was claimed, by the server's clock.
    """

    job_id: ObjectId
    name: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance, as it was when it said so last; see `Monque.fleet`.

    Attributes:
        id: Its id, fresh at every start of a process.
        host: The machine.
        pid: The process.
        version: Which Monque it is.
        started_at: When it began to work, by the server's clock.
        last_beat: When it said this.
        workers: How many jobs it runs at once, by name.
        running: Jobs at work in it, at most 20, those that have taken longest.
        running_count: How many there were in all.
        status: `"working"`; `"draining"`: it claims nothing more; `"stopping"`: it is about to end; `"missing"`: it has
            said nothing for as long as a lease lasts.
    """

    id: str
    host: str
    pid: int
    version: str
    started_at: datetime
    last_beat: datetime
    workers: Mapping[str, int]
    running: tuple[RunningJob, ...]
    running_count: int
    status: InstanceStatus


@dataclass(frozen=True, slots=True)
class Health:
    """How an instance is doing, by what it knows itself; see `Monque.health`.

    Attributes:
        healthy: Whether nothing is wrong: there are no `reasons`.
        connected: Whether a server that takes writes is known.
        working: Whether it is at work: started, and not stopped.
        last_claim: When it last got a job, by the server's clock.
        last_settle: When it last wrote what came of one.
        loop_lag: How long the event loop took last to answer, in seconds, or has not answered.
        lease_age: For how many seconds the leases of what it holds have not been renewed; None if it holds nothing.
        running: How many handlers are at work.
        reasons: Why it is not healthy, in words.

    Example:
        >>> from monque import Monque
        >>> Monque().health().reasons
        ('not connected: initialize() was not called, or close() was',)
    """

    healthy: bool
    connected: bool
    working: bool
    last_claim: datetime | None
    last_settle: datetime | None
    loop_lag: float
    lease_age: float | None
    running: int
    reasons: tuple[str, ...]


def unwell(*reasons: str) -> Health:
    """How one is doing that does not work."""
    return Health(
        healthy=not reasons,
        connected=False,
        working=False,
        last_claim=None,
        last_settle=None,
        loop_lag=0,
        lease_age=None,
        running=0,
        reasons=reasons,
    )
