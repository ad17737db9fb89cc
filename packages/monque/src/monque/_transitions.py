"""The state diagram: every change of a job's state, each the filter it is fenced by and the update it makes.

    enqueue    → pending                             (an insert, see `monque._intake`)
    claim      pending → processing
    complete   processing → completed
    retry      processing → pending                  after a failure, with backoff
    fail       processing → failed                   for good
    release    processing → pending                  no attempt spent
    reject     processing → failed                   the document is no job
    refuse     pending → failed                      likewise, and it cannot even be claimed

Everything out of `processing` is fenced by the claim token: it changes nothing unless the claim still holds. It leaves
the token behind as `settledBy`, so that a write whose answer was lost can be recognised as done when it is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monque.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bson import ObjectId

DUE: dict[str, Any] = {"$expr": {"$lte": ["$nextRunAt", "$$NOW"]}}
_CLAIM_FIELDS = {
    "claimedBy": "",
    "claimToken": "",
    "lockedAt": "",
    "lastHeartbeat": "",
    "heartbeatInterval": "",
}


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state of one or more jobs.

    Attributes:
        jobs: The ids it is about.
        filter: Which of them it may change.
        update: What it changes.
    """

    jobs: Sequence[ObjectId]
    filter: dict[str, Any]
    update: dict[str, Any]


def claim(jobs: Sequence[ObjectId], *, token: str, instance: str, heartbeat_interval: float) -> Transition:
    """Take jobs that are pending and due, by the server's clock, for `instance`."""
    return Transition(
        jobs,
        {"_id": {"$in": jobs}, "status": JobStatus.PENDING.value, **DUE},
        {
            "$set": {
                "status": JobStatus.PROCESSING.value,
                "claimedBy": instance,
                "claimToken": token,
                "heartbeatInterval": round(heartbeat_interval * 1000),
            },
            "$inc": {"attempts": 1},
            "$currentDate": {"lockedAt": True, "lastHeartbeat": True, "updatedAt": True},
        },
    )


def complete(jobs: Sequence[ObjectId], token: str) -> Transition:
    """Their runs ended well."""
    return _settle(jobs, token, JobStatus.COMPLETED, unset=("failReason",))


def retry(job: ObjectId, token: str, *, fail_count: int, reason: str, next_run_at: datetime) -> Transition:
    """Its run failed and it runs again."""
    return _settle(
        [job],
        token,
        JobStatus.PENDING,
        {"failCount": fail_count, "failReason": reason, "nextRunAt": next_run_at},
    )


def fail(job: ObjectId, token: str, *, fail_count: int, reason: str) -> Transition:
    """Its run failed for the last time."""
    return _settle([job], token, JobStatus.FAILED, {"failCount": fail_count, "failReason": reason})


def release(jobs: Sequence[ObjectId], token: str) -> Transition:
    """They go back as if they had not been claimed."""
    return _settle(jobs, token, JobStatus.PENDING, inc={"attempts": -1})


def reject(job: ObjectId, token: str, *, reason: str) -> Transition:
    """Its document cannot be read; whatever is in it stays for somebody to look at."""
    return _settle([job], token, JobStatus.FAILED, {"failReason": reason})


def refuse(jobs: Sequence[ObjectId]) -> Transition:
    """Those among them whose `attempts` cannot be counted up can never be claimed."""
    return Transition(
        jobs,
        {
            "_id": {"$in": jobs},
            "status": JobStatus.PENDING.value,
            "attempts": {"$exists": True, "$not": {"$type": "number"}},
        },
        {
            "$set": {
                "status": JobStatus.FAILED.value,
                "failReason": "field 'attempts': expected a whole number",
            },
            "$currentDate": {"updatedAt": True},
        },
    )


def _settle(
    jobs: Sequence[ObjectId],
    token: str,
    status: JobStatus,
    values: dict[str, Any] | None = None,
    *,
    unset: tuple[str, ...] = (),
    inc: dict[str, int] | None = None,
) -> Transition:
    update: dict[str, Any] = {
        "$set": {"status": status.value, "settledBy": token, **(values or {})},
        "$unset": {**_CLAIM_FIELDS, **dict.fromkeys(unset, "")},
        "$currentDate": {"updatedAt": True},
    }
    if inc:
        update["$inc"] = inc
    return Transition(jobs, held(jobs, token), update)


def held(jobs: Sequence[ObjectId], token: str) -> dict[str, Any]:
    """The fence: those of `jobs` that are still held by the claim of `token`."""
    which: Any = jobs[0] if len(jobs) == 1 else {"$in": jobs}
    return {"_id": which, "status": JobStatus.PROCESSING.value, "claimToken": token}
