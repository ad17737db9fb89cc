from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from monque import Job, JobStatus, Retry
from monque import _transitions as transitions
from monque.job import FollowUp, LogLine, Progress, to_document

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

    from monque._transitions import Transition

A, B = ObjectId("0" * 23 + "a"), ObjectId("0" * 23 + "b")
NOW, LATER = datetime(2026, 3, 1, 11, tzinfo=UTC), datetime(2026, 3, 1, 12, tzinfo=UTC)
CLAIM = {"claimedBy": "", "claimToken": "", "lastHeartbeat": "", "heartbeatInterval": ""}
BEGAN = {"lockedAt": "startedAt"}
DUE = {"$expr": {"$lte": ["$nextRunAt", "$$NOW"]}}
TOUCHED = {"updatedAt": True}

# Every edge of the state diagram: what it is made by, its fence, and its update.
RECURRING = Job(
    id=A,
    name="report",
    data={"new": True},
    status=JobStatus.PROCESSING,
    next_run_at=LATER,
    fail_count=1,
    created_at=LATER,
    updated_at=LATER,
    repeat_interval="0 9 * * *",
)
POLICY = Retry(max_retries=3, base=0.5, cap=60)
SETTINGS: dict[str, Any] = {
    "timeout": 1500,
    "retry": {"maxRetries": 3, "base": 0.5, "cap": 60.0, "jitter": 0},
    "tags": ["a", "b"],
    "headers": {"a": "b"},
}
LABELS: dict[str, Any] = {"tags": ("a", "b"), "headers": {"a": "b"}}
ABSENT = {"$exists": False}
SEEN = {"_id": A, "claimToken": "T", "lastHeartbeat": LATER}
STALE = {
    "_id": A,
    "status": "processing",
    "claimToken": "T",
    "lastHeartbeat": LATER,
    "lockedAt": ABSENT,
}
# Where what becomes of the job follows from its schedule.
UNSCHEDULED = {"repeatInterval": ABSENT, "timezone": ABSENT}
FOLLOWED = {"$expr": transitions.IS_FOLLOWED}
UNFOLLOWED = {"$expr": {"$not": [transitions.IS_FOLLOWED]}}
TAKEN_OVER = {
    "status": "pending",
    "startedAt": "$lockedAt",
    "data": "$followUp.data",
    "nextRunAt": "$followUp.nextRunAt",
    "priority": "$followUp.priority",
    "timeout": "$followUp.timeout",
    "headers": "$followUp.headers",
    "retry": "$followUp.retry",
    "tags": "$followUp.tags",
    "failCount": 0,
    "updatedAt": "$$NOW",
}
EDGES = {
    "repeat": (
        transitions.repeat(RECURRING, "T", next_run_at=LATER),
        {"_id": A, "status": "processing", "claimToken": "T", "repeatInterval": "0 9 * * *", "timezone": None},
        {
            "$set": {"status": "pending", "settledBy": "T", "nextRunAt": LATER, "failCount": 0},
            "$unset": CLAIM | {"attempts": "", "failReason": ""},
            "$rename": BEGAN,
            "$currentDate": TOUCHED,
        },
    ),
    "repeat after a failure": (
        transitions.repeat(RECURRING, "T", next_run_at=LATER, reason="no"),
        {"_id": A, "status": "processing", "claimToken": "T", "repeatInterval": "0 9 * * *", "timezone": None},
        {
            "$set": {"status": "pending", "settledBy": "T", "nextRunAt": LATER, "failCount": 0, "failReason": "no"},
            "$unset": CLAIM | {"attempts": ""},
            "$rename": BEGAN,
            "$currentDate": TOUCHED,
        },
    ),
    "recover": (
        transitions.recover(SEEN, failed_because=None),
        STALE,
        {"$set": {"status": "pending"}, "$unset": CLAIM, "$rename": BEGAN, "$currentDate": TOUCHED},
    ),
    "recover for good": (
        transitions.recover(SEEN, failed_because="gone"),
        STALE | UNSCHEDULED | UNFOLLOWED,
        {
            "$set": {"status": "failed", "failReason": "gone"},
            "$unset": CLAIM,
            "$rename": BEGAN,
            "$currentDate": TOUCHED,
        },
    ),
    "recover_recurring": (
        transitions.recover_recurring(SEEN, next_run_at=LATER, failed_because="gone"),
        STALE | UNSCHEDULED | UNFOLLOWED,
        {
            "$set": {"status": "pending", "failReason": "gone", "nextRunAt": LATER, "failCount": 0},
            "$unset": CLAIM | {"attempts": ""},
            "$rename": BEGAN,
            "$currentDate": TOUCHED,
        },
    ),
    "recover_followed": (
        transitions.recover_followed(SEEN, failed_because="gone"),
        STALE | FOLLOWED,
        [
            {"$set": {**TAKEN_OVER, "failReason": {"$literal": "gone"}}},
            {"$unset": ["followUp", "attempts", *CLAIM, "lockedAt"]},
        ],
    ),
    "cancel": (
        transitions.cancel([A, B]),
        {"_id": {"$in": [A, B]}, "status": {"$in": ["pending", "processing"]}},
        {
            "$set": {"status": "cancelled"},
            "$unset": CLAIM | {"followUp": ""},
            "$rename": BEGAN,
            "$currentDate": TOUCHED,
        },
    ),
    "revive": (
        transitions.revive([A], now=LATER),
        {"_id": A, "status": {"$in": ["failed", "cancelled"]}},
        {
            "$set": {"status": "pending", "failCount": 0, "nextRunAt": LATER},
            "$unset": CLAIM | {"failReason": "", "attempts": "", "followUp": "", "expireAt": ""},
            "$rename": BEGAN,
            "$currentDate": TOUCHED,
        },
    ),
    "supersede": (
        transitions.supersede(
            A, replace(RECURRING, priority=3, timeout=1.5, retry=POLICY, tags=("a", "b"), headers={"a": "b"})
        ),
        {"_id": A, "status": {"$in": ["pending"]}, "repeatInterval": None},
        {
            "$set": {"data": {"new": True}, "nextRunAt": LATER, "failCount": 0, "priority": 3, **SETTINGS},
            "$unset": {"attempts": "", "failReason": "", "followUp": ""},
            "$currentDate": TOUCHED,
        },
    ),
    "supersede with the normal priority": (
        transitions.supersede(A, RECURRING),
        {"_id": A, "status": {"$in": ["pending"]}, "repeatInterval": None},
        {
            "$set": {"data": {"new": True}, "nextRunAt": LATER, "failCount": 0},
            "$unset": {
                "attempts": "",
                "failReason": "",
                "followUp": "",
                "priority": "",
                "timeout": "",
                "retry": "",
                "tags": "",
                "headers": "",
            },
            "$currentDate": TOUCHED,
        },
    ),
    "follow_up": (
        transitions.follow_up(
            A, replace(RECURRING, priority=-3, timeout=1.5, retry=POLICY, tags=("a", "b"), headers={"a": "b"})
        ),
        {"_id": A, "status": {"$in": ["processing"]}, "repeatInterval": None},
        {
            "$set": {"followUp": {"data": {"new": True}, "nextRunAt": LATER, "priority": -3, **SETTINGS}},
            "$currentDate": TOUCHED,
        },
    ),
    "keep": (
        transitions.keep(A),
        {"_id": A, "status": {"$in": ["pending"]}, "repeatInterval": None},
        {"$currentDate": TOUCHED},
    ),
    "follow": (
        transitions.follow(A, "T"),
        {"_id": A, "status": "processing", "claimToken": "T", **FOLLOWED},
        [
            {"$set": {"settledBy": "T", **TAKEN_OVER}},
            {"$unset": ["followUp", "attempts", *CLAIM, "lockedAt", "failReason"]},
        ],
    ),
    "follow after a failure": (
        transitions.follow(A, "T", reason="$no"),
        {"_id": A, "status": "processing", "claimToken": "T", **FOLLOWED},
        [
            {"$set": {"settledBy": "T", **TAKEN_OVER, "failReason": {"$literal": "$no"}}},
            {"$unset": ["followUp", "attempts", *CLAIM, "lockedAt"]},
        ],
    ),
    "reschedule": (
        transitions.reschedule([A], run_at=LATER),
        {"_id": A, "status": {"$in": ["pending"]}},
        {"$set": {"nextRunAt": LATER}, "$currentDate": TOUCHED},
    ),
    "claim": (
        transitions.claim([A, B], token="T", instance="I", heartbeat_interval=10.0),  # noqa: S106
        {"_id": {"$in": [A, B]}, "status": "pending", **DUE},
        {
            "$set": {"status": "processing", "claimedBy": "I", "claimToken": "T", "heartbeatInterval": 10_000},
            "$inc": {"attempts": 1},
            "$currentDate": {"lockedAt": True, "lastHeartbeat": True, "updatedAt": True},
        },
    ),
    "complete one": (
        transitions.complete([A], "T", now=NOW),
        {"_id": A, "status": "processing", "claimToken": "T", "repeatInterval": None, "followUp": None},
        {
            "$set": {"status": "completed", "settledBy": "T", "updatedAt": NOW},
            "$unset": CLAIM | {"failReason": ""},
            "$rename": BEGAN,
        },
    ),
    "complete several": (
        transitions.complete([A, B], "T", now=NOW),
        {"_id": {"$in": [A, B]}, "status": "processing", "claimToken": "T", "repeatInterval": None, "followUp": None},
        {
            "$set": {"status": "completed", "settledBy": "T", "updatedAt": NOW},
            "$unset": CLAIM | {"failReason": ""},
            "$rename": BEGAN,
        },
    ),
    "retry": (
        transitions.retry(A, "T", fail_count=3, reason="no", next_run_at=LATER),
        {"_id": A, "status": "processing", "claimToken": "T"},
        {
            "$set": {
                "status": "pending",
                "settledBy": "T",
                "failCount": 3,
                "failReason": "no",
                "nextRunAt": LATER,
            },
            "$unset": CLAIM,
            "$rename": BEGAN,
            "$currentDate": TOUCHED,
        },
    ),
    "fail": (
        transitions.fail(A, "T", fail_count=10, reason="no"),
        {"_id": A, "status": "processing", "claimToken": "T", "repeatInterval": None, "followUp": None},
        {
            "$set": {"status": "failed", "settledBy": "T", "failCount": 10, "failReason": "no"},
            "$unset": CLAIM,
            "$rename": BEGAN,
            "$currentDate": TOUCHED,
        },
    ),
    "release one": (
        transitions.release([A], "T"),
        {"_id": A, "status": "processing", "claimToken": "T"},
        {
            "$set": {"status": "pending", "settledBy": "T"},
            "$unset": CLAIM,
            "$rename": BEGAN,
            "$inc": {"attempts": -1},
            "$currentDate": TOUCHED,
        },
    ),
    "release several": (
        transitions.release([A, B], "T"),
        {"_id": {"$in": [A, B]}, "status": "processing", "claimToken": "T"},
        {
            "$set": {"status": "pending", "settledBy": "T"},
            "$unset": CLAIM,
            "$rename": BEGAN,
            "$inc": {"attempts": -1},
            "$currentDate": TOUCHED,
        },
    ),
    "snooze": (
        transitions.snooze(A, "T", next_run_at=LATER),
        {"_id": A, "status": "processing", "claimToken": "T"},
        {
            "$set": {"status": "pending", "settledBy": "T", "nextRunAt": LATER},
            "$unset": CLAIM,
            "$rename": BEGAN,
            "$inc": {"attempts": -1},
            "$currentDate": TOUCHED,
        },
    ),
    "withdraw": (
        transitions.withdraw(A, "T", reason="no use"),
        {"_id": A, "status": "processing", "claimToken": "T", "followUp": None},
        {
            "$set": {"status": "cancelled", "settledBy": "T", "failReason": "no use"},
            "$unset": CLAIM,
            "$rename": BEGAN,
            "$currentDate": TOUCHED,
        },
    ),
    "reject": (
        transitions.reject(A, "T", reason="no job"),
        {"_id": A, "status": "processing", "claimToken": "T"},
        {
            "$set": {"status": "failed", "settledBy": "T", "failReason": "no job"},
            "$unset": CLAIM,
            "$rename": BEGAN,
            "$currentDate": TOUCHED,
        },
    ),
    "remark how far it is": (
        transitions.remark(A, "T", progress=Progress(0.5, None, NOW), lines=[], keep=0),
        {"_id": A, "status": "processing", "claimToken": "T"},
        {"$set": {"progress": {"fraction": 0.5, "at": NOW}}},
    ),
    "remark how far it is, and log lines": (
        transitions.remark(
            A, "T", progress=Progress(1, "done", NOW), lines=[LogLine(NOW, "INFO", "app", "on")], keep=3
        ),
        {"_id": A, "status": "processing", "claimToken": "T"},
        {
            "$set": {"progress": {"fraction": 1, "message": "done", "at": NOW}},
            "$push": {
                "logs": {"$each": [{"at": NOW, "level": "INFO", "logger": "app", "message": "on"}], "$slice": -3}
            },
        },
    ),
    "refuse": (
        transitions.refuse(A, reason="odd"),
        {"_id": A, "status": "pending"},
        {"$set": {"status": "failed", "failReason": "odd"}, "$currentDate": TOUCHED},
    ),
    "mend": (
        transitions.mend([A, B]),
        {"_id": {"$in": [A, B]}, "status": "pending", "attempts": {"$type": "null"}},
        {"$unset": {"attempts": ""}},
    ),
}


