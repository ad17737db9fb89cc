from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import DatetimeMS, Decimal128, Int64, ObjectId
from bson.codec_options import CodecOptions, DatetimeConversion
from hypothesis import given
from hypothesis import strategies as st

from monque import InvalidArgumentError, MonqueError, Retry, current_job
from monque import job as job_module
from monque._scope import Scope, enter
from monque.errors import JobDocumentError
from monque.job import FollowUp, Job, JobFailure, JobStatus, LogLine, Progress, from_document, to_document

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

# As the collection reads: aware dates, and those beyond Python's range as DatetimeMS.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO)

ID = ObjectId("65f000000000000000000001")
DATE = datetime(2026, 3, 1, 9, 30, 0, 250_000, tzinfo=UTC)

# A job with every field set, beside the name of each field on the wire.
FULL: Job[dict[str, Any]] = Job(
    id=ID,
    name="report",
    data={"kind": "daily"},
    status=JobStatus.PROCESSING,
    next_run_at=DATE,
    fail_count=2,
    created_at=DATE - timedelta(days=1),
    updated_at=DATE + timedelta(seconds=1),
    unique_key="daily",
    repeat_interval="0 9 * * 1-5",
    timezone="Europe/Berlin",
    fail_reason="ValueError: no",
    locked_at=DATE + timedelta(seconds=2),
    claimed_by="instance",
    claim_token="token",  # noqa: S106
    last_heartbeat=DATE + timedelta(seconds=3),
    heartbeat_interval=10_000,
    priority=-3,
    attempts=3,
    timeout=1.5,
    retry=Retry(max_retries=3, base=0.5, cap=60, jitter=0.1),
    tags=("eu", "nightly run"),
    headers={"tenant": "acme"},
    errors=(JobFailure(DATE, 1, "ValueError: no", "Traceback …"), JobFailure(DATE, 2, "KeyError", "Traceback …")),
    progress_report=Progress(0.4, "rows", DATE),
    result={"rows": 3},
    result_error="too large",
    logs=(LogLine(DATE, "INFO", "app", "hello"),),
    follow_up=FollowUp(
        {"kind": "weekly"}, DATE + timedelta(days=2), 4, 2.5, Retry(max_retries=1, base=1, cap=2), ("us",), {"a": "b"}
    ),
    started_at=DATE + timedelta(seconds=2),
)
FAILURE = {"at": DATE, "attempt": 1, "error": "ValueError: no", "traceback": "Traceback …"}
LINE = {"at": DATE, "level": "INFO", "logger": "app", "message": "hello"}
POLICY = {"maxRetries": 3, "base": 0.5, "cap": 60.0, "jitter": 0.1}
FULL_DOCUMENT: dict[str, Any] = {
    "_id": ID,
    "name": "report",
    "data": {"kind": "daily"},
    "status": "processing",
    "nextRunAt": DATE,
    "failCount": 2,
    "createdAt": DATE - timedelta(days=1),
    "updatedAt": DATE + timedelta(seconds=1),
    "uniqueKey": "daily",
    "repeatInterval": "0 9 * * 1-5",
    "timezone": "Europe/Berlin",
    "failReason": "ValueError: no",
    "lockedAt": DATE + timedelta(seconds=2),
    "claimedBy": "instance",
    "claimToken": "token",
    "lastHeartbeat": DATE + timedelta(seconds=3),
    "heartbeatInterval": 10_000,
    "priority": -3,
    "attempts": 3,
    "timeout": 1500,
    "retry": POLICY,
    "tags": ["eu", "nightly run"],
    "headers": {"tenant": "acme"},
    "errors": [FAILURE, {**FAILURE, "attempt": 2, "error": "KeyError"}],
    "progress": {"fraction": 0.4, "message": "rows", "at": DATE},
    "result": {"rows": 3},
    "resultError": "too large",
    "logs": [LINE],
    "followUp": {
        "data": {"kind": "weekly"},
        "nextRunAt": DATE + timedelta(days=2),
        "timeout": 2500,
        "retry": {"maxRetries": 1, "base": 1.0, "cap": 2.0, "jitter": 0},
        "tags": ["us"],
        "headers": {"a": "b"},
        "priority": 4,
    },
    "startedAt": DATE + timedelta(seconds=2),
}
# What comes of runs is read, but never written along with the rest.
OF_RUNS = {"errors", "progress", "result", "resultError", "logs", "startedAt"}
REQUIRED = ["_id", "name", "data", "status", "nextRunAt", "failCount", "createdAt", "updatedAt"]
OPTIONAL = [field for field in FULL_DOCUMENT if field not in REQUIRED]
ATTRIBUTES = dict(zip(FULL_DOCUMENT, (field.name for field in dataclasses.fields(Job)), strict=True))


