from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monque import Cancel, ConfigurationError, Fail, Retry
from monque._retry import meaning, policy, policy_of_document, retry_delay

SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("retry", "fail_count", "delay"),
    [
        (Retry(), 1, 2 * SECOND),
        (Retry(), 2, 4 * SECOND),
        (Retry(), 9, 512 * SECOND),
        (Retry(), 10, None),
        (Retry(), 11, None),
        (Retry(max_retries=1), 1, None),
        (Retry(max_retries=2), 1, 2 * SECOND),
        (Retry(max_retries=2), 2, None),
        (Retry(max_retries=100), 16, 65_536 * SECOND),
        (Retry(max_retries=100), 17, timedelta(hours=24)),
        (Retry(max_retries=100), 99, timedelta(hours=24)),
        (Retry(base=0.25), 3, 2 * SECOND),
        (Retry(base=timedelta(milliseconds=1)), 1, timedelta(milliseconds=2)),
        (Retry(base=60, cap=60), 1, 60 * SECOND),
        (Retry(base=2, cap=timedelta(seconds=9)), 2, 8 * SECOND),
        (Retry(base=2, cap=timedelta(seconds=9)), 3, 9 * SECOND),
        (Retry(), 0, SECOND),
    ],
)
def test_the_delay_is_base_times_two_to_the_fail_count(retry: Retry, fail_count: int, delay: timedelta | None) -> None:
    assert retry_delay(retry, fail_count) == delay


_retries: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "max_retries": st.integers(1, 2**63),
        "base": st.floats(0.001, 3600),
        "cap": st.floats(3600, 10 * 365 * 86_400),
    }
)


@given(options=_retries, fail_count=st.integers(0, 2**63))
def test_without_jitter_the_delay_is_the_formula_whatever_the_counts(options: dict[str, Any], fail_count: int) -> None:
    delay = retry_delay(Retry(**options), fail_count)
    if fail_count >= options["max_retries"]:
        assert delay is None
    else:
        assert delay is not None
        exact = options["cap"] if fail_count > 64 else min(options["base"] * 2.0**fail_count, options["cap"])
        assert delay.total_seconds() == pytest.approx(exact, abs=0.001)


@given(options=_retries, jitter=st.floats(0, 1), fail_count=st.integers(0, 2**63 - 1))
def test_jitter_stays_within_its_share_and_below_the_cap(
    options: dict[str, Any], jitter: float, fail_count: int
) -> None:
    options["max_retries"] = 2**63
    plain = retry_delay(Retry(**options), fail_count)
    spread = retry_delay(Retry(**options, jitter=jitter), fail_count)
    assert plain is not None
    assert spread is not None
    assert abs(spread - plain) <= plain * jitter + timedelta(microseconds=2)
    assert timedelta(0) <= spread <= timedelta(seconds=options["cap"])


def test_jitter_spreads_the_delays_both_ways() -> None:
    delays = [retry_delay(Retry(base=60, jitter=0.5), 1) for _ in range(200)]
    assert any(delay is not None and delay < timedelta(seconds=110) for delay in delays)
    assert any(delay is not None and delay > timedelta(seconds=130) for delay in delays)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no"), "value"),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "no"), "unicode"),
        (UnicodeEncodeError("utf-8", "", 0, 1, "no"), "value"),
        (ConnectionResetError("gone"), "os"),
        (KeyError("k"), None),
        (SystemExit(1), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_the_most_special_type_of_an_exception_counts(error: BaseException, said: str | None) -> None:
    names: dict[type[BaseException], str] = {OSError: "os", ValueError: "value", UnicodeDecodeError: "unicode"}
    verdict = meaning(Retry(on={kind: partial(_fail, name) for kind, name in names.items()}), error)
    assert (verdict and str(verdict)) == said


def _fail(reason: str, _: BaseException) -> Fail:
    return Fail(reason)


def test_a_verdict_may_be_returned_or_raised() -> None:
    def raises(error: ValueError) -> None:
        raise Cancel(error)

    error = ValueError("no need")
    for say in (Cancel, raises):
        verdict = meaning(Retry(on={ValueError: say}), error)
        assert isinstance(verdict, Cancel)
        assert verdict.reason is error


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="of its functions, got 'fail'"):
        meaning(Retry(on={ValueError: lambda _: "fail"}), ValueError("no"))


WORKERS = Retry(max_retries=7, on={ValueError: Fail})
OWN = Retry(max_retries=3, base=2, cap=60, jitter=0.5)
STORED: dict[str, Any] = {"maxRetries": 3, "base": 2.0, "cap": 60.0, "jitter": 0.5}


def test_a_jobs_own_policy_says_nothing_about_exceptions() -> None:
    assert policy(WORKERS, None) is WORKERS
    assert policy(WORKERS, OWN) == Retry(max_retries=3, base=2, cap=60, jitter=0.5, on={ValueError: Fail})


@pytest.mark.parametrize(
    ("document", "own"),
    [
        ({}, None),
        ({"retry": None}, None),
        ({"retry": STORED}, OWN),
        ({"retry": {**STORED, "maxRetries": 3.0}}, OWN),
        ({"retry": {**STORED, "maxRetries": 0}}, None),
        ({"retry": {}}, None),
        ({"retry": []}, None),
        ({"retry": "never"}, None),
    ],
    ids=repr,
)
def test_the_policy_in_a_document_counts_if_it_is_one(document: dict[str, Any], own: Retry | None) -> None:
    assert policy_of_document(WORKERS, document) == policy(WORKERS, own)