@pytest.mark.parametrize(("transition", "fence", "update"), EDGES.values(), ids=EDGES.keys())
def test_an_edge_is_this_fence_and_this_update(
    transition: Transition, fence: dict[str, Any], update: dict[str, Any]
) -> None:
    assert transition.filter == fence
    assert transition.update == update
    assert transition.jobs == ([A] if fence["_id"] == A else [A, B])


def test_the_table_has_every_edge() -> None:
    made = {
        name
        for name, value in vars(transitions).items()
        if callable(value) and getattr(value, "__annotations__", {}).get("return") == "Transition"
    }
    # These make no edges, but add to them.
    made -= {"_settle", "_manage", "_unscheduled", "with_expiry", "with_failure", "with_remark", "with_result"}
    assert made == {name.split()[0] for name in EDGES}
    documented = set((transitions.__doc__ or "").split()) | {"recover_recurring", "recover_followed"}
    assert {name.split()[0] for name in EDGES} <= documented


FAILURE = {"at": NOW, "attempt": 1, "error": "ValueError: no", "traceback": "…"}


@pytest.mark.parametrize(
    "change",
    [
        transitions.retry(A, "T", fail_count=1, reason="no", next_run_at=LATER),
        transitions.fail(A, "T", fail_count=1, reason="no"),
        transitions.repeat(RECURRING, "T", next_run_at=LATER, reason="no"),
    ],
    ids=["retry", "fail", "repeat"],
)
def test_what_went_wrong_is_remembered_beside(change: Transition) -> None:
    before = copy.deepcopy(change)
    first = transitions.with_failure(change, FAILURE, is_first=True)
    later = transitions.with_failure(change, FAILURE, is_first=False)
    assert change == before
    assert first == replace(change, update={**change.update, "$set": {**change.update["$set"], "errors": [FAILURE]}})
    assert later == replace(change, update={**change.update, "$push": {"errors": {"$each": [FAILURE], "$slice": -5}}})