def stored(document: dict[str, Any]) -> dict[str, Any]:
    """The document as it comes back from the database."""
    return bson.decode(bson.encode(document), CODEC)  # pyright: ignore[reportUnknownMemberType]


def test_every_field_has_its_place_in_the_document() -> None:
    assert to_document(FULL) == {field: value for field, value in FULL_DOCUMENT.items() if field not in OF_RUNS}
    assert from_document(FULL_DOCUMENT) == FULL
    assert from_document(stored(FULL_DOCUMENT)) == FULL


def test_the_status_is_written_as_a_plain_string() -> None:
    assert type(to_document(FULL)["status"]) is str


_dates = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda date: date.replace(microsecond=date.microsecond // 1000 * 1000)
)
_texts = st.text(st.characters(exclude_categories=["Cs"]))
_counts = st.integers(0, 2**31 - 1)
_data: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | _texts | _dates,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner, max_size=3)
    ),
    max_leaves=5,
)
_seconds = st.integers(1, 10**9).map(lambda milliseconds: milliseconds / 1000)
_tags = st.lists(_texts, max_size=3, unique=True).map(tuple)
_policies = st.none() | st.builds(
    Retry, max_retries=st.integers(1, 2**31), base=st.floats(0.001, 60), cap=st.floats(60, 1e6), jitter=st.floats(0, 1)
)
_jobs: st.SearchStrategy[Job[Any]] = st.builds(
    Job,
    id=st.binary(min_size=12, max_size=12).map(ObjectId),
    name=_texts,
    data=_data,
    status=st.sampled_from(JobStatus),
    next_run_at=_dates,
    fail_count=_counts,
    created_at=_dates,
    updated_at=_dates,
    unique_key=st.none() | _texts,
    repeat_interval=st.none() | _texts,
    timezone=st.none() | _texts,
    fail_reason=st.none() | _texts,
    locked_at=st.none() | _dates,
    claimed_by=st.none() | _texts,
    claim_token=st.none() | _texts,
    last_heartbeat=st.none() | _dates,
    heartbeat_interval=st.none() | _counts,
    priority=st.integers(-10, 10),
    attempts=_counts,
    timeout=st.none() | _seconds,
    retry=_policies,
    tags=_tags,
    follow_up=st.none()
    | st.builds(FollowUp, _data, _dates, st.integers(-10, 10), st.none() | _seconds, _policies, _tags),
)


@given(job=_jobs)
def test_a_job_survives_the_way_into_the_database_and_back(job: Job[Any]) -> None:
    assert from_document(stored(to_document(job))) == dataclasses.replace(job, started_at=job.locked_at)


@given(job=_jobs)
def test_what_is_unset_is_absent_and_never_null(job: Job[Any]) -> None:
    document = to_document(job)
    assert None not in {field: value for field, value in document.items() if field != "data"}.values()
    unset = {wire for wire in OPTIONAL if getattr(job, ATTRIBUTES[wire]) is None}
    assert unset.isdisjoint(document)


def test_the_normal_priority_and_no_attempts_are_absent() -> None:
    document = to_document(dataclasses.replace(FULL, priority=0, attempts=0))
    assert {"priority", "attempts"}.isdisjoint(document)
    document = to_document(dataclasses.replace(FULL, follow_up=FollowUp(None, DATE)))
    assert document["followUp"] == {"data": None, "nextRunAt": DATE}


def test_a_zero_elsewhere_is_written() -> None:
    document = to_document(dataclasses.replace(FULL, fail_count=0, heartbeat_interval=0))
    assert (document["failCount"], document["heartbeatInterval"]) == (0, 0)


