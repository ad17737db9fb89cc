from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monque._clock import ServerClock

MILLISECOND = timedelta(milliseconds=1)
SAID = datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)


class Hands:
    """A monotonic clock that is moved by hand."""

    def __init__(self, at: float = 1000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def test_time_goes_on_from_what_the_server_said() -> None:
    hands = Hands(1000.0)
    clock = ServerClock(hands)
    clock.observe((SAID, 1000.0))
    hands.at = 1002.5
    assert SAID + timedelta(seconds=2.499) <= clock.now() <= SAID + timedelta(seconds=2.5)


def test_the_answer_that_came_quickest_counts() -> None:
    hands = Hands(1010.0)
    clock = ServerClock(hands)
    # Said at the same moment; the second took 1 s less to arrive than the others.
    clock.observe((SAID, 1005.0), (SAID, 1004.0), (SAID + timedelta(seconds=1), 1006.0))
    assert SAID + timedelta(seconds=5.998) <= clock.now() <= SAID + timedelta(seconds=6)


def test_a_later_observation_replaces_the_earlier_one_in_both_directions() -> None:
    clock = ServerClock(Hands(1000.0))
    clock.observe((SAID, 1000.0))
    for moved in (timedelta(minutes=10), timedelta(minutes=-10)):
        clock.observe((SAID + moved, 1000.0))
        assert SAID + moved - MILLISECOND <= clock.now() <= SAID + moved


def test_the_date_of_this_machine_plays_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ServerClock()
    clock.observe((SAID, time.monotonic()))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert SAID - MILLISECOND <= clock.now() < SAID + timedelta(minutes=1)


_moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)


@given(
    true=_moments,
    arrived=st.floats(0, 1e8),
    delays=st.lists(st.floats(0, 30), min_size=1, max_size=3),
    elapsed=st.floats(0, 1e6),
)
def test_the_reckoning_is_never_ahead_and_behind_by_the_quickest_answer_only(
    true: datetime, arrived: float, delays: list[float], elapsed: float
) -> None:
    hands = Hands(arrived + elapsed)
    clock = ServerClock(hands)
    clock.observe(*((true, arrived + delay) for delay in delays))
    now, really = clock.now(), true + timedelta(seconds=elapsed)
    assert now <= really + timedelta(microseconds=2)
    assert really - now <= timedelta(seconds=min(delays)) + 2 * MILLISECOND


@given(true=_moments, arrived=st.floats(0, 1e8), elapsed=st.floats(0, 1e6))
def test_now_is_aware_and_cut_to_milliseconds(true: datetime, arrived: float, elapsed: float) -> None:
    clock = ServerClock(Hands(arrived + elapsed))
    clock.observe((true, arrived))
    assert clock.now().tzinfo is UTC
    assert clock.now().microsecond % 1000 == 0


@given(true=_moments, moment=_moments, arrived=st.floats(0, 1e8))
def test_at_says_when_the_server_will_show_a_moment(true: datetime, moment: datetime, arrived: float) -> None:
    hands = Hands(arrived)
    clock = ServerClock(hands)
    clock.observe((true, arrived))
    hands.at = clock.at(moment)
    assert abs(clock.now() - moment) <= MILLISECOND
    assert hands.at - arrived == pytest.approx((moment - true).total_seconds(), abs=0.001)


@given(true=_moments, off=st.floats(-1e6, 1e6), way=st.floats(0, 30), back=st.floats(0, 30))
def test_a_correction_leaves_it_off_by_no_more_than_a_question_took(
    true: datetime, off: float, way: float, back: float
) -> None:
    hands = Hands(1e7)
    clock = ServerClock(hands)
    clock.observe((true + timedelta(seconds=off), hands.at))
    clock.correct(true, asked=hands.at - way, arrived=hands.at + back)
    error = (clock.now() - true).total_seconds()
    assert -back - 0.002 <= error <= way + 0.002
    if -back <= off <= way:
        assert error == pytest.approx(off, abs=0.002)