def test_what_was_returned_is_kept_beside_and_forgets_what_was_kept_before() -> None:
    change = transitions.complete([A], "T", now=NOW)
    before = copy.deepcopy(change)
    kept = transitions.with_result(change, None, None)
    refused = transitions.with_result(change, None, "too large")
    assert change == kept_back(kept, "result") == kept_back(refused, "resultError") == before
    assert (kept.update["$set"]["result"], kept.update["$unset"]["resultError"]) == (None, "")
    assert (refused.update["$set"]["resultError"], refused.update["$unset"]["result"]) == ("too large", "")


def kept_back(change: Transition, name: str) -> Transition:
    """The change without what was added to it."""
    other = {"result": "resultError", "resultError": "result"}[name]
    update = {operator: dict(fields) for operator, fields in change.update.items()}
    del update["$set"][name], update["$unset"][other]
    return replace(change, update=update)


def test_a_follow_up_takes_over_without_what_came_of_the_run() -> None:
    change = transitions.follow(A, "T")
    assert transitions.with_failure(change, FAILURE, is_first=True) is change
    assert transitions.with_result(change, 1, None) is change


def test_what_the_handler_said_last_can_be_part_of_another_edge() -> None:
    said = transitions.remark(A, "T", progress=Progress(1, None, NOW), lines=[LogLine(NOW, "I", "a", "b")], keep=1)
    lines = transitions.remark(A, "T", progress=None, lines=[LogLine(NOW, "I", "a", "b")], keep=1)
    completed, followed = transitions.complete([A], "T", now=NOW), transitions.follow(A, "T")
    both = transitions.with_remark(completed, said)
    assert both.filter == completed.filter
    assert both.update == {
        **completed.update,
        "$set": {**completed.update["$set"], "progress": {"fraction": 1, "at": NOW}},
        "$push": said.update["$push"],
    }
    assert transitions.with_remark(completed, lines).update == {**completed.update, "$push": said.update["$push"]}
    # It is about something else from then on.
    assert transitions.with_remark(followed, said) is followed