@pytest.mark.parametrize("field", OPTIONAL)
def test_an_optional_field_reads_alike_when_it_is_null_and_when_it_is_absent(field: str) -> None:
    without = {name: value for name, value in FULL_DOCUMENT.items() if name != field}
    unset: dict[str, Any] = {"priority": 0, "attempts": 0, "tags": (), "headers": {}, "errors": (), "logs": ()}
    unset["startedAt"] = FULL.locked_at  # it is held
    for document in (without, without | {field: None}):
        assert getattr(from_document(document), ATTRIBUTES[field]) == unset.get(field)


def test_a_run_that_is_not_over_began_when_it_was_claimed() -> None:
    job = from_document(FULL_DOCUMENT | {"lockedAt": DATE + timedelta(days=1)})
    assert job.started_at == job.locked_at == DATE + timedelta(days=1)
    assert from_document(FULL_DOCUMENT | {"lockedAt": None}).started_at == FULL.started_at


def test_null_is_data_like_any_other() -> None:
    assert from_document(FULL_DOCUMENT | {"data": None}).data is None


def test_unknown_fields_are_passed_over() -> None:
    assert from_document(FULL_DOCUMENT | {"settledBy": "token", "__v": 0, "someday": {"a": 1}}) == FULL


@pytest.mark.parametrize("field", ["failCount", "heartbeatInterval", "priority", "attempts"])
@pytest.mark.parametrize("value", [7.0, 7, Int64(7)])
def test_whole_numbers_may_be_doubles(field: str, value: float) -> None:
    read = getattr(from_document(stored(FULL_DOCUMENT | {field: value})), ATTRIBUTES[field])
    assert read == 7
    assert type(read) is int


@pytest.mark.parametrize(
    ("value", "read"), [("eu", ("eu",)), (["eu", 1, None, "us"], ("eu", "us")), ({}, ()), (1, ()), ([["eu"]], ())]
)
def test_of_foreign_tags_the_texts_are_read(value: Any, read: tuple[str, ...]) -> None:
    assert from_document(stored(FULL_DOCUMENT | {"tags": value})).tags == read


def listed(*values: Any) -> tuple[Any, ...]:
    return values


TEXTS = ["name", "uniqueKey", "repeatInterval", "timezone", "failReason", "claimedBy", "claimToken"]
DATES = ["nextRunAt", "createdAt", "updatedAt", "lockedAt", "lastHeartbeat", "startedAt"]
COUNTS = ["failCount", "heartbeatInterval", "priority", "attempts"]
STATUSES = "one of pending, processing, completed, failed, cancelled"
LENGTH = "a number of milliseconds, at least 1, at most 1,000 years"

FOREIGN: list[tuple[str, str, Any]] = [
    *(("_id", "an ObjectId", value) for value in listed("65f000000000000000000001", 1, {})),
    *((field, "a string", value) for field in TEXTS for value in listed(1, True, [], {}, b"x", ID)),
    *(("status", STATUSES, value) for value in listed("scheduled", "PENDING", "", 1, [])),
    *(
        (field, "a date between the years 1 and 9999", value)
        for field in DATES
        for value in listed(1.0, "2026-03-01", {})
    ),
    *((field, "a date between the years 1 and 9999", DatetimeMS(2**53)) for field in DATES),
    *(
        (field, "a whole number", value)
        for field in COUNTS
        for value in (True, "1", 1.5, float("nan"), float("inf"), Decimal128("1"), [1])
    ),
    *(
        ("followUp", "a document of data, nextRunAt and maybe priority", value)
        for value in listed(1, [], {}, {"data": 1}, {"nextRunAt": DATE}, {"data": 1, "nextRunAt": DatetimeMS(2**53)})
    ),
    ("followUp", "a whole number", {"data": 1, "nextRunAt": DATE, "priority": "high"}),
    ("followUp", LENGTH, {"data": 1, "nextRunAt": DATE, "timeout": 0}),
    ("followUp", "a retry policy as Monque writes it", {"data": 1, "nextRunAt": DATE, "retry": {}}),
    *(("timeout", LENGTH, value) for value in listed(0, -1, 2**52, -0.0)),
    *(("timeout", "a whole number", value) for value in listed("30s", 1.5, True, float("nan"), {}, Decimal128("1"))),
    *(
        ("retry", "a retry policy as Monque writes it", value)
        for value in listed(
            *(3, "never", [], {}, {"maxRetries": 3}, {**POLICY, "maxRetries": 0}, {**POLICY, "maxRetries": "3"}),
            *({**POLICY, "base": "1"}, {**POLICY, "base": None}, {**POLICY, "cap": 0.1}, {**POLICY, "jitter": 2}),
        )
    ),
    *(("resultError", "a string", value) for value in listed(1, [], {})),
]


