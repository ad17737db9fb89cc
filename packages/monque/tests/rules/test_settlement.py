from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson.codec_options import CodecOptions
from hypothesis import example, given
from hypothesis import strategies as st
from typing_extensions import override

from monque import ConfigurationError, InvalidArgumentError, JobDocumentError, Retention, Retry
from monque import _transitions as transitions
from monque._execution import Executor
from monque._scope import Scope
from monque._settlement import Finished, finish, outcome_of, plan
from monque.job import FollowUp, from_document, to_document
from monque.outcome import COMPLETED, RELEASED, Cancel, Completed, Fail, Failed, Outcome, RetryIn, Snooze, Verdict
from monque.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

    from monque import Job
    from monque._transitions import Transition

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
FAILED = Failed(ValueError("no"))


@pytest.mark.parametrize(
    ("outcome", "fail_count", "retry_at"),
    [
        (COMPLETED, 0, None),
        (RELEASED, 0, None),
        (FAILED, 0, NOW + timedelta(seconds=2)),
        (FAILED, 1, NOW + timedelta(seconds=4)),
        (FAILED, 2, None),
        (FAILED, 9, None),
        (Failed(ValueError("no"), final=True), 0, None),
    ],
    ids=["completed", "released", "first failure", "second failure", "last failure", "beyond", "final failure"],
)
def test_what_follows_from_an_outcome(
    outcome: Outcome, fail_count: int, retry_at: datetime | None, make_job: Callable[..., Job[Any]]
) -> None:
    job = make_job(fail_count=fail_count)
    finished = finish(Finished(job, "T", outcome, 1.5), retry=Retry(max_retries=3), now=NOW)
    failure = finished.failure
    assert finished == Finished(job, "T", outcome, 1.5, retry_at, failure=failure)
    assert (failure is not None) == isinstance(outcome, Failed)


@given(
    base=st.floats(0.001, 1e308) | st.timedeltas(timedelta(seconds=1)),
    cap=st.floats(0.001, 1e308) | st.timedeltas(timedelta(seconds=1)),
    jitter=st.floats(0, 1),
    fail_count=st.integers(0, 10**9),
)
@example(base=1, cap=timedelta.max, jitter=0, fail_count=62)
@example(base=1, cap=1e300, jitter=1, fail_count=10**9)
@example(base=1, cap=timedelta(days=366 * 8000), jitter=0, fail_count=40)
def test_every_retry_option_that_is_accepted_gives_a_date(
    base: float | timedelta, cap: float | timedelta, jitter: float, fail_count: int, make_job: Callable[..., Job[Any]]
) -> None:
    try:
        retry = Retry(max_retries=2**62, base=base, cap=cap, jitter=jitter)
    except ConfigurationError:
        return
    job = make_job(fail_count=fail_count)
    retry_at = finish(Finished(job, "T", FAILED), retry=retry, now=NOW).retry_at
    assert retry_at is not None
    assert retry_at >= NOW
    bson.encode({"nextRunAt": retry_at})


@given(count=st.integers(-(2**63), 2**63 - 1) | st.floats(), attempts=st.integers(-(2**63), 2**63 - 1) | st.floats())
@example(count=2**63 - 1, attempts=1)
@example(count=1e300, attempts=1)
def test_the_failure_of_every_job_that_can_be_read_can_be_written(
    count: float, attempts: float, make_job: Callable[..., Job[Any]]
) -> None:
    try:
        job = from_document(to_document(make_job()) | {"failCount": count, "attempts": attempts})
    except JobDocumentError:
        return
    for retry_at in (None, NOW):
        (change,) = plan([Finished(job, "T", FAILED, 0, retry_at)], now=NOW)
        bson.encode(change.update)


