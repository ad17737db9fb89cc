from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import bson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monque import ConfigurationError, JobDocumentError, Retry
from monque import _transitions as transitions
from monque._settlement import Finished, finish, plan
from monque.job import FollowUp, from_document, to_document
from monque.outcome import COMPLETED, RELEASED, Cancel, Failed, Outcome, Snooze

if TYPE_CHECKING:
    from collections.abc import Callable

    from monque import Job
    from monque._transitions import Transition

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
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
    assert finished == Finished(job, "T", outcome, 1.5, retry_at)


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
    assert (change.filter, change.update["$set"]) == (retry.filter, retry.update["$set"])
    assert "followUp" not in change.update["$unset"]


def test_an_error_without_words_is_written_as_a_reason_too(make_job: Callable[..., Job[Any]]) -> None:
    job = make_job()
    (change,) = plan([Finished(job, "T", Failed(KeyError("\ud800")), 0)], now=NOW)
    assert change.update["$set"]["failReason"] == "KeyError: '\\ud800'"
    bson.encode(change.update)