@pytest.mark.parametrize(
    "settings",
    [{}, {"timeout": 1.5, "retry": POLICY, "tags": ("a", "b"), "headers": {"a": "b"}}],
    ids=["plain", "with settings"],
)
@pytest.mark.parametrize("timezone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("expression", ["0 9 * * *", "0 8 * * *"])
def test_a_new_schedule_moves_a_job_only_while_it_waits(
    timezone: str | None, expression: str, settings: dict[str, Any]
) -> None:
    wanted = replace(RECURRING, repeat_interval=expression, timezone=timezone, data={"new": False}, **settings)
    waiting, running = transitions.redefine(RECURRING, wanted)
    values: dict[str, Any] = {"repeatInterval": expression, "data": {"new": False}}
    values |= {"timezone": timezone} if timezone else {}
    values |= SETTINGS if settings else {}
    gone = {"followUp", "timezone", "timeout", "retry", "tags", "headers"} - values.keys()
    unset = {"$unset": dict.fromkeys(gone, "")}
    moved = {"nextRunAt": LATER} if (expression, timezone) != ("0 9 * * *", None) else {}
    assert waiting.filter == {"_id": A, "status": {"$in": ["pending"]}}
    assert waiting.update == {"$set": {**values, **moved}, **unset, "$currentDate": TOUCHED}
    assert running.filter == {"_id": A, "status": {"$in": ["processing"]}}
    assert running.update == {"$set": values, **unset, "$currentDate": TOUCHED}


def test_the_heartbeat_interval_is_in_whole_milliseconds() -> None:
    claim = transitions.claim([A], token="T", instance="I", heartbeat_interval=1 / 3)  # noqa: S106
    assert claim.update["$set"]["heartbeatInterval"] == 333
    assert type(claim.update["$set"]["heartbeatInterval"]) is int


def test_a_change_of_several_jobs_is_that_of_each() -> None:
    change = transitions.release([A, B], "T")
    assert transitions.apart(change) == [transitions.release([job], "T") for job in (A, B)]


def test_whatever_nobody_runs_may_be_deleted() -> None:
    assert transitions.delete([A]) == {"_id": A, "status": {"$ne": "processing"}}
    assert transitions.delete([A, B]) == {"_id": {"$in": [A, B]}, "status": {"$ne": "processing"}}


# --- on real documents --------------------------------------------------------------------------------------------

PAST = datetime(2020, 1, 1, tzinfo=UTC)
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)
CLAIMED = {"claimedBy", "claimToken", "lockedAt", "lastHeartbeat", "heartbeatInterval"}