def test_runs_that_are_alike_are_written_together(make_job: Callable[..., Job[Any]]) -> None:
    jobs = [make_job(fail_count=number) for number in range(8)]
    ids = [job.id for job in jobs]
    finished = [
        Finished(jobs[0], "A", COMPLETED, 0),
        Finished(jobs[1], "A", RELEASED, 0),
        Finished(jobs[2], "A", FAILED, 0, NOW),
        Finished(jobs[3], "B", COMPLETED, 0),
        Finished(jobs[4], "A", COMPLETED, 0),
        Finished(jobs[5], "B", RELEASED, 0),
        Finished(jobs[6], "A", FAILED, 0),
        Finished(jobs[7], "A", RELEASED, 0),
    ]
    expected = [
        transitions.retry(ids[2], "A", fail_count=3, reason="ValueError: no", next_run_at=NOW),
        transitions.fail(ids[6], "A", fail_count=7, reason="ValueError: no"),
        transitions.complete([ids[0], ids[4]], "A", now=NOW),
        transitions.complete([ids[3]], "B", now=NOW),
        transitions.release([ids[1], ids[7]], "A"),
        transitions.release([ids[5]], "B"),
    ]
    assert plan(finished, now=NOW) == expected


def test_nothing_finished_is_nothing_to_write() -> None:
    assert plan([], now=NOW) == []


_runs = st.lists(
    st.tuples(st.sampled_from("AB"), st.sampled_from([COMPLETED, RELEASED, FAILED]), st.none() | st.just(NOW)),
    max_size=20,
)


@given(runs=_runs)
def test_every_run_is_written_once_and_under_its_own_token(
    runs: list[tuple[str, Outcome, datetime | None]], make_job: Callable[..., Job[Any]]
) -> None:
    finished = [Finished(make_job(), token, outcome, 0, retry_at) for token, outcome, retry_at in runs]
    changes: list[Transition] = plan(finished, now=NOW)
    written = [(job, change.filter["claimToken"]) for change in changes for job in change.jobs]
    assert sorted(written) == sorted((run.job.id, run.token) for run in finished)


@pytest.mark.parametrize("expression", [None, "0 9 * * *", "nonsense"])
@pytest.mark.parametrize(
    ("outcome", "fail_count", "reason"),
    [
        (COMPLETED, 0, None),
        (Cancel("no need"), 0, None),
        (FAILED, 2, "ValueError: no"),
        (Failed(ValueError("no"), final=True), 0, "ValueError: no"),
    ],
    ids=["completed", "cancelled by its handler", "last failure", "final failure"],
)
def test_a_follow_up_takes_over_when_a_run_is_over(
    outcome: Outcome, fail_count: int, reason: str | None, expression: str | None, make_job: Callable[..., Job[Any]]
) -> None:
    job = make_job(fail_count=fail_count, follow_up=FollowUp({}, NOW), repeat_interval=expression)
    finished = finish(Finished(job, "T", outcome), retry=Retry(max_retries=3), now=NOW)
    assert finished.next_run_at == NOW
    assert plan([finished], now=NOW) == [transitions.follow(job.id, "T", reason=reason)]


@pytest.mark.parametrize("outcome", [RELEASED, Snooze(60)], ids=["released", "snoozed"])
def test_a_follow_up_waits_while_a_run_is_only_put_off(outcome: Outcome, make_job: Callable[..., Job[Any]]) -> None:
    job = make_job(follow_up=FollowUp({}, NOW))
    (change,) = plan([finish(Finished(job, "T", outcome), retry=Retry(), now=NOW)], now=NOW)
    later = NOW + timedelta(seconds=60)
    put_off = transitions.snooze(job.id, "T", next_run_at=later)
    assert change == (transitions.release([job.id], "T") if outcome is RELEASED else put_off)


def test_a_follow_up_waits_until_there_are_no_retries_left(make_job: Callable[..., Job[Any]]) -> None:
    job = make_job(follow_up=FollowUp({}, NOW))
    finished = finish(Finished(job, "T", FAILED), retry=Retry(max_retries=3), now=NOW)
    (change,) = plan([finished], now=NOW)
    retry_at = NOW + timedelta(seconds=2)
    retry = transitions.retry(job.id, "T", fail_count=1, reason="ValueError: no", next_run_at=retry_at)
    assert finished.failure is not None
    assert change == transitions.with_failure(retry, finished.failure, is_first=True)
    assert "followUp" not in change.update["$unset"]


