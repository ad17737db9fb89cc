from __future__ import annotations

import inspect
import pickle
import re
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

import monque
from monque import errors
from monque.errors import (
    AggregationTimeoutError,
    BlockedEventLoopError,
    BlockingCallError,
    ConfigurationError,
    ConnectionError,
    EmbeddedError,
    HandlerError,
    IndexConflictError,
    InvalidArgumentError,
    InvalidCronError,
    InvalidCursorError,
    InvalidJobIdentifierError,
    InvalidPayloadError,
    InvalidResultError,
    JobCancelledError,
    JobDocumentError,
    JobFailedError,
    JobMissingError,
    JobStateError,
    JobTimeoutError,
    LeaseExpiredError,
    MonqueError,
    PayloadTooLargeError,
    ProcessDiedError,
    ResultError,
    ResultTimeoutError,
    ShutdownTimeoutError,
    StuckHandlerError,
    UniqueKeyConflictError,
    WorkerRegistrationError,
    redact,
    text_of,
)
from monque.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from monque.job import Job

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
}


def drawn_tree() -> dict[str, str | None]:
    """Each class in the module's docstring, with the one it hangs from."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"(?P<branch>[ │├└─]*)(?P<name>\w+Error)\b", line)
        if found is None:
            continue
        depth = len(found["branch"])
        above = [(column, name) for column, name in above if column < depth]
        parents[found["name"]] = above[-1][1] if above else None
        above.append((depth, found["name"]))
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    def parent(kind: type[BaseException]) -> str | None:
        return next((base.__name__ for base in kind.__bases__ if base.__name__ in CLASSES), None)

    assert drawn_tree() == {name: parent(kind) for name, kind in CLASSES.items()}


def test_every_error_is_exported_by_the_module_and_by_the_package() -> None:
    assert set(errors.__all__) == set(CLASSES)
    assert {name: getattr(monque, name) for name in CLASSES} == CLASSES
    assert set(CLASSES) <= set(monque.__all__)


def test_what_the_package_exports_exists_and_is_listed_in_order() -> None:
    assert sorted(monque.__all__) == monque.__all__
    assert all(hasattr(monque, name) for name in monque.__all__)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES.keys())
def test_except_monque_error_catches_it(kind: type[BaseException]) -> None:
    assert issubclass(kind, MonqueError)


@pytest.mark.parametrize("kind", [ConfigurationError, InvalidArgumentError])
def test_wrong_values_are_value_errors_too(kind: type[BaseException]) -> None:
    assert issubclass(kind, ValueError)


JOB_ID = ObjectId("0123456789abcdef01234567")


@pytest.mark.parametrize(
    ("error", "message", "facts"),
    [
        (
            ConfigurationError("lease.timeout", -1, "seconds"),
            "option lease.timeout: expected seconds, got -1",
            {"option": "lease.timeout", "value": -1},
        ),
        (
            InvalidArgumentError("priority", "high", "a number"),
            "priority: expected a number, got 'high'",
            {"argument": "priority", "value": "high"},
        ),
        (
            InvalidJobIdentifierError("name", "", "a name"),
            "name: expected a name, got ''",
            {"argument": "name", "field": "name", "value": ""},
        ),
        (
            InvalidCronError("0 25 * * *", 2, "there is no hour 25"),
            (
                "cron expression '0 25 * * *': there is no hour 25, at position 2\n"
                "    0 25 * * *\n"
                "      ^\n"
                "A valid one is '0 9 * * 1-5': 09:00 from Monday to Friday."
            ),
            {"argument": "expression", "value": "0 25 * * *", "expression": "0 25 * * *", "position": 2},
        ),
        (
            InvalidPayloadError("data['a']", {1}, "BSON"),
            "data['a']: expected BSON, got {1}",
            {"argument": "data['a']", "value": {1}},
        ),
        (
            PayloadTooLargeError(1_234_567, 1_000),
            (
                "data: expected at most 1,000 bytes of BSON, got 1,234,567; "
                "store the content elsewhere (GridFS, object storage) and enqueue a reference to it"
            ),
            {"argument": "data", "value": 1_234_567, "actual": 1_234_567, "maximum": 1_000},
        ),
        (
            InvalidCursorError("cursor", "x", "a cursor"),
            "cursor: expected a cursor, got 'x'",
            {"argument": "cursor", "value": "x"},
        ),
        (WorkerRegistrationError("mail", "is taken"), "worker 'mail': is taken", {"job_name": "mail"}),
        (ConnectionError("no server"), "no server", {}),
        (
            IndexConflictError("monque_claim", "it is hidden"),
            "index 'monque_claim': it is hidden; `monque doctor` tells more",
            {"index": "monque_claim", "problem": "it is hidden", "is_usable": False},
        ),
        (
            JobDocumentError(JOB_ID, "failCount", "expected a whole number"),
            f"job {JOB_ID}: field 'failCount': expected a whole number",
            {"job_id": JOB_ID, "field": "failCount"},
        ),
        (
            JobStateError(JOB_ID, JobStatus.COMPLETED, "cancel", "pending or processing"),
            f"cannot cancel job {JOB_ID}: it is completed, expected pending or processing",
            {"job_id": JOB_ID, "current_status": JobStatus.COMPLETED, "action": "cancel"},
        ),
        (
            AggregationTimeoutError(2.5),
            "the query took longer than 2.5 s and was ended; narrow the filter, or raise the limit",
            {"timeout": 2.5},
        ),
        (
            ProcessDiedError(3),
            (
                "the process that ran the handler ended with exit code 3 before the handler did; "
                "what it wrote to stderr may say why"
            ),
            {"exit_code": 3, "signal": None},
        ),
        (
            ProcessDiedError(-9),
            "the process that ran the handler was killed by SIGKILL; the system does that when memory runs out",
            {"exit_code": None, "signal": 9},
        ),
        (
            HandlerError("app.Error", "why", "where"),
            "app.Error: why",
            {"type_name": "app.Error", "message": "why", "traceback": "where"},
        ),
        (
            InvalidResultError("Lock", "no"),
            (
                "the handler returned Lock, which cannot be brought out of its process (no); "
                "return something that can be pickled, or None"
            ),
            {"type_name": "Lock"},
        ),
        (
            ResultError(JOB_ID, "too large"),
            f"job {JOB_ID} has completed, but its result could not be stored: too large",
            {"job_id": JOB_ID, "problem": "too large"},
        ),
        (
            ResultTimeoutError(JOB_ID, 2.5, "pending"),
            f"job {JOB_ID} has not ended within 2.5 s: it is pending; wait again, or longer",
            {"job_id": JOB_ID, "timeout": 2.5, "status": "pending"},
        ),
        (
            ResultTimeoutError(JOB_ID, 2.5, None),
            (
                f"job {JOB_ID} has not ended within 2.5 s: its status is not known, since the database has not "
                "answered; wait again, or longer"
            ),
            {"job_id": JOB_ID, "timeout": 2.5, "status": None},
        ),
        (JobMissingError(JOB_ID), f"there is no job {JOB_ID}; it may have been deleted", {"job_id": JOB_ID}),
        (EmbeddedError("no mongod"), "no mongod", {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MonqueError) else "",
)
def test_an_error_says_what_came_and_what_was_expected_and_carries_both(
    error: MonqueError, message: str, facts: dict[str, object]
) -> None:
    assert str(error) == message
    assert {name: getattr(error, name) for name in facts} == facts


@pytest.mark.parametrize(
    ("kind", "reason", "message"),
    [
        (JobFailedError, "ValueError: no", "has failed: ValueError: no"),
        (JobFailedError, None, "has failed: no reason was given"),
        (JobCancelledError, "not wanted", "was cancelled: not wanted"),
        (JobCancelledError, None, "was cancelled"),
    ],
)
def test_a_job_that_was_waited_for_in_vain_says_why(
    kind: type[JobFailedError | JobCancelledError], reason: str | None, message: str, make_job: Callable[..., Job[Any]]
) -> None:
    job = make_job(fail_reason=reason)
    assert kind(job).job is job
    assert str(kind(job)) == f"greet {job.id} {message}"


def test_a_shutdown_timeout_names_the_first_five_jobs_and_carries_all(make_job: Callable[..., Job[Any]]) -> None:
    jobs = [make_job(name=f"job-{number}") for number in range(7)]
    error = ShutdownTimeoutError(30, jobs)

    assert error.incomplete_jobs == tuple(jobs)
    named = ", ".join(f"{job.name} {job.id}" for job in jobs[:5])
    assert str(error) == (
        f"7 job(s) still running 30 s after the stop began: {named} and 2 more; "
        "they were cancelled and will run again. Raise shutdown_timeout if they need longer."
    )


def test_a_shutdown_timeout_over_few_jobs_names_them_all(make_job: Callable[..., Job[Any]]) -> None:
    jobs = [make_job(name=f"job-{number}") for number in range(5)]
    message = str(ShutdownTimeoutError(0.5, jobs))
    assert all(f"{job.name} {job.id}" in message for job in jobs)
    assert "more;" not in message
    assert "5 job(s) still running 0.5 s" in message


def test_a_blocked_event_loop_is_reported_by_the_job_that_blocks_it(make_job: Callable[..., Job[Any]]) -> None:
    job = make_job(name="resize")
    error = BlockedEventLoopError(job, 12.34)
    assert (error.job, error.seconds) == (job, 12.34)
    assert f"job resize {job.id} has blocked the event loop for 12.3 s" in str(error)
    assert "asyncio.to_thread" in str(error)


def test_a_handler_that_does_not_end_is_named_with_what_to_do(make_job: Callable[..., Job[Any]]) -> None:
    job = make_job(name="resize")
    error = StuckHandlerError(job, 12.34)
    assert (error.job, error.seconds) == (job, 12.34)
    assert f"the handler of resize {job.id} was told to end and still runs, after 12.3 s" in str(error)
    for remedy in ("job.should_stop", "cancellation", 'run_in="process"'):
        assert remedy in str(error)


def test_a_run_that_took_too_long_is_told_by_its_job_and_its_limit() -> None:
    error = JobTimeoutError(JOB_ID, 1.5)
    assert (error.job_id, error.timeout) == (JOB_ID, 1.5)
    assert str(error) == f"the run of job {JOB_ID} took longer than 1.5 s"
    assert isinstance(error, TimeoutError)
    # It is raised in other processes, too.
    other = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(other), str(other), other.job_id, other.timeout) == (JobTimeoutError, str(error), JOB_ID, 1.5)


def test_a_lease_that_ran_out_for_the_last_time_is_told_by_its_job() -> None:
    error = LeaseExpiredError(JOB_ID, 3)
    assert (error.job_id, error.attempts) == (JOB_ID, 3)
    assert f"the lease of job {JOB_ID} ran out, and it was attempt 3, the last one" in str(error)


def test_a_unique_key_that_is_taken_is_told_by_its_holder() -> None:
    error = UniqueKeyConflictError(JOB_ID, "report", "daily", "job x has it")
    assert (error.job_id, error.job_name, error.unique_key) == (JOB_ID, "report", "daily")
    assert str(error) == "the unique key 'daily' of 'report' is taken: job x has it"


def test_a_blocking_call_on_an_event_loop_is_told_what_to_do_instead() -> None:
    error = BlockingCallError()
    assert isinstance(error, RuntimeError)
    assert "use monque.Monque and await there" in str(error)


class Unspeakable:
    """Cannot be put into words."""

    @override
    def __str__(self) -> str:
        raise RuntimeError("no words")

    @override
    def __repr__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("value", "text"),
    [(ValueError("no"), "no"), ("x", "x"), (5, "5"), (Unspeakable(), "(its message cannot be shown)")],
)
def test_every_value_has_a_text(value: object, text: str) -> None:
    assert text_of(value) == text


def test_a_value_that_cannot_be_shown_is_told_by_its_type() -> None:
    assert str(InvalidArgumentError("data", Unspeakable(), "words")).endswith("got an object of type Unspeakable")


@pytest.mark.parametrize("number", [9, 63])
def test_a_signal_is_named_where_it_has_a_name(number: int) -> None:
    error = ProcessDiedError(-number)
    assert (error.exit_code, error.signal) == (None, number)
    names = {9: "SIGKILL; the system does that when memory runs out", 63: "signal 63"}
    assert str(error) == f"the process that ran the handler was killed by {names[number]}"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mongodb://ada:secret@db.example:27017/app", "mongodb://***@db.example:27017/app"),
        ("mongodb+srv://ada:secret@db.example/app", "mongodb+srv://***@db.example/app"),
        ("mongodb://ada@db.example", "mongodb://***@db.example"),
        ("mongodb://ada:sec@ret@db.example", "mongodb://***@db.example"),
        ("mongodb://ada:sec/ret@db.example", "mongodb://***@db.example"),
        ("mongodb://ada:s://e@c?r#e:t@db.example", "mongodb://***@db.example"),
        ("mongodb://ada:%40%2F@db.example", "mongodb://***@db.example"),
        ("mongodb://a:secret@x,mongodb://b:secret@y", "mongodb://***@y"),
        ("first mongodb://a:secret@x then mongodb://b:secret@y.", "first mongodb://***@x then mongodb://***@y."),
        ("MONGODB://ada:secret@db.example", "MONGODB://***@db.example"),
        ("mongodb://db.example:27017/app", "mongodb://db.example:27017/app"),
        ("mail ada@example.org", "mail ada@example.org"),
        ("", ""),
    ],
)
def test_redact_blanks_user_and_password(text: str, shown: str) -> None:
    assert redact(text) == shown


# None of these can be told from the rest of a message, whatever a password looks like.
_password = st.text(st.characters(exclude_categories=["Z", "Cc", "Cs"]), min_size=1).filter(
    lambda text: not any(character.isspace() for character in text)
)


@given(password=_password, scheme=st.sampled_from(["mongodb", "mongodb+srv"]))
def test_no_password_survives_redaction(password: str, scheme: str) -> None:
    assert redact(f"cannot use {scheme}://ada:{password}@db.example/app: why") == (
        f"cannot use {scheme}://***@db.example/app: why"
    )


def test_a_connection_error_is_redacted() -> None:
    assert "secret" not in str(ConnectionError("cannot reach mongodb://ada:secret@db.example: timed out"))


def test_a_server_without_change_streams_is_told_with_what_to_do() -> None:
    assert "make it a replica set" in str(monque.ChangeStreamsUnavailableError())


def test_a_server_without_transactions_is_told_with_what_to_do() -> None:
    assert "make it a replica set" in str(monque.TransactionsUnavailableError())