# For each edge: the way it is made for some jobs and a token, the only status it leaves, the one it leads to, and
# what it does to failCount and attempts (of a job that has 2 and 3).
WAYS: dict[str, tuple[Callable[[list[ObjectId], str], Transition], str, str, tuple[int, int | None]]] = {
    "claim": (
        lambda jobs, token: transitions.claim(jobs, token=token, instance="I", heartbeat_interval=10),
        "pending",
        "processing",
        (2, 4),
    ),
    "complete": (
        lambda jobs, token: transitions.complete(jobs, token, now=NOW),
        "processing",
        "completed",
        (2, 3),
    ),
    "retry": (
        lambda jobs, token: transitions.retry(jobs[0], token, fail_count=3, reason="no", next_run_at=FUTURE),
        "processing",
        "pending",
        (3, 3),
    ),
    "fail": (
        lambda jobs, token: transitions.fail(jobs[0], token, fail_count=3, reason="no"),
        "processing",
        "failed",
        (3, 3),
    ),
    "release": (transitions.release, "processing", "pending", (2, 2)),
    "follow": (lambda jobs, token: transitions.follow(jobs[0], token), "processing", "pending", (0, None)),
    "follow after a failure": (
        lambda jobs, token: transitions.follow(jobs[0], token, reason="no"),
        "processing",
        "pending",
        (0, None),
    ),
    "reject": (
        lambda jobs, token: transitions.reject(jobs[0], token, reason="no job"),
        "processing",
        "failed",
        (2, 3),
    ),
}