def test_an_error_without_words_is_written_as_a_reason_too(make_job: Callable[..., Job[Any]]) -> None:
    job = make_job()
    (change,) = plan([Finished(job, "T", Failed(KeyError("\ud800")), 0)], now=NOW)
    assert change.update["$set"]["failReason"] == "KeyError: '\\ud800'"
    bson.encode(change.update)


# --- every outcome, of every kind of job ----------------------------------------------------------------------------

NEXT, FOLLOWING = datetime(2026, 3, 2, 9, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)
POLICY = Retry(max_retries=3)
RETURNED = Completed({"rows": 3})
FINAL = Fail(ValueError("no"))

# Each has failed before and was claimed four times; the last attempts are those that leave none.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"fail_count": 1},
    "last attempt": {"fail_count": 2},
    "recurring": {"fail_count": 1, "repeat_interval": "0 9 * * *"},
    "recurring, last": {"fail_count": 2, "repeat_interval": "0 9 * * *"},
    "followed": {"fail_count": 1, "follow_up": FollowUp("next", FOLLOWING)},
    "followed, last": {"fail_count": 2, "follow_up": FollowUp("next", FOLLOWING)},
    "bad schedule": {"fail_count": 1, "repeat_interval": "whenever"},
}

# Where a job ends up: its status, the time it is due, and what becomes of failCount, attempts and failReason.
BEFORE = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEPT: Any = "kept"
ENDS: dict[str, dict[str, Any]] = {
    "completed": {"status": "completed", "failCount": KEPT, "attempts": 4, "failReason": None},
    "released": {"status": "pending", "failCount": KEPT, "attempts": 3, "failReason": "earlier"},
    "snoozed": {
        "status": "pending",
        "nextRunAt": NOW + timedelta(seconds=60),
        "failCount": KEPT,
        "attempts": 3,
        "failReason": "earlier",
    },
    "cancelled": {"status": "cancelled", "failCount": KEPT, "attempts": 4, "failReason": "no need"},
    "backoff": {
        "status": "pending",
        "nextRunAt": NOW + timedelta(seconds=4),
        "failCount": 2,
        "attempts": 4,
        "failReason": "ValueError: no",
    },
    "retry in 30": {
        "status": "pending",
        "nextRunAt": NOW + timedelta(seconds=30),
        "failCount": 2,
        "attempts": 4,
        "failReason": "ValueError: no",
    },
    "failed": {"status": "failed", "failCount": "+1", "attempts": 4, "failReason": "ValueError: no"},
    "next": {"status": "pending", "nextRunAt": NEXT, "failCount": 0, "attempts": None, "failReason": None},
    "next, failed": {
        "status": "pending",
        "nextRunAt": NEXT,
        "failCount": 0,
        "attempts": None,
        "failReason": "ValueError: no",
    },
    "follow": {
        "status": "pending",
        "nextRunAt": FOLLOWING,
        "data": "next",
        "failCount": 0,
        "attempts": None,
        "failReason": None,
    },
    "follow, failed": {
        "status": "pending",
        "nextRunAt": FOLLOWING,
        "data": "next",
        "failCount": 0,
        "attempts": None,
        "failReason": "ValueError: no",
    },
    "unreadable": {"status": "failed", "failCount": "+1", "attempts": 4, "failReason": "InvalidCronError: "},
}

COMES_TO = ["completed", "completed", "next", "next", "follow", "follow", "unreadable"]
TABLE: dict[str, tuple[Outcome, list[str]]] = {
    "completed": (COMPLETED, COMES_TO),
    "with a result": (RETURNED, COMES_TO),
    "with a bad result": (Completed(problem="too large"), COMES_TO),
    "released": (RELEASED, ["released"] * 7),
    "Snooze": (Snooze(60), ["snoozed"] * 7),
    "Cancel": (Cancel("no need"), [*["cancelled"] * 4, "follow", "follow", "cancelled"]),
    "failed": (FAILED, ["backoff", "failed", "backoff", "next, failed", "backoff", "follow, failed", "backoff"]),
    "Fail": (
        outcome_of(FINAL, FINAL),
        ["failed", "failed", "next, failed", "next, failed", "follow, failed", "follow, failed", "unreadable"],
    ),
    "RetryIn": (
        outcome_of(RetryIn(30), ValueError("no")),
        [*["retry in 30", "failed", "retry in 30", "next, failed", "retry in 30", "follow, failed", "retry in 30"]],
    ),
}
CASES = [
    pytest.param(outcome, kind, end, id=f"{name}, {kind}: {end}")
    for name, (outcome, ends) in TABLE.items()
    for kind, end in zip(KINDS, ends, strict=True)
]