@pytest.mark.parametrize(("field", "expected", "value"), FOREIGN)
def test_a_foreign_type_is_refused_by_the_name_of_its_field(field: str, expected: str, value: object) -> None:
    document = FULL_DOCUMENT | {field: value}
    with pytest.raises(JobDocumentError) as caught:
        from_document(document)
    assert (caught.value.job_id, caught.value.field) == (document["_id"], field)
    assert str(caught.value).endswith(f"field {field!r}: expected {expected}, got {type(value).__name__}")


REQUIRED_TYPES = {"_id": "an ObjectId", "name": "a string", "status": STATUSES, "failCount": "a whole number"} | (
    dict.fromkeys(["nextRunAt", "createdAt", "updatedAt"], "a date between the years 1 and 9999")
)


@pytest.mark.parametrize(("field", "expected"), REQUIRED_TYPES.items())
def test_a_required_field_cannot_be_null(field: str, expected: str) -> None:
    with pytest.raises(JobDocumentError, match=f"field '{field}': expected {expected}, got NoneType$"):
        from_document(FULL_DOCUMENT | {field: None})


@pytest.mark.parametrize(("field", "expected"), (REQUIRED_TYPES | {"data": "a value"}).items())
def test_a_required_field_cannot_be_absent(field: str, expected: str) -> None:
    document = {name: value for name, value in FULL_DOCUMENT.items() if name != field}
    with pytest.raises(JobDocumentError, match=f"field '{field}': expected {expected}, it is absent$") as caught:
        from_document(document)
    assert caught.value.job_id == document.get("_id")


def test_an_empty_document_is_refused_by_its_id() -> None:
    with pytest.raises(JobDocumentError, match="job None: field '_id'"):
        from_document({})


def test_the_numbers_of_a_policy_and_of_a_time_limit_may_be_doubles() -> None:
    document = FULL_DOCUMENT | {"timeout": 1500.0, "retry": {**POLICY, "maxRetries": 3.0, "cap": 60}}
    job = from_document(stored(document))
    assert (job.timeout, job.retry) == (FULL.timeout, FULL.retry)
    assert job.retry is not None
    assert type(job.retry.max_retries) is int


@pytest.mark.parametrize(
    "junk",
    [1, "x", None, [], {}, {**FAILURE, "at": "today"}, {**FAILURE, "attempt": None}, {**FAILURE, "error": 1}],
    ids=repr,
)
def test_what_is_no_failure_is_passed_over_among_failures(junk: object) -> None:
    job = from_document(stored(FULL_DOCUMENT | {"errors": [junk, FAILURE, junk]}))
    assert job.errors == FULL.errors[:1]
    assert from_document(stored(FULL_DOCUMENT | {"errors": junk})).errors == ()


@pytest.mark.parametrize("junk", [1, "x", None, {}, {**LINE, "level": 20}, {**LINE, "at": DatetimeMS(2**53)}], ids=repr)
def test_what_is_no_line_of_a_log_is_passed_over(junk: object) -> None:
    assert from_document(stored(FULL_DOCUMENT | {"logs": [LINE, junk]})).logs == FULL.logs


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        ({"fraction": 1, "message": None, "at": DATE}, Progress(1, None, DATE)),
        ({"fraction": 0.5, "at": DATE}, Progress(0.5, None, DATE)),
        ({"fraction": "half", "message": None, "at": DATE}, None),
        ({"message": "x", "at": DATE}, None),
        (0.5, None),
        ([], None),
    ],
    ids=repr,
)
def test_progress_that_is_none_is_none(progress: object, expected: Progress | None) -> None:
    assert from_document(stored(FULL_DOCUMENT | {"progress": progress})).progress_report == expected


@pytest.mark.parametrize("value", [1, "x", [1, None], {"a": {"b": DATE}}, False, 0.5], ids=repr)
def test_a_result_is_whatever_was_stored(value: object) -> None:
    assert from_document(stored(FULL_DOCUMENT | {"result": value})).result == value


