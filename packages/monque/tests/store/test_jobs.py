"""`Monque.jobs`: looking at jobs, and changing them by hand."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, cast, get_args

import pytest
from bson import ObjectId

import monque as public
from monque import (
    BulkResult,
    ConnectionError,
    InvalidArgumentError,
    InvalidJobIdentifierError,
    Job,
    JobDocumentError,
    JobFilter,
    Jobs,
    JobStateError,
    JobStatus,
    Lease,
    Monque,
    Options,
    UniqueKeyConflictError,
)
from monque._results import Waiting
from monque._store.flow import Flow
from monque.events import EventName, Events
from monque.testing import eventually

from .support import CLAIM_FIELDS, FUTURE, PAST, explain, refuse, spoil_text, statements, stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.collection import Collection
    from pymongo.database import Database

    from monque._clock import ServerClock

    from .support import Commands, Document, Lab, Plan

NOBODY = ObjectId("0123456789abcdef01234567")
SETTLED = ["completed", "failed", "cancelled"]


def recorded(monque: Monque) -> list[Any]:
    """What the instance says from now on."""
    said: list[Any] = []
    for name in get_args(EventName):
        monque._events.on(name, said.append)
    return said


def read(raw: Collection[Document], document: Document) -> Document:
    found = raw.find_one({"_id": document["_id"]})
    assert found is not None
    return found


def add(raw: Collection[Document], *documents: Document) -> list[ObjectId]:
    raw.insert_many(documents)
    return [document["_id"] for document in documents]


def statuses(raw: Collection[Document]) -> dict[ObjectId, str]:
    return {document["_id"]: document["status"] for document in raw.find()}


# --- one: getting ---------------------------------------------------------------------------------------------------


async def test_a_job_is_got_by_its_id_or_its_hexadecimal_digits(monque: Monque) -> None:
    job = await monque.enqueue("work", {"page": 1}, priority=3, unique_key="k")
    assert await monque.jobs.get(job.id) == job
    assert await monque.jobs.get(str(job.id)) == job


async def test_a_job_that_is_not_there_is_none(monque: Monque) -> None:
    jobs = monque.jobs
    assert await jobs.get(NOBODY) is None
    assert await jobs.cancel(NOBODY) is None
    assert await jobs.retry(NOBODY) is None
    assert await jobs.reschedule(NOBODY, FUTURE) is None
    assert await jobs.delete(NOBODY) is False


@pytest.mark.parametrize("job_id", ["", "abc", "x" * 24, "abcdefghijkl", b"abcdefghijkl", 1, None])
async def test_what_is_no_id_is_refused(monque: Monque, job_id: Any) -> None:
    jobs = monque.jobs
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: jobs.get(job_id),
        lambda: jobs.cancel(job_id),
        lambda: jobs.retry(job_id),
        lambda: jobs.reschedule(job_id, FUTURE),
        lambda: jobs.delete(job_id),
    ]
    for call in calls:
        with pytest.raises(InvalidJobIdentifierError, match="24 hexadecimal digits") as caught:
            await call()
        assert (caught.value.field, caught.value.value) == ("job_id", job_id)


async def test_a_document_that_is_no_job_is_named(monque: Monque, raw: Collection[Document]) -> None:
    (job_id,) = add(raw, stored(priority="high"))
    with pytest.raises(JobDocumentError, match="priority"):
        await monque.jobs.get(job_id)


async def test_broken_text_can_be_looked_at(monque: Monque, raw: Collection[Document]) -> None:
    (job_id,) = add(raw, stored("failed", data={"text": "valid"}))
    spoil_text(raw, job_id)
    job = await monque.jobs.get(job_id)
    assert job is not None
    assert job.data == {"text": "va\N{REPLACEMENT CHARACTER}id"}
    assert await monque.jobs.delete(job_id)


def test_without_a_connection_there_are_no_jobs() -> None:
    with pytest.raises(ConnectionError, match="not connected"):
        _ = Monque().jobs


async def test_after_closing_there_are_no_jobs(monque_uri: str) -> None:
    async with Monque(monque_uri) as monque:
        jobs = monque.jobs
    with pytest.raises(ConnectionError, match="not connected"):
        _ = monque.jobs
    with pytest.raises(ConnectionError, match="cannot get the job"):
        await jobs.get(NOBODY)


# --- one: cancelling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["pending", "processing"])
async def test_cancelling_ends_a_job(monque: Monque, raw: Collection[Document], status: str) -> None:
    document = stored(status, attempts=2)
    add(raw, document)
    said = recorded(monque)

    job = await monque.jobs.cancel(document["_id"])

    after = read(raw, document)
    assert after["status"] == "cancelled"
    assert after["attempts"] == 2
    assert after["updatedAt"] > PAST
    assert not CLAIM_FIELDS & set(after)
    assert job is not None
    assert job.status is JobStatus.CANCELLED
    assert said == [public.JobCancelledEvent(job)]


async def test_cancelling_again_changes_and_says_nothing(monque: Monque, raw: Collection[Document]) -> None:
    document = stored("cancelled")
    add(raw, document)
    said = recorded(monque)
    job = await monque.jobs.cancel(document["_id"])
    assert job is not None
    assert job.status is JobStatus.CANCELLED
    assert read(raw, document) == document
    assert said == []


async def test_cancelling_a_job_that_is_running_ends_its_run(database: AsyncDatabase[Document]) -> None:
    monque = Monque(database, Options(lease=Lease(timeout=1)))
    started, ended = asyncio.Event(), asyncio.Event()

    @monque.worker("work")
    async def work(_: Job[Any]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    said = recorded(monque)
    async with monque:
        job = await monque.enqueue("work")
        await monque.start()
        await asyncio.wait_for(started.wait(), 20)
        await monque.jobs.cancel(job.id)
        await asyncio.wait_for(ended.wait(), 20)
    after = await database["monque_jobs"].find_one({"_id": job.id})
    assert after is not None
    assert after["status"] == "cancelled"
    assert [event.job.id for event in said if event.name == "job:lost"] == [job.id]
    assert not [event for event in said if event.name in ("job:complete", "job:fail", "job:error")]


# --- one: retrying --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_retrying_gives_a_job_a_clean_slate(
    monque: Monque, raw: Collection[Document], clock: ServerClock, status: str
) -> None:
    document = stored(status, failCount=10, failReason="no", attempts=10, priority=2, uniqueKey="k", nextRunAt=FUTURE)
    add(raw, document)
    said = recorded(monque)

    job = await monque.jobs.retry(document["_id"])

    after = read(raw, document)
    assert after == {
        **{key: value for key, value in document.items() if key not in ("attempts", "failReason")},
        "status": "pending",
        "failCount": 0,
        "nextRunAt": after["nextRunAt"],
        "updatedAt": after["updatedAt"],
    }
    # Due by the server's clock, which has not been read since before the call.
    assert raw.find_one({"_id": document["_id"], "$expr": {"$lte": ["$nextRunAt", "$$NOW"]}}) is not None
    assert timedelta(seconds=-2) < after["nextRunAt"] - clock.now() < timedelta(minutes=1)
    assert job is not None
    assert (job.status, job.next_run_at, job.attempts) == (JobStatus.PENDING, after["nextRunAt"], 0)
    assert said == [public.JobRetriedEvent(job)]


async def test_a_retried_job_runs(monque: Monque, raw: Collection[Document]) -> None:
    document = stored("failed", failReason="no")
    add(raw, document)
    ran = asyncio.Event()

    @monque.worker("work")
    async def work(_: Job[Any]) -> None:
        ran.set()

    await monque.start()
    await monque.jobs.retry(document["_id"])
    await asyncio.wait_for(ran.wait(), 20)


async def test_retrying_a_job_whose_key_is_taken_names_the_key(monque: Monque, raw: Collection[Document]) -> None:
    document = stored("failed", uniqueKey="k")
    add(raw, document, stored("pending", uniqueKey="k"))
    said = recorded(monque)
    with pytest.raises(UniqueKeyConflictError, match="unique key 'k'") as caught:
        await monque.jobs.retry(document["_id"])
    error = caught.value
    assert (error.job_id, error.job_name, error.unique_key) == (document["_id"], "work", "k")
    assert read(raw, document) == document
    assert said == []


# --- one: rescheduling ----------------------------------------------------------------------------------------------


async def test_rescheduling_moves_a_pending_job(monque: Monque, raw: Collection[Document]) -> None:
    document = stored(failCount=1, attempts=1)
    add(raw, document)
    run_at = datetime(2050, 1, 2, 3, 4, 5, 678_901, timezone(timedelta(hours=2)))

    job = await monque.jobs.reschedule(document["_id"], run_at)

    after = read(raw, document)
    assert after == {**document, "nextRunAt": after["nextRunAt"], "updatedAt": after["updatedAt"]}
    assert after["nextRunAt"] == datetime(2050, 1, 2, 1, 4, 5, 678_000, UTC)
    assert after["updatedAt"] > PAST
    assert job is not None
    assert job.next_run_at == after["nextRunAt"]


async def test_a_job_rescheduled_to_the_past_runs(monque: Monque, raw: Collection[Document]) -> None:
    ran = asyncio.Event()

    @monque.worker("work")
    async def work(_: Job[Any]) -> None:
        ran.set()

    await monque.start()
    job = await monque.enqueue("work", run_at=FUTURE)
    await monque.jobs.reschedule(job.id, PAST)
    await asyncio.wait_for(ran.wait(), 20)


@pytest.mark.parametrize("run_at", [datetime(2050, 1, 1), "2050-01-01", None])  # noqa: DTZ001  just that is refused
async def test_a_time_without_a_zone_is_refused(monque: Monque, run_at: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="aware datetime"):
        await monque.jobs.reschedule(NOBODY, run_at)


# --- one: deleting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["pending", *SETTLED])
async def test_deleting_removes_a_job(monque: Monque, raw: Collection[Document], status: str) -> None:
    document = stored(status)
    add(raw, document)
    job = await monque.jobs.get(document["_id"])
    assert job is not None
    said = recorded(monque)
    assert await monque.jobs.delete(document["_id"]) is True
    assert raw.count_documents({}) == 0
    assert said == [public.JobDeletedEvent(job)]
    assert await monque.jobs.delete(document["_id"]) is False
    assert len(said) == 1


@pytest.mark.parametrize("broken", [{"priority": "high"}, {"status": "unheard-of"}, {"nextRunAt": "tomorrow"}])
async def test_what_is_no_job_can_be_deleted(monque: Monque, raw: Collection[Document], broken: Document) -> None:
    (job_id,) = add(raw, stored(**broken))
    said = recorded(monque)
    assert await monque.jobs.delete(job_id) is True
    assert raw.count_documents({}) == 0
    assert said == [public.JobsDeletedEvent(1)]


# --- one: states ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "status", "allowed"),
    [
        ("cancel", "completed", "pending or processing"),
        ("cancel", "failed", "pending or processing"),
        ("retry", "pending", "failed or cancelled"),
        ("retry", "processing", "failed or cancelled"),
        ("retry", "completed", "failed or cancelled"),
        ("reschedule", "processing", "pending"),
        ("reschedule", "completed", "pending"),
        ("reschedule", "failed", "pending"),
        ("reschedule", "cancelled", "pending"),
        ("delete", "processing", "pending or completed or failed or cancelled"),
    ],
)
async def test_a_state_that_does_not_allow_it_is_named(
    monque: Monque, raw: Collection[Document], action: str, status: str, allowed: str
) -> None:
    document = stored(status)
    add(raw, document)
    said = recorded(monque)
    arguments = [FUTURE] if action == "reschedule" else []
    with pytest.raises(JobStateError, match=f"cannot {action} .* it is {status}, expected {allowed}") as caught:
        await getattr(monque.jobs, action)(document["_id"], *arguments)
    error = caught.value
    assert (error.job_id, error.current_status, error.action) == (document["_id"], JobStatus(status), action)
    assert read(raw, document) == document
    assert said == []


@pytest.mark.parametrize(
    "change",
    [
        ("cancel", "completed", "pending", "cancelled"),
        ("retry", "processing", "failed", "pending"),
        ("reschedule", "processing", "pending", "pending"),
        ("delete", "processing", "completed", None),
    ],
)
async def test_a_state_that_changes_at_this_moment_does_not_confuse(
    monque: Monque,
    raw: Collection[Document],
    commands: Commands,
    change: tuple[str, str, str, str | None],
) -> None:
    action, before, meanwhile, after = change
    document = stored(before)
    add(raw, document)
    # Once the first attempt has met the state before, and before that state is asked for.
    commands.after["findAndModify"] = lambda _: raw.update_one(
        {"_id": document["_id"], "status": before}, {"$set": {"status": meanwhile}}
    )
    arguments = [FUTURE] if action == "reschedule" else []
    assert await getattr(monque.jobs, action)(document["_id"], *arguments)
    assert statuses(raw) == ({} if after is None else {document["_id"]: after})
    assert len(commands.named("findAndModify")) == 2


# --- filters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 1),
        ("name", ["work", None]),
        ("name", b"work"),
        ("status", "unheard-of"),
        ("status", ["failed", "unheard-of"]),
        ("status", 3),
        ("ids", 1),
        ("ids", str(NOBODY)),
        ("unique_key", "k"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        JobFilter(**{field: value})
    assert (caught.value.argument, caught.value.value) == (field, value)


def test_a_key_in_a_filter_is_text() -> None:
    with pytest.raises(InvalidArgumentError, match="unique_key"):
        JobFilter(name="work", unique_key=cast("Any", 1))


def test_an_id_in_a_filter_is_an_id() -> None:
    with pytest.raises(InvalidJobIdentifierError, match="job_id"):
        JobFilter(ids=[NOBODY, "x"])


MANY = ["cancel_many", "retry_many", "delete_many"]


@pytest.mark.parametrize("action", MANY)
async def test_an_empty_filter_changes_nothing_unless_all_are_meant(
    monque: Monque, raw: Collection[Document], action: str
) -> None:
    documents = [stored(status) for status in JobStatus]
    add(raw, *documents)
    with pytest.raises(InvalidArgumentError, match="all=True"):
        await getattr(monque.jobs, action)(JobFilter())
    assert list(raw.find()) == documents
    assert (await getattr(monque.jobs, action)(JobFilter(), all=True)).count >= 2
    assert list(raw.find()) != documents


@pytest.mark.parametrize("action", MANY)
@pytest.mark.parametrize("nothing", [{"ids": []}, {"name": []}, {"status": ()}, {"name": "other"}])
async def test_a_filter_that_nothing_fits_changes_and_says_nothing(
    monque: Monque, raw: Collection[Document], action: str, nothing: dict[str, Any]
) -> None:
    documents = [stored(status) for status in JobStatus]
    add(raw, *documents)
    said = recorded(monque)
    assert await getattr(monque.jobs, action)(JobFilter(**nothing), all=True) == BulkResult(0, {})
    assert list(raw.find()) == documents
    assert said == []


@pytest.mark.parametrize("action", MANY)
async def test_what_is_no_filter_is_refused(monque: Monque, action: str) -> None:
    with pytest.raises(InvalidArgumentError, match="a JobFilter"):
        await getattr(monque.jobs, action)({"name": "work"}, all=True)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"name": "a"}, {"a-pending", "a-processing", "a-keyed"}),
        ({"name": ["a", "b"]}, {"a-pending", "a-processing", "a-keyed", "b-pending"}),
        ({"name": ("b", "c")}, {"b-pending"}),
        ({"status": JobStatus.PENDING}, {"a-pending", "a-keyed", "b-pending"}),
        ({"status": "processing"}, {"a-processing"}),
        ({"status": ["pending", "failed"]}, {"a-pending", "a-keyed", "b-pending"}),
        ({"name": "a", "unique_key": "k"}, {"a-keyed"}),
        ({"name": "b", "unique_key": "k"}, set[str]()),
        ({"ids": ["a-pending", "b-pending", "a-failed"]}, {"a-pending", "b-pending"}),
        ({"ids": ["a-pending", "b-pending"], "name": "b"}, {"b-pending"}),
        ({"ids": ["a-pending", "a-processing"], "status": "processing"}, {"a-processing"}),
    ],
)
async def test_a_filter_means_those_to_which_all_of_it_applies(
    monque: Monque, raw: Collection[Document], chosen: dict[str, Any], expected: set[str]
) -> None:
    documents = {
        "a-pending": stored(name="a"),
        "a-processing": stored("processing", name="a"),
        "a-keyed": stored(name="a", uniqueKey="k"),
        "a-failed": stored("failed", name="a", uniqueKey="k"),
        "b-pending": stored(name="b"),
    }
    add(raw, *documents.values())
    if "ids" in chosen:
        # One as an ObjectId, the others as text.
        first, *others = (documents[label]["_id"] for label in chosen["ids"])
        chosen = {**chosen, "ids": [first, *map(str, others)]}

    result = await monque.jobs.cancel_many(JobFilter(**chosen))

    assert result == BulkResult(len(expected), {})
    cancelled = {job_id for job_id, status in statuses(raw).items() if status == "cancelled"}
    assert cancelled == {documents[label]["_id"] for label in expected}


# --- many -----------------------------------------------------------------------------------------------------------


async def test_cancelling_many_ends_those_that_have_not_ended(
    monque: Monque, raw: Collection[Document], commands: Commands
) -> None:
    documents = [stored(status) for status in JobStatus]
    add(raw, *documents, stored(name="other"))
    said = recorded(monque)
    commands.sent.clear()

    result = await monque.jobs.cancel_many(JobFilter(name="work"))

    assert result == BulkResult(2, {})
    assert said == [public.JobsCancelledEvent(2)]
    assert [next(iter(command)) for command in commands.sent] == ["update"]
    pending, processing, completed, failed, cancelled = (read(raw, document) for document in documents)
    assert [pending["status"], processing["status"]] == ["cancelled", "cancelled"]
    assert not CLAIM_FIELDS & set(processing)
    assert [completed, failed, cancelled] == documents[2:]
    assert raw.count_documents({"name": "other", "status": "pending"}) == 1


async def test_retrying_many_gives_them_a_clean_slate(monque: Monque, raw: Collection[Document]) -> None:
    documents = [
        stored(status, failCount=3, failReason="no", attempts=3, nextRunAt=FUTURE, uniqueKey=key)
        for status, key in [("failed", None), ("failed", "a"), ("cancelled", None), ("cancelled", "b")]
    ]
    others = [stored("completed"), stored("processing"), stored("failed", name="other")]
    add(raw, *documents, *others)
    said = recorded(monque)

    result = await monque.jobs.retry_many(JobFilter(name="work"))

    assert result == BulkResult(4, {})
    assert said == [public.JobsRetriedEvent(4)]
    for document in documents:
        after = read(raw, document)
        assert (after["status"], after["failCount"]) == ("pending", 0)
        assert not {"failReason", "attempts"} & set(after)
        assert after["nextRunAt"] < FUTURE
        assert after["updatedAt"] > PAST
    assert [read(raw, document) for document in others] == others


async def test_retrying_many_goes_on_past_keys_that_are_taken(monque: Monque, raw: Collection[Document]) -> None:
    failed = {key: stored("failed", uniqueKey=key) for key in "abcde"}
    twins = [stored("failed", uniqueKey="twin") for _ in range(3)]
    held = [stored(uniqueKey="b"), stored("processing", uniqueKey="d"), stored(name="other", uniqueKey="a")]
    add(raw, *failed.values(), *twins, *held, stored("failed"))
    said = recorded(monque)

    result = await monque.jobs.retry_many(JobFilter(name="work", status=JobStatus.FAILED))

    after = statuses(raw)
    assert {key: after[document["_id"]] for key, document in failed.items()} == {
        "a": "pending",
        "b": "failed",
        "c": "pending",
        "d": "failed",
        "e": "pending",
    }
    left = {twin["_id"] for twin in twins if after[twin["_id"]] == "failed"}
    assert len(left) == 2
    assert result.count == 5
    assert result.errors.keys() == left | {failed["b"]["_id"], failed["d"]["_id"]}
    error = result.errors[failed["b"]["_id"]]
    assert isinstance(error, UniqueKeyConflictError)
    assert (error.job_id, error.job_name, error.unique_key) == (failed["b"]["_id"], "work", "b")
    assert said == [public.JobsRetriedEvent(5)]


async def test_retrying_one_key_of_many_leaves_the_others(monque: Monque, raw: Collection[Document]) -> None:
    wanted, other, keyless = stored("failed", uniqueKey="k"), stored("failed", uniqueKey="l"), stored("failed")
    add(raw, wanted, other, keyless)
    assert (await monque.jobs.retry_many(JobFilter(name="work", unique_key="k"))).count == 1
    assert statuses(raw) == {wanted["_id"]: "pending", other["_id"]: "failed", keyless["_id"]: "failed"}


async def test_retrying_thousands_with_keys_revives_every_one(monque: Monque, raw: Collection[Document]) -> None:
    add(raw, *(stored("failed", uniqueKey=str(number)) for number in range(2500)))
    assert await monque.jobs.retry_many(JobFilter(status=JobStatus.FAILED)) == BulkResult(2500, {})
    assert raw.count_documents({"status": "pending"}) == 2500


async def test_one_that_the_server_refuses_does_not_keep_the_others_with_keys_back(
    monque: Monque, raw: Collection[Document], monque_database: Database[Document]
) -> None:
    good, bad = stored("failed", uniqueKey="good"), stored("failed", uniqueKey="bad")
    add(raw, bad, good)
    refuse(monque_database, uniqueKey="bad")
    result = await monque.jobs.retry_many(JobFilter(name="work"))
    assert result.count == 1
    error = result.errors[bad["_id"]]
    assert isinstance(error, ConnectionError)
    assert "Document failed validation" in str(error)
    assert statuses(raw) == {good["_id"]: "pending", bad["_id"]: "failed"}


async def test_a_unique_index_of_somebody_else_refuses_a_retry(monque: Monque, raw: Collection[Document]) -> None:
    raw.create_index("data.order", unique=True, partialFilterExpression={"status": "pending"})
    document = stored("failed", data={"order": 1}, uniqueKey="k")
    add(raw, document, stored(data={"order": 1}))
    with pytest.raises(ConnectionError, match="duplicate key"):
        await monque.jobs.retry(document["_id"])
    result = await monque.jobs.retry_many(JobFilter(status=JobStatus.FAILED))
    assert result.count == 0
    error = result.errors[document["_id"]]
    assert isinstance(error, ConnectionError)
    assert "duplicate key" in str(error)


async def test_deleting_many_passes_over_what_is_processing(
    monque: Monque, raw: Collection[Document], commands: Commands
) -> None:
    documents = {status: stored(status) for status in JobStatus}
    other = stored(name="other")
    add(raw, *documents.values(), other)
    said = recorded(monque)
    commands.sent.clear()

    result = await monque.jobs.delete_many(JobFilter(name="work"))

    assert result == BulkResult(4, {})
    assert said == [public.JobsDeletedEvent(4)]
    assert [next(iter(command)) for command in commands.sent] == ["delete"]
    assert set(statuses(raw)) == {documents[JobStatus.PROCESSING]["_id"], other["_id"]}


# --- telling the instance -------------------------------------------------------------------------------------------


class Woken:
    """What an instance is told to look for."""

    def __init__(self) -> None:
        self.told: list[tuple[str | None, datetime]] = []

    def __call__(self, jobs: Iterable[tuple[str | None, datetime]]) -> None:
        self.told += jobs


@pytest.fixture
def woken() -> Woken:
    return Woken()


@pytest.fixture
def jobs(collection: AsyncCollection[Document], clock: ServerClock, woken: Woken) -> Jobs:
    return Jobs(collection, clock, Events(), woken, Waiting(Flow(collection).endings, Events()).result)


async def test_what_becomes_due_wakes_the_instance(
    jobs: Jobs, raw: Collection[Document], woken: Woken, clock: ServerClock
) -> None:
    failed, pending = stored("failed", name="a"), stored(name="b")
    add(raw, failed, pending)
    await jobs.retry(failed["_id"])
    await jobs.reschedule(pending["_id"], FUTURE)
    assert woken.told == [("a", clock.now()), ("b", FUTURE)]


async def test_many_that_become_due_wake_the_instance(
    jobs: Jobs, raw: Collection[Document], woken: Woken, clock: ServerClock
) -> None:
    add(raw, stored("failed", name="a"), stored("failed", name="b"), stored("cancelled", name="c"))
    await jobs.retry_many(JobFilter(name=["a", "b"]))
    await jobs.retry_many(JobFilter(status=JobStatus.CANCELLED))
    assert woken.told == [("a", clock.now()), ("b", clock.now()), (None, clock.now())]


async def test_what_does_not_become_due_wakes_nobody(jobs: Jobs, raw: Collection[Document], woken: Woken) -> None:
    pending, other = stored(), stored()
    add(raw, pending, other)
    await jobs.cancel(pending["_id"])
    await jobs.delete(other["_id"])
    await jobs.retry_many(JobFilter(status=JobStatus.FAILED))
    await jobs.cancel_many(JobFilter(), all=True)
    await jobs.delete_many(JobFilter(), all=True)
    assert woken.told == []


async def test_many_retried_jobs_of_any_name_run(monque: Monque, raw: Collection[Document]) -> None:
    add(raw, *(stored("failed") for _ in range(20)))
    ran: set[ObjectId] = set()

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        ran.add(job.id)

    await monque.start()
    await monque.jobs.retry_many(JobFilter(status=JobStatus.FAILED))
    await eventually(lambda: len(ran) == 20, timeout=30)


# --- trouble --------------------------------------------------------------------------------------------------------


CALLS: dict[str, tuple[Callable[[Jobs], Awaitable[object]], str]] = {
    "get": (lambda jobs: jobs.get(NOBODY), "find"),
    "cancel": (lambda jobs: jobs.cancel(NOBODY), "findAndModify"),
    "retry": (lambda jobs: jobs.retry(NOBODY), "findAndModify"),
    "reschedule": (lambda jobs: jobs.reschedule(NOBODY, FUTURE), "findAndModify"),
    "delete": (lambda jobs: jobs.delete(NOBODY), "findAndModify"),
    "cancel_many": (lambda jobs: jobs.cancel_many(JobFilter(name="work")), "update"),
    "retry_many": (lambda jobs: jobs.retry_many(JobFilter(name="work")), "update"),
    "delete_many": (lambda jobs: jobs.delete_many(JobFilter(name="work")), "delete"),
}


@pytest.mark.parametrize(("call", "command"), CALLS.values(), ids=CALLS.keys())
async def test_an_error_of_the_driver_becomes_ours(
    lab: Lab, call: Callable[[Jobs], Awaitable[object]], command: str
) -> None:
    async with lab.connected() as database, Monque(database) as monque:
        with lab.failing(command, errorCode=1), pytest.raises(ConnectionError, match="cannot") as caught:
            await call(monque.jobs)
    assert caught.value.__cause__ is not None


async def test_a_retry_that_a_majority_did_not_confirm_is_an_error(lab: Lab) -> None:
    async with lab.connected() as database, Monque(database) as monque:
        add(lab.jobs, stored("failed", uniqueKey="k"))
        trouble = {"code": 64, "errmsg": "waiting for replication timed out"}
        # The first update is for jobs without unique keys.
        with (
            lab.failing("update", mode={"skip": 1}, writeConcernError=trouble),
            pytest.raises(ConnectionError, match="replication timed out"),
        ):
            await monque.jobs.retry_many(JobFilter(status=JobStatus.FAILED))


# --- rescheduling and running now -----------------------------------------------------------------------------------


async def test_a_pending_job_runs_now(monque: Monque, raw: Collection[Document]) -> None:
    document = stored(nextRunAt=FUTURE, failCount=2, repeatInterval="@daily")
    add(raw, document)
    said = recorded(monque)
    job = await monque.jobs.run_now(document["_id"])
    after = read(raw, document)
    assert job is not None
    assert job.next_run_at == after["nextRunAt"] <= datetime.now(UTC) + timedelta(minutes=1)
    assert {**after, "nextRunAt": FUTURE, "updatedAt": PAST} == document
    assert said == []


@pytest.mark.parametrize("status", ["processing", *SETTLED])
async def test_what_is_not_pending_cannot_run_now(monque: Monque, raw: Collection[Document], status: str) -> None:
    (job_id,) = add(raw, stored(status))
    with pytest.raises(JobStateError, match=r"cannot run_now job .* expected pending") as caught:
        await monque.jobs.run_now(job_id)
    assert (caught.value.action, caught.value.current_status) == ("run_now", status)


async def test_running_now_starts_a_job_at_once(database: AsyncDatabase[Document]) -> None:
    monque = Monque(database)
    ran: list[object] = []

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        ran.append(job.data)

    async with monque:
        one = await monque.enqueue("work", 1, delay=3600)
        await monque.enqueue_many({"name": "work", "data": number, "delay": 3600} for number in (2, 3))
        await monque.start()
        await monque.jobs.run_now(one.id)
        await eventually(lambda: ran == [1])
        assert (await monque.jobs.run_now_many(JobFilter(name="work"))).count == 2
        await eventually(lambda: len(ran) == 3)


async def test_pending_jobs_are_rescheduled_together(monque: Monque, raw: Collection[Document]) -> None:
    pending = add(raw, stored(), stored(priority=3), stored(nextRunAt=FUTURE))
    add(raw, *(stored(status) for status in ("processing", *SETTLED)), stored(name="other"))
    later = datetime(2090, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert await monque.jobs.reschedule_many(JobFilter(name="work"), later) == BulkResult(3)
    assert {document["_id"] for document in raw.find({"nextRunAt": later})} == set(pending)
    assert await monque.jobs.reschedule_many(JobFilter(name="nobody"), later) == BulkResult(0)
    assert (await monque.jobs.run_now_many(JobFilter(due_from=later))).count == 3
    assert (await monque.jobs.run_now_many(JobFilter(), all=True)).count == 4
    assert raw.count_documents({"nextRunAt": {"$gt": datetime.now(UTC) + timedelta(minutes=1)}}) == 0


async def test_rescheduling_without_a_filter_or_a_time_is_refused(monque: Monque, raw: Collection[Document]) -> None:
    add(raw, stored())
    with pytest.raises(InvalidArgumentError, match="all=True"):
        await monque.jobs.reschedule_many(JobFilter(), FUTURE)
    with pytest.raises(InvalidArgumentError, match="all=True"):
        await monque.jobs.run_now_many(JobFilter())
    naive: Any = datetime(2100, 1, 1)  # noqa: DTZ001
    with pytest.raises(InvalidArgumentError, match="run_at: expected an aware datetime"):
        await monque.jobs.reschedule_many(JobFilter(name="work"), naive)


# --- cost -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def plans(commands: Commands, monque_database: Database[Document]) -> list[Plan]:
    """How the server is about to run the commands that it is sent from now on."""
    plans: list[Plan] = []

    def note(command: Document) -> None:
        plans.extend(explain(monque_database, statement) for statement in statements(command))

    commands.before = note
    return plans


async def test_every_change_examines_about_what_it_changes(
    monque: Monque, raw: Collection[Document], plans: list[Plan]
) -> None:
    jobs, few = monque.jobs, 10
    raw.insert_many(stored(status, name=f"other{number % 7}") for number in range(10_000) for status in SETTLED)
    raw.insert_many(stored(name=f"other{number % 7}", nextRunAt=FUTURE) for number in range(20_000))
    add(raw, *(stored(status) for _ in range(few) for status in JobStatus if status is not JobStatus.COMPLETED))
    add(raw, *(stored("completed", uniqueKey=str(number)) for number in range(few)))
    (held,) = add(raw, stored(uniqueKey="k"))

    async def cost(change: Awaitable[Any]) -> int:
        plans.clear()
        await change
        assert all("COLLSCAN" not in plan.stages for plan in plans)
        assert sum(plan.documents for plan in plans) <= sum(plan.keys for plan in plans)
        return sum(plan.keys for plan in plans)

    assert await cost(jobs.get(held)) == 1
    assert await cost(jobs.reschedule(held, FUTURE)) == 1
    assert await cost(jobs.cancel_many(JobFilter(name="work", unique_key="k"))) <= 2
    assert await cost(jobs.retry(held)) == 1
    assert await cost(jobs.cancel(held)) == 1
    assert await cost(jobs.delete(held)) == 1
    for status in (JobStatus.PENDING, JobStatus.PROCESSING):
        assert few <= await cost(jobs.cancel_many(JobFilter(name=["nobody", "work"], status=status))) <= few + 3
    # Asked twice, for those with and those without a unique key.
    failed = JobFilter(name="work", status=JobStatus.FAILED)
    assert few <= await cost(jobs.retry_many(failed)) <= 2 * few
    for status in (JobStatus.PENDING, JobStatus.COMPLETED):
        assert few <= await cost(jobs.delete_many(JobFilter(name="work", status=status))) <= few + 1
    some = [document["_id"] for document in raw.find({"name": "other3"}).limit(few)]
    assert await cost(jobs.delete_many(JobFilter(ids=some))) <= 2 * few


async def test_what_is_tagged_is_changed_at_the_cost_of_the_tag(
    monque: Monque, raw: Collection[Document], plans: list[Plan]
) -> None:
    raw.insert_many(stored("failed") for _ in range(5000))
    ids = add(raw, *(stored("failed", tags=["t"]) for _ in range(10)))
    plans.clear()
    assert (await monque.jobs.retry_many(JobFilter(tags="t"))).count == 10
    assert (await monque.jobs.run_now_many(JobFilter(tags="t"))).count == 10
    assert (await monque.jobs.cancel_many(JobFilter(tags="t"))).count == 10
    assert (await monque.jobs.delete_many(JobFilter(tags="t"))).count == 10
    assert sum(plan.keys for plan in plans) <= 5 * 11
    assert raw.count_documents({"_id": {"$in": ids}}) == 0