def stored_job(make_job: Callable[..., Job[Any]], status: JobStatus, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "status": status,
        "next_run_at": PAST,
        "updated_at": PAST,
        "fail_count": 2,
        "attempts": 3,
        "fail_reason": "last time",
    }
    if status is JobStatus.PROCESSING:
        values |= {
            "locked_at": PAST,
            "claimed_by": "I",
            "claim_token": "own",
            "last_heartbeat": PAST,
            "heartbeat_interval": 10_000,
        }
    return to_document(make_job(**(values | changes)))


@pytest.mark.parametrize("edge", WAYS)
def test_an_edge_leaves_one_status_only_and_only_under_its_own_claim(
    edge: str, make_job: Callable[..., Job[Any]], monque_database: Database[dict[str, Any]]
) -> None:
    make, source, target, (fail_count, attempts) = WAYS[edge]
    jobs = monque_database["jobs"]
    for status, token in itertools.product(JobStatus, ["own", "foreign"]):
        followed = edge.startswith("follow")
        before = stored_job(make_job, status, follow_up=FollowUp({"next": 1}, FUTURE) if followed else None)
        jobs.insert_one(before)
        transition = make([before["_id"]], token)
        jobs.update_one(transition.filter, transition.update)
        after = jobs.find_one({"_id": before["_id"]})

        # A claim brings its own token; everything else needs the one the job has.
        if status != source or (token == "foreign" and edge != "claim"):  # noqa: S105
            assert after == before, f"{edge} changed a job that is {status}, with the {token} token"
            continue
        assert after is not None
        assert after["status"] == target
        assert (after["failCount"], after.get("attempts")) == (fail_count, attempts)
        assert after["updatedAt"] > PAST
        assert CLAIMED & set(after) == (CLAIMED if target == "processing" else set())
        # When the run began is known as long as it lasts, and afterwards.
        assert after.get("startedAt") == (None if edge == "claim" else PAST)
        assert after.get("settledBy") == (None if edge == "claim" else token)


@pytest.mark.parametrize("status", JobStatus)
@pytest.mark.parametrize("attempts", [None, 3, "three", ...], ids=repr)
def test_only_a_null_of_a_pending_job_is_mended(
    status: JobStatus, attempts: object, make_job: Callable[..., Job[Any]], monque_database: Database[dict[str, Any]]
) -> None:
    jobs = monque_database["jobs"]
    before: dict[str, Any] = stored_job(make_job, status) | {"attempts": attempts}
    if attempts is ...:
        del before["attempts"]
    jobs.insert_one(before)
    transition = transitions.mend([before["_id"]])
    jobs.update_many(transition.filter, transition.update)
    if status is JobStatus.PENDING and attempts is None:
        del before["attempts"]
    assert jobs.find_one({"_id": before["_id"]}) == before


def test_a_job_is_not_claimed_before_it_is_due_by_the_servers_clock(
    make_job: Callable[..., Job[Any]], monque_database: Database[dict[str, Any]]
) -> None:
    server_time: datetime = monque_database.client.admin.command("hello")["localTime"]
    jobs = monque_database["jobs"]
    late, early = (
        stored_job(make_job, JobStatus.PENDING, next_run_at=server_time + offset)
        for offset in (timedelta(milliseconds=-1), timedelta(hours=1))
    )
    jobs.insert_many([late, early])
    claim = transitions.claim([late["_id"], early["_id"]], token="T", instance="I", heartbeat_interval=10)  # noqa: S106
    assert jobs.update_many(claim.filter, claim.update).modified_count == 1
    assert [job["_id"] for job in jobs.find({"status": "processing"})] == [late["_id"]]


