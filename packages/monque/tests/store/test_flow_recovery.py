"""Looking ahead, and taking back jobs whose leases ran out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import DatetimeMS, Decimal128, Int64, ObjectId

from monque import LeaseExpiredError, Monque
from monque import _transitions as transitions
from monque._recovery import plan_recovery
from monque._store.flow import OLDEST_LEASES
from monque.testing import eventually

from .support import CLAIM_FIELDS, FUTURE, PAST, from_node, spoil_text, stored

if TYPE_CHECKING:
    from pymongo.collection import Collection

    from monque import Job
    from monque._recovery import Recovery
    from monque._store.flow import Flow

    from .support import Commands, Document

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
# A look long ago, in seconds.
SINCE_NOW = (datetime.now(UTC) - NOW).total_seconds()


def add(raw: Collection[Document], *documents: Document) -> list[ObjectId]:
    raw.insert_many(documents)
    return [document["_id"] for document in documents]


def server_time(raw: Collection[Document]) -> datetime:
    said: datetime = raw.database.client.admin.command("hello")["localTime"]
    return said.replace(tzinfo=UTC)


def plan(*leases: Document, timeout: float = 30, max_attempts: int = 10) -> Recovery:
    return plan_recovery(leases, now=NOW, timeout=timeout, max_attempts=lambda _: max_attempts)


# --- the next job that is due ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "priorities", [(None, None), (5, 5), (None, 5), (5, None), (-5, None), (0, 7)], ids=lambda pair: f"{pair}"
)
async def test_the_next_due_job_is_found_whatever_its_priority(
    flow: Flow, raw: Collection[Document], commands: Commands, priorities: tuple[int | None, int | None]
) -> None:
    next_one, later = priorities
    add(
        raw,
        stored(nextRunAt=FUTURE, priority=next_one),
        stored(nextRunAt=FUTURE + DAY, priority=later),
        stored(name="unwanted", nextRunAt=FUTURE - DAY),
        stored("completed", nextRunAt=FUTURE - DAY),
        stored(name="other", nextRunAt=FUTURE + DAY),
    )
    commands.sent.clear()
    survey = await flow.survey(["work", "other"], SINCE_NOW)
    assert survey.next_due == FUTURE
    assert survey.leases == []
    assert [next(iter(command)) for command in commands.sent] == ["aggregate"]


async def test_what_was_due_by_then_is_not_ahead(flow: Flow, raw: Collection[Document]) -> None:
    add(raw, stored(nextRunAt=NOW - DAY), stored(nextRunAt=NOW + DAY), stored(nextRunAt=NOW + 2 * DAY))
    assert (await flow.survey(["work"], SINCE_NOW)).next_due == NOW + DAY
    assert (await flow.survey(["work"], 0)).next_due is None
    assert (await flow.survey(["other"], SINCE_NOW)).next_due is None
    assert (await flow.survey([], SINCE_NOW)).next_due is None


async def test_a_survey_says_what_time_it_is_at_the_server(flow: Flow, raw: Collection[Document]) -> None:
    assert (await flow.survey(["work"], 0)).now is None
    for document in (stored(nextRunAt=FUTURE), stored("processing")):
        raw.delete_many({})
        add(raw, document)
        before, now, after = server_time(raw), (await flow.survey(["work"], 0)).now, server_time(raw)
        assert now is not None
        assert before <= now <= after


@pytest.mark.parametrize("priority", [None, 3])
async def test_dates_beyond_the_year_9999_are_not_waited_for(
    flow: Flow, raw: Collection[Document], priority: int | None
) -> None:
    add(raw, {**stored(priority=priority), "nextRunAt": DatetimeMS(10**15)}, stored(nextRunAt="2100-01-01"))
    assert (await flow.survey(["work"], SINCE_NOW)).next_due is None
    add(raw, stored(nextRunAt=FUTURE))
    assert (await flow.survey(["work"], SINCE_NOW)).next_due == FUTURE


# --- the oldest leases ----------------------------------------------------------------------------------------------


async def test_the_leases_renewed_longest_ago_are_found(flow: Flow, raw: Collection[Document]) -> None:
    beats = [PAST + number * SECOND for number in range(OLDEST_LEASES + 20)]
    # Those of names that nobody works for here are taken back, too.
    documents = [stored("processing", name=f"n{n % 7}", lastHeartbeat=beat) for n, beat in enumerate(beats)]
    add(raw, *reversed(documents), stored(), stored("failed"))
    survey = await flow.survey(["work"], SINCE_NOW)
    assert [lease["_id"] for lease in survey.leases] == [document["_id"] for document in documents[:OLDEST_LEASES]]
    fields = {
        "_id",
        "now",
        "name",
        "nextRunAt",
        "claimToken",
        "lockedAt",
        "lastHeartbeat",
        "heartbeatInterval",
        "attempts",
        "isFollowed",
    }
    assert survey.leases[0].keys() == fields


async def test_broken_text_in_a_lease_does_not_hide_the_others(flow: Flow, raw: Collection[Document]) -> None:
    good, bad = add(raw, stored("processing"), stored("processing", timezone="valid"))
    spoil_text(raw, bad)
    assert {lease["_id"] for lease in (await flow.survey(["work"], SINCE_NOW)).leases} == {good, bad}


# --- whose lease ran out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lease", "lasts"),
    [
        ({}, 30),
        ({"heartbeatInterval": 1000}, 3),
        ({"heartbeatInterval": 1000.0}, 3),
        ({"heartbeatInterval": Int64(2000)}, 6),
        ({"heartbeatInterval": float("inf")}, 86_400),
        ({"heartbeatInterval": float("nan")}, 30),
        ({"heartbeatInterval": 0}, 30),
        ({"heartbeatInterval": "often"}, 30),
        ({"heartbeatInterval": Decimal128("1000")}, 30),
        ({"lastHeartbeat": None}, 30),
        ({"lastHeartbeat": ...}, 30),
    ],
)
def test_a_lease_lasts_for_three_heartbeats_of_its_holder(lease: Document, lasts: float) -> None:
    def renewed(ago: float) -> Document:
        beat = NOW - timedelta(seconds=ago)
        document = {"_id": ObjectId(), "lockedAt": beat, "lastHeartbeat": beat, **lease}
        return {field: value for field, value in document.items() if value is not ...}

    alive = plan(renewed(lasts - 0.001))
    assert (alive.requeue, alive.fail, alive.next_expiry) == ([], [], NOW + timedelta(seconds=0.001))
    dead = plan(renewed(lasts))
    assert (len(dead.requeue), dead.fail, dead.next_expiry) == (1, [], None)


@pytest.mark.parametrize(
    "beat", [None, "noon", 12, DatetimeMS(10**15), datetime.max.replace(microsecond=0, tzinfo=UTC)], ids=str
)
def test_a_lease_that_nobody_can_tell_the_end_of_has_ended(beat: Any) -> None:
    recovery = plan({"_id": ObjectId(), "lastHeartbeat": beat})
    assert (len(recovery.requeue), recovery.next_expiry) == (1, None)


def test_the_first_lease_to_end_is_the_next_to_be_looked_at() -> None:
    leases = [{"_id": ObjectId(), "lastHeartbeat": NOW - ago * SECOND} for ago in (5, 25, 15, 40)]
    recovery = plan(*leases)
    assert [change.jobs for change in recovery.requeue] == [[leases[3]["_id"]]]
    assert recovery.next_expiry == NOW + 5 * SECOND
    assert plan().next_expiry is None


@pytest.mark.parametrize("attempts", [3, 4, 3.0, Int64(3)])
def test_a_job_without_attempts_left_fails_with_a_reason(attempts: Any) -> None:
    lease = {"_id": ObjectId(), "lastHeartbeat": PAST, "attempts": attempts}
    recovery = plan(lease, max_attempts=3)
    assert recovery.requeue == []
    ((change, error),) = recovery.fail
    assert isinstance(error, LeaseExpiredError)
    assert (error.job_id, error.attempts) == (lease["_id"], int(attempts))
    assert change.update["$set"] == {"status": "failed", "failReason": str(error)}


@pytest.mark.parametrize("attempts", [None, 2, 2.0, float("nan"), float("inf"), "3", 2.5, True])
def test_a_job_with_attempts_left_goes_back(attempts: Any) -> None:
    recovery = plan({"_id": ObjectId(), "lastHeartbeat": PAST, "attempts": attempts}, max_attempts=3)
    assert (len(recovery.requeue), recovery.fail) == (1, [])


@pytest.mark.parametrize(("zone", "hour"), [({}, 3), ({"timezone": None}, 3), ({"timezone": "Asia/Tokyo"}, 18)])
def test_a_recurring_job_without_attempts_left_goes_on_with_its_next_occurrence(zone: Document, hour: int) -> None:
    lease = {"_id": ObjectId(), "lastHeartbeat": PAST, "attempts": 3, "repeatInterval": "0 3 * * *", **zone}
    ((change, error),) = plan(lease, max_attempts=3).fail
    next_run_at = change.update["$set"]["nextRunAt"]
    assert (next_run_at > NOW, next_run_at.astimezone(UTC).hour) == (True, hour)
    assert change.update["$set"] == {
        "status": "pending",
        "failReason": str(error),
        "failCount": 0,
        "nextRunAt": next_run_at,
    }
    assert "attempts" in change.update["$unset"]


@pytest.mark.parametrize("schedule", [{"repeatInterval": "nonsense"}, {"repeatInterval": "@daily", "timezone": "Mars"}])
def test_a_schedule_that_nobody_can_read_ends_with_its_job(schedule: Document) -> None:
    ((change, _),) = plan({"_id": ObjectId(), "attempts": 3, **schedule}, max_attempts=3).fail
    assert change.update["$set"]["status"] == "failed"


# --- taking back ----------------------------------------------------------------------------------------------------


async def test_a_job_is_taken_back(flow: Flow, raw: Collection[Document]) -> None:
    document = stored("processing", attempts=2, failCount=1, failReason="earlier")
    (job_id,) = add(raw, document)
    assert await flow.recover(plan(*(await flow.survey(["work"], SINCE_NOW)).leases).requeue) == 1
    after = raw.find_one({"_id": job_id})
    assert after is not None
    kept = {field: value for field, value in document.items() if field not in CLAIM_FIELDS}
    began = document["lockedAt"]
    assert after == {**kept, "status": "pending", "startedAt": began, "updatedAt": after["updatedAt"]}
    assert after["updatedAt"] > PAST


@pytest.mark.parametrize(
    "meanwhile",
    [
        {"lastHeartbeat": NOW},
        {"claimToken": "another", "lockedAt": NOW},
        {"status": "completed"},
        {"status": "pending"},
    ],
    ids=str,
)
async def test_a_lease_that_was_renewed_or_ended_meanwhile_is_left_alone(
    flow: Flow, raw: Collection[Document], meanwhile: Document
) -> None:
    (job_id,) = add(raw, stored("processing", attempts=3))
    leases = (await flow.survey(["work"], SINCE_NOW)).leases
    raw.update_one({"_id": job_id}, {"$set": meanwhile})
    before = list(raw.find())
    assert await flow.recover(plan(*leases).requeue) == 0
    ((change, _),) = plan(*leases, max_attempts=3).fail
    assert await flow.apply(change) is None
    assert list(raw.find()) == before


async def test_instances_that_take_back_at_the_same_moment_count_each_job_once(
    flow: Flow, raw: Collection[Document]
) -> None:
    add(raw, *(stored("processing") for _ in range(10)))
    recovery = plan(*(await flow.survey(["work"], SINCE_NOW)).leases)
    assert await flow.recover(recovery.requeue[:6]) == 6
    assert await flow.recover(recovery.requeue) == 4


async def test_a_job_without_attempts_left_is_written_as_failed(flow: Flow, raw: Collection[Document]) -> None:
    (job_id,) = add(raw, stored("processing", attempts=3))
    ((change, error),) = plan(*(await flow.survey(["work"], SINCE_NOW)).leases, max_attempts=3).fail
    job = await flow.apply(change)
    assert job is not None
    assert (job.id, job.status, job.fail_reason, job.claimed_by) == (job_id, "failed", str(error), None)


async def test_jobs_that_the_node_library_holds_are_taken_back_too(flow: Flow, raw: Collection[Document]) -> None:
    claim = {"status": "processing", "claimedBy": "node", "lockedAt": PAST, "heartbeatInterval": 30_000.0}
    dead = from_node(**claim, lastHeartbeat=PAST)
    silent = from_node(**claim)
    alive = from_node(**claim, lastHeartbeat=NOW - 89 * SECOND)
    add(raw, dead, silent, alive)
    recovery = plan(*(await flow.survey(["work"], SINCE_NOW)).leases, timeout=1)
    assert {change.jobs[0] for change in recovery.requeue} == {dead["_id"], silent["_id"]}
    assert recovery.next_expiry == NOW + SECOND
    assert await flow.recover(recovery.requeue) == 2
    assert {document["_id"]: document["status"] for document in raw.find()} == {
        dead["_id"]: "pending",
        silent["_id"]: "pending",
        alive["_id"]: "processing",
    }


async def test_a_renewal_without_a_token_keeps_a_job_from_being_taken_back(
    flow: Flow, raw: Collection[Document]
) -> None:
    document = from_node(status="processing", claimedBy="node", lockedAt=PAST, lastHeartbeat=PAST)
    add(raw, document)
    leases = (await flow.survey(["work"], SINCE_NOW)).leases
    raw.update_one({"_id": document["_id"]}, {"$set": {"lastHeartbeat": NOW}})
    assert await flow.recover(plan(*leases).requeue) == 0


async def test_an_instance_takes_back_what_has_a_nonsensical_lease(monque: Monque, raw: Collection[Document]) -> None:
    last_day = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    add(raw, stored("processing", lastHeartbeat=last_day), stored("processing", lastHeartbeat="noon"))

    @monque.worker("work")
    async def work(_: Job[Any]) -> None:
        pass

    await monque.start()
    await eventually(lambda: raw.count_documents({"status": "completed"}) == 2, timeout=30)


def test_taking_back_a_job_says_what_was_seen() -> None:
    seen = {"_id": ObjectId(), "claimToken": "T", "lastHeartbeat": PAST}
    assert transitions.recover(seen, failed_because=None).filter == {
        **seen,
        "status": "processing",
        "lockedAt": {"$exists": False},
    }
