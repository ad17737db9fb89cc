"""The state diagram: every change of a job's state, each the filter it is fenced by and the update it makes.

    enqueue      → pending                             (an insert, see `monque._intake`)
    claim        pending → processing
    complete     processing → completed
    repeat       processing → pending                  a recurring job, until its next occurrence
    follow       processing → pending                  what was asked for during the run takes over
    retry        processing → pending                  after a failure, with backoff
    fail         processing → failed                   for good
    release      processing → pending                  no attempt spent
    snooze       processing → pending                  likewise, until a time its handler said
    withdraw     processing → cancelled                its handler says that there is no point in it
    recover      processing → pending or failed        its lease ran out
    cancel       pending or processing → cancelled
    revive       failed or cancelled → pending
    reschedule   pending → pending
    supersede    pending → pending                     its unique key is wanted, for other data
    follow_up    processing → processing               likewise, for when the run is over
    keep         pending → pending                     it is not to begin before a transaction that counts on it ends
    redefine     pending → pending, processing → processing   a recurring job gets another schedule
    delete       anything but processing →             (no update, see `delete`)
    reject       processing → failed                   the document is no job
    refuse       pending → failed                      likewise, and it cannot even be claimed
    mend         pending → pending                     what kept it from being claimed is removed
    remark       processing → processing               its handler has something to say

What the holder of a claim writes is fenced by the claim token: it changes nothing unless the claim still holds. It
leaves the token behind as `settledBy`, so that a write whose answer was lost can be recognised as done when repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from monque.job import FollowUp, JobStatus, follow_up_document, settings_document, small_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from bson import ObjectId

    from monque.job import Job, LogLine, Progress

DELETABLE = tuple(status for status in JobStatus if status is not JobStatus.PROCESSING)
MOST_FAILURES = 5
DUE: dict[str, Any] = {"$expr": {"$lte": ["$nextRunAt", "$$NOW"]}}
# What is said about a job beside its data and its time, and may be absent.
_SETTINGS = ("timeout", "retry", "tags", "headers")
_CLAIM_FIELDS = {
    "claimedBy": "",
    "claimToken": "",
    "lastHeartbeat": "",
    "heartbeatInterval": "",
}
# When a run began stays when the claim is gone, under another name. Written with the claim, each claimed job would have
# to be read with one date more.
_BEGAN = {"lockedAt": "startedAt"}
# Whether there is a follow-up, as an expression: told by its date, so that whatever else lies there holds nothing up.
IS_FOLLOWED: dict[str, Any] = {"$eq": [{"$type": "$followUp.nextRunAt"}, "date"]}
_FOLLOWED = {"$expr": IS_FOLLOWED}
_UNFOLLOWED = {"$expr": {"$not": [IS_FOLLOWED]}}


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state of one or more jobs.

    Attributes:
        jobs: The ids it is about.
        filter: Which of them it may change.
        update: What it changes: operators, or the stages of a pipeline.
    """

    jobs: Sequence[ObjectId]
    filter: dict[str, Any]
    update: Any