@pytest.mark.parametrize(("outcome", "kind", "end"), CASES)
def test_what_an_outcome_makes_of_a_job(
    outcome: Outcome,
    kind: str,
    end: str,
    make_job: Callable[..., Job[Any]],
    monque_database: Database[dict[str, Any]],
) -> None:
    claim = {"claim_token": "T", "claimed_by": "I", "locked_at": NOW, "last_heartbeat": NOW, "heartbeat_interval": 1}
    job = make_job(**KINDS[kind], **claim, attempts=4, fail_reason="earlier", data="now")
    before = to_document(job)
    jobs = monque_database["jobs"]
    jobs.insert_one(before)
    finished = finish(Finished(job, "T", outcome), retry=POLICY, now=NOW)
    (change,) = plan([finished], now=NOW)
    assert jobs.update_one(change.filter, change.update).matched_count == 1

    after = jobs.find_one({"_id": job.id}) or {}
    expected: dict[str, Any] = {"nextRunAt": BEFORE, "data": "now", **ENDS[end]}
    expected["failCount"] = {KEPT: job.fail_count, "+1": job.fail_count + 1}.get(
        expected["failCount"], expected["failCount"]
    )
    found = {name: after.get(name) for name in expected}
    if end == "unreadable":
        assert str(found.pop("failReason")).startswith(expected.pop("failReason"))
    assert found == expected
    assert not {"claimToken", "claimedBy", "lockedAt", "lastHeartbeat", "heartbeatInterval"} & after.keys()
    assert from_document(after | {"createdAt": NOW, "updatedAt": NOW}).status == expected["status"]

    # What went wrong is kept, and what was returned, unless something else takes over.
    is_failure = isinstance(outcome, Failed) or end == "unreadable"
    assert len(after.get("errors", [])) == (1 if is_failure and not end.startswith("follow") else 0)
    stays = end in ("completed", "next")
    assert after.get("result") == (RETURNED.result if outcome is RETURNED and stays else None)
    assert after.get("resultError") == ("too large" if stays and outcome == Completed(problem="too large") else None)


# --- what is remembered of a failure --------------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    """The error with the traceback it has when it is raised here."""
    try:
        raise error
    except BaseException as caught:
        return caught


def remembered(error: BaseException, make_job: Callable[..., Job[Any]], **job: Any) -> dict[str, Any]:
    failure = finish(Finished(make_job(**job), "T", Failed(error)), retry=POLICY, now=NOW).failure
    assert failure is not None
    assert bson.decode(bson.encode(failure), CODEC) == failure  # pyright: ignore[reportUnknownMemberType]
    return failure


@pytest.mark.parametrize(("attempts", "attempt"), [(0, 1), (1, 1), (7, 7)])
def test_a_failure_is_remembered(attempts: int, attempt: int, make_job: Callable[..., Job[Any]]) -> None:
    failure = remembered(raised(ValueError("no")), make_job, attempts=attempts)
    text = failure.pop("traceback")
    assert failure == {"at": NOW, "attempt": attempt, "error": "ValueError: no"}
    assert text.startswith("Traceback (most recent call last):\n  File ")
    assert text.endswith("in raised\n    raise error\nValueError: no\n")