def test_a_success_forgets_the_last_failure_and_a_release_does_not(
    make_job: Callable[..., Job[Any]], monque_database: Database[dict[str, Any]]
) -> None:
    jobs = monque_database["jobs"]
    done, back = (stored_job(make_job, JobStatus.PROCESSING) for _ in range(2))
    jobs.insert_many([done, back])
    for transition in (transitions.complete([done["_id"]], "own", now=NOW), transitions.release([back["_id"]], "own")):
        jobs.update_many(transition.filter, transition.update)
    assert {job["_id"]: job.get("failReason") for job in jobs.find()} == {done["_id"]: None, back["_id"]: "last time"}


@pytest.mark.parametrize("reason", [None, "$data"])
@pytest.mark.parametrize("priority", [0, 3])
def test_a_follow_up_takes_over_with_a_clean_slate(
    reason: str | None, priority: int, make_job: Callable[..., Job[Any]], monque_database: Database[dict[str, Any]]
) -> None:
    jobs = monque_database["jobs"]
    # Text that would be an expression, were it not taken as it is.
    data = {"$x": {"$literal": "$status"}, "list": ["$name", None], "none": None}
    several = {"timeout": 1.5, "retry": POLICY, "tags": ("a", "b"), "headers": {"a": "b"}}
    settings: dict[str, Any] = several if priority else {}
    follow_up = FollowUp(data, FUTURE, priority, **settings)
    own: dict[str, Any] = {"priority": -5, "timeout": 60, "retry": Retry(), "headers": {"c": "d"}}
    before = stored_job(make_job, JobStatus.PROCESSING, follow_up=follow_up, unique_key="k", **own)
    jobs.insert_one(before)
    change = transitions.follow(before["_id"], "own", reason=reason)
    assert jobs.update_one(change.filter, change.update).modified_count == 1
    after = jobs.find_one({"_id": before["_id"]})
    assert after is not None
    kept = {name: before[name] for name in ("_id", "name", "createdAt", "uniqueKey")}
    assert after == kept | {
        "status": "pending",
        "data": data,
        "nextRunAt": FUTURE,
        "failCount": 0,
        "settledBy": "own",
        "startedAt": PAST,
        "updatedAt": after["updatedAt"],
        **({"priority": priority, **SETTINGS} if priority else {}),
        **({"failReason": reason} if reason else {}),
    }


@pytest.mark.parametrize("junk", [None, 1, "x", {}, {"nextRunAt": "x"}, [{"nextRunAt": PAST}]], ids=repr)
def test_what_is_no_follow_up_does_not_take_over_and_does_not_hold_up_a_recovery(
    junk: object, make_job: Callable[..., Job[Any]], monque_database: Database[dict[str, Any]]
) -> None:
    jobs = monque_database["jobs"]
    before: dict[str, Any] = stored_job(make_job, JobStatus.PROCESSING) | {"followUp": junk}
    jobs.insert_one(before)
    for change in (transitions.follow(before["_id"], "own"), transitions.recover_followed(before, failed_because="x")):
        assert jobs.update_one(change.filter, change.update).matched_count == 0
    change = transitions.recover(before, failed_because="x")
    assert jobs.update_one(change.filter, change.update).matched_count == 1


def test_several_jobs_settle_together_without_those_the_claim_has_lost(
    make_job: Callable[..., Job[Any]], monque_database: Database[dict[str, Any]]
) -> None:
    jobs = monque_database["jobs"]
    ours = [stored_job(make_job, JobStatus.PROCESSING) for _ in range(3)]
    lost = stored_job(make_job, JobStatus.PROCESSING, claim_token="foreign")  # noqa: S106
    jobs.insert_many([*ours, lost])
    change = transitions.complete([job["_id"] for job in (*ours, lost)], "own", now=NOW)
    assert jobs.update_many(change.filter, change.update).modified_count == 3
    assert jobs.find_one({"_id": lost["_id"]}) == lost