def claim(
    jobs: Sequence[ObjectId], *, token: str, instance: str, heartbeat_interval: float, due: datetime | None = None
) -> Transition:
    """Take jobs that are pending and due, by the server's clock, for `instance`.

    That the server has shown jobs as due that were so at `due` spares it to reckon for each document.
    """
    is_due = DUE if due is None else {"nextRunAt": {"$lte": due}}
    return Transition(
        jobs,
        {"_id": {"$in": jobs}, "status": JobStatus.PENDING.value, **is_due},
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


def complete(jobs: Sequence[ObjectId], token: str, *, now: datetime) -> Transition:
    """Their runs ended well. Those that were given a schedule or a follow-up meanwhile are left out: they go on.

    Of all writes this one is made most often, and one date for all of them costs the server less than its own for each.
    """
    change = _settle(jobs, token, JobStatus.COMPLETED, {"updatedAt": now}, unset=("failReason",))
    del change.update["$currentDate"]
    return replace(change, filter={**change.filter, "repeatInterval": None, "followUp": None})


def repeat(job: Job[Any], token: str, *, next_run_at: datetime, reason: str | None = None) -> Transition:
    """Its run is over, well or for good (`reason`), and so it waits for its next occurrence, with a clean slate.

    Nothing is written if it was given another schedule meanwhile, since `next_run_at` follows from the old one.
    """
    change = _settle(
        [job.id],
        token,
        JobStatus.PENDING,
        {"nextRunAt": next_run_at, "failCount": 0, **({"failReason": reason} if reason else {})},
        unset=("attempts",) if reason else ("attempts", "failReason"),
    )
    schedule = {"repeatInterval": job.repeat_interval, "timezone": job.timezone}
    return replace(change, filter={**change.filter, **schedule})


def follow(job: ObjectId, token: str, *, reason: str | None = None) -> Transition:
    """Its run is over, well or for good (`reason`), and its follow-up takes over, with a clean slate.

    What follows is read in the same write: it may be another one than was seen before.
    """
    return Transition([job], {**held([job], token), **_FOLLOWED}, _following(reason, settledBy=token))


def _following(reason: str | None, **values: str) -> list[dict[str, Any]]:
    # What is absent there becomes absent here.
    taken_over = {name: f"$followUp.{name}" for name in ("data", "nextRunAt", "priority", *_SETTINGS)}
    failure = {"failReason": {"$literal": reason}} if reason else {}
    began = {new: f"${old}" for old, new in _BEGAN.items()}
    unset = ["followUp", "attempts", *_CLAIM_FIELDS, *_BEGAN, *(() if reason else ("failReason",))]
    values |= {"status": JobStatus.PENDING.value}
    return [
        {"$set": {**values, **taken_over, **failure, **began, "failCount": 0, "updatedAt": "$$NOW"}},
        {"$unset": unset},
    ]


def retry(job: ObjectId, token: str, *, fail_count: int, reason: str, next_run_at: datetime) -> Transition:
    """Its run failed and it runs again."""
    return _settle(
        [job],
        token,
        JobStatus.PENDING,
        {"failCount": fail_count, "failReason": reason, "nextRunAt": next_run_at},
    )


def fail(job: ObjectId, token: str, *, fail_count: int, reason: str, repeat_interval: str | None = None) -> Transition:
    """Its run failed for the last time. Nothing is written if it was given a schedule or a follow-up meanwhile."""
    change = _settle([job], token, JobStatus.FAILED, {"failCount": fail_count, "failReason": reason})
    return replace(change, filter={**change.filter, "repeatInterval": repeat_interval, "followUp": None})


def with_failure(change: Transition, failure: Mapping[str, Any], *, is_first: bool) -> Transition:
    """The same, and it is remembered what went wrong; the latest few failures are kept.

    The first of which a list is made takes the place of whatever else is there, to which none could be added.
    """
    update = _operators(change)
    if update is None:
        return change  # it is about something else from now on
    if is_first:
        return replace(change, update={**update, "$set": {**update["$set"], "errors": [failure]}})
    kept = {"errors": {"$each": [failure], "$slice": -MOST_FAILURES}}
    return replace(change, update={**update, "$push": kept})


def with_result(change: Transition, result: object, problem: str | None) -> Transition:
    """The same, and what the handler returned is kept, or why it cannot be."""
    update = _operators(change)
    if update is None:
        return change
    kept, gone = ("result", "resultError") if problem is None else ("resultError", "result")
    values = {**update["$set"], kept: result if problem is None else problem}
    return replace(change, update={**update, "$set": values, "$unset": {**update["$unset"], gone: ""}})


def with_expiry(change: Transition, at: datetime | None) -> Transition:
    """The same, and the server deletes the jobs at that time, if they are what they are then by that time."""
    if at is None:
        return change
    return replace(change, update={**change.update, "$set": {**change.update["$set"], "expireAt": at}})


def remark(
    job: ObjectId, token: str | None, *, progress: Progress | None, lines: Iterable[LogLine], keep: int
) -> Transition:
    """Its handler says how far it has come, or logs something, of which the latest `keep` records are kept."""
    update: dict[str, Any] = {}
    if progress is not None:
        update["$set"] = {"progress": small_document(progress)}
    if logs := [small_document(line) for line in lines]:
        update["$push"] = {"logs": {"$each": logs, "$slice": -keep}}
    return Transition([job], held([job], token), update)


def with_remark(change: Transition, remark: Transition) -> Transition:
    """The same, and what the handler said last."""
    update = _operators(change)
    if update is None:
        return change
    return replace(
        change, update={**update, **remark.update, "$set": {**update["$set"], **remark.update.get("$set", {})}}
    )


def snooze(job: ObjectId, token: str, *, next_run_at: datetime) -> Transition:
    """Its handler says that it is too early; no attempt is spent."""
    return _settle([job], token, JobStatus.PENDING, {"nextRunAt": next_run_at}, inc={"attempts": -1})


def withdraw(job: ObjectId, token: str, *, reason: str) -> Transition:
    """Its handler says that there is no point in it any more. What was asked for meanwhile is another matter."""
    change = _settle([job], token, JobStatus.CANCELLED, {"failReason": reason})
    return replace(change, filter={**change.filter, "followUp": None})


def release(jobs: Sequence[ObjectId], token: str) -> Transition:
    """They go back as if they had not been claimed."""
    return _settle(jobs, token, JobStatus.PENDING, inc={"attempts": -1})


def reject(job: ObjectId, token: str, *, reason: str) -> Transition:
    """Its document cannot be read; whatever is in it stays for somebody to look at."""
    return _settle([job], token, JobStatus.FAILED, {"failReason": reason})


def refuse(job: object, *, reason: str) -> Transition:
    """Its document is such that it can never be claimed."""
    return Transition(
        [cast("ObjectId", job)],
        {"_id": job, "status": JobStatus.PENDING.value},
        {
            "$set": {"status": JobStatus.FAILED.value, "failReason": reason},
            "$currentDate": {"updatedAt": True},
        },
    )


def mend(jobs: Sequence[ObjectId]) -> Transition:
    """A null among what is counted at the claim is as good as nothing, but the server cannot count from there."""
    return Transition(
        jobs,
        {"_id": {"$in": jobs}, "status": JobStatus.PENDING.value, "attempts": {"$type": "null"}},
        {"$unset": {"attempts": ""}},
    )


def recover(job: Mapping[str, Any], *, failed_because: str | None) -> Transition:
    """Take back a job whose lease ran out, provided that nobody renewed it since it was seen.

    What becomes of one that has no attempts left follows from its schedule, so that must be the one seen, too; and
    from there being no follow-up.
    """
    status = JobStatus.FAILED if failed_because else JobStatus.PENDING
    values = {"status": status.value, **({"failReason": failed_because} if failed_because else {})}
    schedule = ("repeatInterval", "timezone") if failed_because else ()
    unfollowed = _UNFOLLOWED if failed_because else {}
    return Transition(
        [job["_id"]],
        {
            "_id": job["_id"],
            "status": JobStatus.PROCESSING.value,
            **_seen(job, "claimToken", "lastHeartbeat", "lockedAt", *schedule),
            **unfollowed,
        },
        {"$set": values, "$unset": _CLAIM_FIELDS, "$rename": _BEGAN, "$currentDate": {"updatedAt": True}},
    )


def recover_recurring(job: Mapping[str, Any], *, next_run_at: datetime, failed_because: str) -> Transition:
    """Likewise for a recurring job that has no attempts left: it goes on with its next occurrence."""
    change = recover(job, failed_because=failed_because)
    values = {"status": JobStatus.PENDING.value, "failReason": failed_because, "nextRunAt": next_run_at, "failCount": 0}
    unset = {**_CLAIM_FIELDS, "attempts": ""}
    return replace(change, update={**change.update, "$set": values, "$unset": unset})


def recover_followed(job: Mapping[str, Any], *, failed_because: str) -> Transition:
    """Likewise for one that has no attempts left, but a follow-up: that takes over."""
    change = recover(job, failed_because=None)
    return replace(change, filter={**change.filter, **_FOLLOWED}, update=_following(failed_because))


def cancel(jobs: Sequence[ObjectId]) -> Transition:
    """They are not to run, or not to go on running."""
    return _manage(
        jobs,
        (JobStatus.PENDING, JobStatus.PROCESSING),
        {
            "$set": {"status": JobStatus.CANCELLED.value},
            "$unset": {**_CLAIM_FIELDS, "followUp": ""},
            "$rename": _BEGAN,
        },
    )


def redefine(holder: Job[Any], wanted: Job[Any]) -> tuple[Transition, Transition]:
    """A recurring job gets the schedule and data of `wanted`: what to write while it waits, and what while it runs.

    A run that is under way keeps its time; what follows from the new schedule is decided when it is over. The schedule
    also takes the place of a follow-up, as a later one would.
    """
    values = {"repeatInterval": wanted.repeat_interval, "data": wanted.data, **settings_document(wanted)}
    if wanted.timezone:
        values["timezone"] = wanted.timezone
    unset = {"$unset": {name: "" for name in ("timezone", "followUp", *_SETTINGS) if name not in values}}
    moved = (holder.repeat_interval, holder.timezone) != (wanted.repeat_interval, wanted.timezone)
    time = {"nextRunAt": wanted.next_run_at} if moved else {}
    return (
        _manage([holder.id], (JobStatus.PENDING,), {"$set": {**values, **time}, **unset}),
        _manage([holder.id], (JobStatus.PROCESSING,), {"$set": values, **unset}),
    )


def revive(jobs: Sequence[ObjectId], *, now: datetime) -> Transition:
    """They are to run after all, at once and with a clean slate."""
    return _manage(
        jobs,
        (JobStatus.FAILED, JobStatus.CANCELLED),
        {
            "$set": {"status": JobStatus.PENDING.value, "failCount": 0, "nextRunAt": now},
            "$unset": {**_CLAIM_FIELDS, **dict.fromkeys(("failReason", "attempts", "followUp", "expireAt"), "")},
            "$rename": _BEGAN,
        },
    )


def reschedule(jobs: Sequence[ObjectId], *, run_at: datetime) -> Transition:
    """They are to run at another time."""
    return _manage(jobs, (JobStatus.PENDING,), {"$set": {"nextRunAt": run_at}})


def supersede(holder: ObjectId, wanted: Job[Any]) -> Transition:
    """It waits, and does what `wanted` would do instead, when that would; it starts with a clean slate."""
    values = {"data": wanted.data, "nextRunAt": wanted.next_run_at, "failCount": 0, **settings_document(wanted)}
    if wanted.priority:
        values["priority"] = wanted.priority
    gone = [name for name in ("priority", *_SETTINGS) if name not in values]
    unset = dict.fromkeys(("attempts", "failReason", "followUp", *gone), "")
    return _unscheduled(_manage([holder], (JobStatus.PENDING,), {"$set": values, "$unset": unset}))


def follow_up(holder: ObjectId, wanted: Job[Any]) -> Transition:
    """It runs, and afterwards does what `wanted` would do; a later one takes the place of this."""
    wish = FollowUp(
        wanted.data,
        wanted.next_run_at,
        wanted.priority,
        wanted.timeout,
        wanted.retry,
        wanted.tags,
        wanted.headers,
    )
    document = follow_up_document(wish)
    return _unscheduled(_manage([holder], (JobStatus.PROCESSING,), {"$set": {"followUp": document}}))


def keep(holder: ObjectId) -> Transition:
    """It waits, and stays as it is. Whoever wants to claim it has to wait until the transaction of this write ends."""
    return _unscheduled(_manage([holder], (JobStatus.PENDING,), {}))


def _unscheduled(change: Transition) -> Transition:
    return replace(change, filter={**change.filter, "repeatInterval": None})


def delete(jobs: Sequence[ObjectId]) -> dict[str, Any]:
    """The fence: those of `jobs` that nobody runs. Their status is not looked at further, it may be a foreign one."""
    return {"_id": _ids(jobs), "status": {"$ne": JobStatus.PROCESSING.value}}


def _manage(jobs: Sequence[ObjectId], statuses: Sequence[JobStatus], update: dict[str, Any]) -> Transition:
    allowed = {"$in": [status.value for status in statuses]}
    return Transition(jobs, {"_id": _ids(jobs), "status": allowed}, {**update, "$currentDate": {"updatedAt": True}})


def _operators(change: Transition) -> dict[str, Any] | None:
    """The operators of its update; None if that is a pipeline."""
    return None if isinstance(change.update, list) else cast("dict[str, Any]", change.update)


def _seen(job: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: job.get(name, {"$exists": False}) for name in names}


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
        "$rename": _BEGAN,
        "$currentDate": {"updatedAt": True},
    }
    if inc:
        update["$inc"] = inc
    return Transition(jobs, held(jobs, token), update)


def held(jobs: Sequence[ObjectId], token: str | None) -> dict[str, Any]:
    """The fence: those of `jobs` that are still held by the claim of `token`."""
    return {"_id": _ids(jobs), "status": JobStatus.PROCESSING.value, "claimToken": token}


def apart(change: Transition) -> list[Transition]:
    """The same change, for each of its jobs by itself."""
    return [replace(change, jobs=[job], filter={**change.filter, "_id": job}) for job in change.jobs]


def _ids(jobs: Sequence[ObjectId]) -> Any:  # noqa: ANN401  an id or an operator
    return jobs[0] if len(jobs) == 1 else {"$in": jobs}