@pytest.mark.parametrize("value", [2**63 - 1, 1e300, -1e300])
def test_a_count_that_cannot_be_counted_on_is_refused(value: float) -> None:
    # One more than what is stored has to be storable, too.
    with pytest.raises(JobDocumentError) as caught:
        from_document(FULL_DOCUMENT | {"failCount": value})
    assert caught.value.field == "failCount"


def test_a_job_is_recurring_if_it_has_a_cron_expression() -> None:
    assert FULL.is_recurring
    assert not dataclasses.replace(FULL, repeat_interval=None).is_recurring


def test_a_job_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FULL.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_job_can_be_made_through_the_type_of_its_data() -> None:
    values = {field.name: getattr(FULL, field.name) for field in dataclasses.fields(FULL)}
    assert Job[dict[str, Any]](**values) == FULL


# Documents as @monque/core 1.10 writes them: numbers from JavaScript, and no field of ours.
NODE_DATE = datetime(2026, 3, 1, 8, 0, 0, 123_000, tzinfo=UTC)
NODE: dict[str, Any] = {
    "_id": ObjectId("65e1a1c0d7e8f9a0b1c2d3e4"),
    "name": "send-email",
    "data": {"to": "a@b.c", "retries": 3.5, "tags": ["x", None]},
    "status": "pending",
    "nextRunAt": NODE_DATE,
    "failCount": 0,
    "createdAt": NODE_DATE,
    "updatedAt": NODE_DATE,
}


@pytest.mark.parametrize(
    ("document", "unset"),
    [
        (NODE, {"unique_key": None, "repeat_interval": None}),
        (NODE | {"uniqueKey": "user-1"}, {"unique_key": "user-1", "repeat_interval": None}),
        (
            NODE | {"uniqueKey": "report", "repeatInterval": "0 9 * * *"},
            {"unique_key": "report", "repeat_interval": "0 9 * * *"},
        ),
        (NODE | {"failCount": 2.0, "failReason": "Error: no"}, {"fail_count": 2, "fail_reason": "Error: no"}),
        (NODE | {"status": "completed"}, {"status": JobStatus.COMPLETED}),
        (
            NODE
            | {
                "status": "processing",
                "lockedAt": NODE_DATE,
                "claimedBy": "65e1-uuid",
                "lastHeartbeat": NODE_DATE,
                "heartbeatInterval": 30000,
            },
            {
                "locked_at": NODE_DATE,
                "claimed_by": "65e1-uuid",
                "last_heartbeat": NODE_DATE,
                "heartbeat_interval": 30_000,
                "claim_token": None,
            },
        ),
        (
            NODE | {"status": "pending", "lockedAt": None, "claimedBy": None},
            {"locked_at": None, "claimed_by": None},
        ),
    ],
    ids=["plain", "unique", "recurring", "failed once", "completed", "processing", "with nulls"],
)
def test_a_document_of_the_node_library_is_a_job(document: dict[str, Any], unset: dict[str, Any]) -> None:
    job = from_document(stored(document))
    assert (job.id, job.name, job.data) == (document["_id"], "send-email", document["data"])
    assert (job.next_run_at, job.created_at, job.updated_at) == (NODE_DATE, NODE_DATE, NODE_DATE)
    assert (job.priority, job.attempts, job.timezone) == (0, 0, None)
    assert {name: getattr(job, name) for name in unset} == unset


def test_a_job_that_is_made_here_has_nothing_that_was_not_said(make_job: Callable[..., Job[Any]]) -> None:
    plain = make_job()
    said = {name: getattr(plain, name) for name in list(ATTRIBUTES.values())[: len(REQUIRED)]}
    assert job_module.make_job(said) == plain


def test_a_plain_job_is_written_as_the_node_library_writes_it() -> None:
    assert to_document(from_document(NODE)) == NODE


def test_a_date_in_another_zone_is_the_same_moment(make_job: Callable[..., Job[Any]]) -> None:
    elsewhere = DATE.astimezone(timezone(timedelta(hours=5, minutes=45)))
    job = make_job(next_run_at=elsewhere)
    assert from_document(stored(to_document(job))).next_run_at == DATE


# --- at work --------------------------------------------------------------------------------------------------------


class Journal:
    """Takes down what is said."""

    def __init__(self) -> None:
        self.notes: list[tuple[Scope, object]] = []

    def note(self, scope: Scope, note: object) -> None:
        self.notes.append((scope, note))


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
def run(journal: Journal, make_job: Callable[..., Job[Any]]) -> Generator[Scope]:
    """The run that this test is part of."""
    scope = Scope(make_job(), journal)
    enter(scope)
    yield scope
    enter(None)