class Unspeakable(Exception):  # noqa: N818
    """Cannot be put into words."""

    @override
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Untraceable(Exception):  # noqa: N818
    """Its traceback cannot be printed."""

    @property
    @override
    def __cause__(self) -> BaseException:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        raise RuntimeError("no cause")


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (Unspeakable(), "Unspeakable: <exception str() failed>\n"),
        (Untraceable("odd"), "Untraceable: odd"),
        (ValueError("a\ud800b"), "ValueError: a?b\n"),
        (ValueError("nul\0"), "ValueError: nul\0\n"),
        (ValueError("x" * 10**6), "x\n"),
        (ExceptionGroup("two", [ValueError("one"), KeyError("two")]), "+------------------------------------\n"),
        (ValueError(), "ValueError\n"),
    ],
    ids=["unspeakable", "untraceable", "surrogate", "nul", "long", "group", "wordless"],
)
def test_the_traceback_of_an_odd_exception_is_text_that_can_be_stored(
    error: BaseException, end: str, make_job: Callable[..., Job[Any]]
) -> None:
    text = remembered(raised(error), make_job)["traceback"]
    assert text.endswith(end)
    assert len(text) <= 4000


def test_of_a_long_traceback_the_end_is_kept(make_job: Callable[..., Job[Any]]) -> None:
    text = remembered(raised(ValueError("x" * 5000)), make_job)["traceback"]
    assert text == "…" + "x" * 3998 + "\n"


def test_a_traceback_begins_where_the_handler_does(make_job: Callable[..., Job[Any]]) -> None:
    async def handler(_: Job[Any]) -> None:
        try:
            raised_by_depth(3)
        except ValueError as error:
            raise KeyError("odd") from error

    outcome = asyncio.run(Executor([]).execute(Worker("greet", handler), Scope(make_job())))
    assert isinstance(outcome, Failed)
    text = remembered(outcome.error, make_job)["traceback"]
    first, second = text.split("The above exception was the direct cause of the following exception:")
    assert frames(first) == ["handler", *["raised_by_depth"] * 4]
    assert frames(second) == ["handler"]


def raised_by_depth(depth: int) -> None:
    if depth:
        raised_by_depth(depth - 1)
    raise ValueError("deep")


def frames(text: str) -> list[str]:
    """The functions of a traceback, outermost first."""
    return [line.rpartition(" in ")[2] for line in text.splitlines() if line.startswith("  File ")]


def test_a_traceback_that_is_nothing_but_ours_stays(make_job: Callable[..., Job[Any]]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        raise_inside()
    error = caught.value
    assert error.__traceback__ is not None
    # Without the frame of this test, all that is left lies in the package.
    text = remembered(error.with_traceback(error.__traceback__.tb_next.tb_next), make_job)["traceback"]  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]
    assert frames(text)[-1] == "_delay"


def raise_inside() -> None:
    Snooze(-1)


def test_an_error_that_was_never_raised_has_words_only(make_job: Callable[..., Job[Any]]) -> None:
    assert remembered(Fail("no such address"), make_job)["traceback"] == "monque.outcome.Fail: no such address\n"


def test_the_latest_five_failures_are_kept_whatever_was_there(
    make_job: Callable[..., Job[Any]], monque_database: Database[dict[str, Any]]
) -> None:
    jobs = monque_database["jobs"]
    odd: list[Any] = [None, "x", 5, {}, {"errors": []}, [1, 2], ...]
    for junk in odd:
        job = make_job(claim_token="T")  # noqa: S106
        jobs.insert_one(to_document(job) | ({} if junk is ... else {"errors": junk}))
        for number in range(1, 8):
            job = from_document(jobs.find_one({"_id": job.id}) | {"attempts": number})  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
            finished = finish(Finished(job, "T", Failed(ValueError(number))), retry=Retry(), now=NOW)
            (change,) = plan([finished], now=NOW)
            assert jobs.update_one(change.filter, change.update).modified_count == 1
            jobs.update_one({"_id": job.id}, {"$set": {"status": "processing", "claimToken": "T"}})
        document = jobs.find_one({"_id": job.id})
        assert document is not None
        assert [failure["attempt"] for failure in document["errors"]] == [3, 4, 5, 6, 7]
        assert [failure["error"] for failure in document["errors"]] == [f"ValueError: {n}" for n in range(3, 8)]


# --- what a policy makes of exceptions ------------------------------------------------------------------------------


def decided(error: BaseException, retry: Retry, make_job: Callable[..., Job[Any]]) -> Outcome:
    return finish(Finished(make_job(), "T", Failed(error)), retry=retry, now=NOW).outcome