def test_the_running_job_can_be_had(run: Scope) -> None:
    assert current_job() is run.job


def test_elsewhere_there_is_none() -> None:
    with pytest.raises(MonqueError, match="no job is running here: call it in a handler, or in what a handler calls"):
        current_job()


def test_a_handler_sees_that_it_should_stop(run: Scope) -> None:
    job = run.job
    assert not job.should_stop
    run.should_stop = True
    assert job.should_stop
    # What it was handed may be another value that stands for the same job, with its data read for instance.
    assert dataclasses.replace(job, data=1).should_stop


def test_progress_is_noted_with_its_time(run: Scope, journal: Journal) -> None:
    before = datetime.now(UTC)
    run.job.progress(0)
    run.job.progress(0.5, "half")
    run.job.progress(1)
    assert {scope for scope, _ in journal.notes} == {run}
    notes = [note for _, note in journal.notes if isinstance(note, Progress)]
    assert [(note.fraction, note.message) for note in notes] == [(0.0, None), (0.5, "half"), (1.0, None)]
    assert [type(note.fraction) for note in notes] == [float] * 3
    assert before <= notes[0].at <= notes[2].at <= datetime.now(UTC)


def test_progress_that_nobody_takes_down_is_lost(run: Scope) -> None:
    run.journal = None
    run.job.progress(0.5)


NOT_FRACTIONS: list[Any] = [-0.1, 1.1, "0.5", None, True, float("nan"), float("inf"), 10**400]


@pytest.mark.parametrize("fraction", NOT_FRACTIONS, ids=lambda value: f"{value!r:.20}")
def test_progress_is_a_fraction(fraction: Any, run: Scope, journal: Journal) -> None:
    with pytest.raises(InvalidArgumentError, match="fraction: expected a number between 0 and 1, got"):
        run.job.progress(fraction)
    assert journal.notes == []


def test_what_is_said_beside_is_a_text(run: Scope, journal: Journal) -> None:
    message: Any = 5
    with pytest.raises(InvalidArgumentError, match="message: expected a text, got 5"):
        run.job.progress(0.5, message)
    assert journal.notes == []


def test_a_session_is_there_in_a_transaction_only(run: Scope) -> None:
    with pytest.raises(MonqueError, match="there is no transaction here: declare the worker with transaction=True"):
        _ = run.job.session
    run.session = session = object()
    assert run.job.session is session


def test_another_job_is_not_the_one_that_runs(run: Scope, journal: Journal, make_job: Callable[..., Job[Any]]) -> None:
    run.should_stop, run.session = True, object()
    other = make_job()
    assert not other.should_stop
    other.progress(0.5)
    assert journal.notes == []
    with pytest.raises(MonqueError, match="there is no transaction here"):
        _ = other.session


def test_outside_of_a_run_a_handler_is_a_function_like_any_other() -> None:
    assert not FULL.should_stop
    FULL.progress(0.5, "half")
    with pytest.raises(MonqueError, match="there is no transaction here"):
        _ = FULL.session


@pytest.mark.parametrize(("headers", "read"), [("x", {}), (None, {}), ({"a": "b", "c": 1}, {"a": "b"}), ([1], {})])
def test_headers_that_others_wrote_keep_no_job_from_running(headers: object, read: dict[str, str]) -> None:
    assert from_document(FULL_DOCUMENT | {"headers": headers}).headers == read


def test_nobody_can_give_all_jobs_a_header() -> None:
    plain = {field: FULL_DOCUMENT[field] for field in REQUIRED}
    job: Any = from_document(plain)
    with pytest.raises(TypeError, match="the headers of a job cannot be changed"):
        job.headers["a"] = "b"
    assert (job.headers, from_document(plain).headers, json.dumps(job.headers)) == ({}, {}, "{}")
    assert pickle.loads(pickle.dumps(job)) == copy.deepcopy(job) == job  # noqa: S301  our own
    other = dataclasses.replace(job, priority=job.priority + 1)
    again = pickle.loads(pickle.dumps(other))  # noqa: S301  our own
    assert again == other
    assert again.headers is job.headers