def test_what_a_policy_says_of_an_exception_counts(make_job: Callable[..., Job[Any]]) -> None:
    error = ValueError("no")
    snooze, cancel = Snooze(5), Cancel("no need")
    assert decided(error, Retry(), make_job) == Failed(error)
    assert decided(error, Retry(on={KeyError: Fail}), make_job) == Failed(error)
    assert decided(error, Retry(on={ValueError: Fail}), make_job) == Failed(error, final=True)
    assert decided(error, Retry(on={ValueError: lambda _: Fail("because")}), make_job) == Failed(error, final=True)
    assert decided(error, Retry(on={ValueError: lambda _: RetryIn(5)}), make_job) == Failed(error, delay=5)
    assert decided(error, Retry(on={ValueError: lambda _: snooze}), make_job) is snooze
    assert decided(error, Retry(on={ValueError: lambda _: cancel}), make_job) is cancel
    assert decided(error, Retry(on={ValueError: lambda _: None}), make_job) == Failed(error)


def test_what_a_handler_says_itself_is_not_asked_about(make_job: Callable[..., Job[Any]]) -> None:
    retry = Retry(on={BaseException: Cancel})
    for said in (Fail("x"), RetryIn(3, "x")):
        outcome = outcome_of(said, said)
        assert finish(Finished(make_job(), "T", outcome), retry=retry, now=NOW).outcome is outcome


def test_a_policy_that_fails_is_a_failure_with_both_errors(make_job: Callable[..., Job[Any]]) -> None:
    error = ValueError("no")

    def fails(_: ValueError) -> None:
        raise KeyError("policy")

    outcome = decided(error, Retry(on={ValueError: fails}), make_job)
    assert isinstance(outcome, Failed)
    assert (type(outcome.error), outcome.error.__cause__, outcome.final) == (KeyError, error, False)
    text = remembered(outcome.error, make_job)["traceback"]
    assert text.index("ValueError: no") < text.index("KeyError: 'policy'")


def test_a_policy_may_raise_the_exception_itself(make_job: Callable[..., Job[Any]]) -> None:
    error = ValueError("no")

    def raises(error: ValueError) -> None:
        raise error

    assert decided(error, Retry(on={ValueError: raises}), make_job) == Failed(error)
    assert error.__cause__ is None


@pytest.mark.parametrize("said", ["fail", False, Fail, COMPLETED], ids=["text", "False", "class", "outcome"])
def test_a_policy_that_says_nonsense_fails(said: object, make_job: Callable[..., Job[Any]]) -> None:
    outcome = decided(ValueError("no"), Retry(on={ValueError: lambda _: said}), make_job)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, ConfigurationError)
    assert str(outcome.error).startswith(
        "option retry.on: expected Snooze, RetryIn, Cancel, Fail or None of its functions, got "
    )


# --- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (RetryIn(3), "RetryIn: to be retried in 3 s"),
        (RetryIn(3, "rate limited"), "RetryIn: rate limited"),
        (RetryIn(3, ValueError("no")), "ValueError: no"),
        (Fail(), "Fail: failed for good, says its handler"),
        (Fail("no address"), "Fail: no address"),
        (Fail(ValueError("no")), "ValueError: no"),
        (Fail(Unspeakable()), "Unspeakable: (its message cannot be shown)"),
    ],
    ids=["in 3", "in 3 text", "in 3 error", "fail", "fail text", "fail error", "fail unspeakable"],
)
def test_a_failure_that_a_handler_declares_has_its_reason(
    said: Verdict, why: str, make_job: Callable[..., Job[Any]]
) -> None:
    finished = finish(Finished(make_job(), "T", outcome_of(said, said)), retry=POLICY, now=NOW)
    (change,) = plan([finished], now=NOW)
    assert change.update["$set"]["failReason"] == why
    assert finished.failure is not None
    assert finished.failure["error"] == why


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (Cancel(), "cancelled by its handler"),
        (Cancel("no need"), "no need"),
        (Cancel(ValueError("no")), "ValueError: no"),
        (Cancel(Unspeakable()), "Unspeakable: (its message cannot be shown)"),
        (Cancel("a\ud800b"), "a?b"),
        (Cancel("x" * 3000), "x" * 1999 + "…"),
    ],
    ids=["plain", "text", "error", "unspeakable", "surrogate", "long"],
)
def test_a_cancellation_by_a_handler_has_its_reason(said: Cancel, why: str, make_job: Callable[..., Job[Any]]) -> None:
    (change,) = plan([finish(Finished(make_job(), "T", said), retry=POLICY, now=NOW)], now=NOW)
    assert change.update["$set"] == {"status": "cancelled", "settledBy": "T", "failReason": why}
    bson.encode(change.update)


@pytest.mark.parametrize("length", [0, 0.5, timedelta(milliseconds=500), 1000 * 366 * 86_400], ids=repr)
@pytest.mark.parametrize("say", [Snooze, RetryIn])
def test_every_delay_that_is_accepted_gives_a_date(
    say: type[Snooze | RetryIn], length: float | timedelta, make_job: Callable[..., Job[Any]]
) -> None:
    said = say(length)
    finished = finish(Finished(make_job(), "T", outcome_of(said, said)), retry=POLICY, now=NOW)
    assert finished.retry_at is not None
    assert finished.retry_at >= NOW
    bson.encode(plan([finished], now=NOW)[0].update)


NO_DELAYS: list[Any] = [None, "5", True, -1, timedelta(-1), float("nan"), float("inf"), 10**400]


@pytest.mark.parametrize(("say", "argument"), [(Snooze, "for_"), (RetryIn, "delay")], ids=["Snooze", "RetryIn"])
@pytest.mark.parametrize("length", NO_DELAYS, ids=lambda value: f"{value!r:.20}")
def test_what_is_no_delay_is_refused(say: Callable[[Any], Verdict], argument: str, length: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        say(length)
    assert caught.value.argument == argument
    assert "expected a timedelta or a number of seconds, 0 to 1,000 years, got" in str(caught.value)


def test_a_verdict_that_says_nothing_in_particular_is_a_failure() -> None:
    said = Verdict("what?")
    assert outcome_of(said, said) == Failed(said)


# --- how long what has ended is kept ----------------------------------------------------------------------------------

KEPT_FOR = Retention(completed=60, failed=timedelta(hours=1), cancelled=timedelta(days=1))


@pytest.mark.parametrize(
    ("outcome", "kept"),
    [
        (COMPLETED, timedelta(seconds=60)),
        (RETURNED, timedelta(seconds=60)),
        (Failed(ValueError("no"), final=True), timedelta(hours=1)),
        (Cancel("no need"), timedelta(days=1)),
        (FAILED, None),
        (RELEASED, None),
        (Snooze(5), None),
    ],
    ids=["completed", "with a result", "failed", "cancelled", "retried", "released", "snoozed"],
)
@pytest.mark.parametrize("retention", [KEPT_FOR, Retention(), None], ids=["some", "none", "never heard of"])
def test_a_job_that_has_ended_expires_if_that_is_wanted(
    outcome: Outcome, kept: timedelta | None, retention: Retention | None, make_job: Callable[..., Job[Any]]
) -> None:
    finished = finish(Finished(make_job(), "T", outcome, retention=retention), retry=POLICY, now=NOW)
    (change,) = plan([finished], now=NOW)
    expected = NOW + kept if kept is not None and retention is KEPT_FOR else None
    assert change.update.get("$set", {}).get("expireAt") == expected


def test_jobs_that_are_kept_alike_are_written_together(make_job: Callable[..., Job[Any]]) -> None:
    kept = [KEPT_FOR, None, KEPT_FOR, None]
    finished = [Finished(make_job(), "T", COMPLETED, retention=retention) for retention in kept]
    first, second = plan(finished, now=NOW)
    assert first.jobs == [finished[0].job.id, finished[2].job.id]
    assert second.jobs == [finished[1].job.id, finished[3].job.id]
    assert ("expireAt" in first.update["$set"], "expireAt" in second.update["$set"]) == (True, False)
