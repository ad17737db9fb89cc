from __future__ import annotations

import dataclasses
import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import encode
from hypothesis import example, given
from hypothesis import strategies as st
from pymongo import MongoClient

from monque import Cancel, Concurrency, ConfigurationError, Fail, Lease, Options, Polling, Retention, Retry, Timeout
from monque.options import check_count, is_duration, seconds

if TYPE_CHECKING:
    from collections.abc import Callable


def test_the_defaults() -> None:
    options = Options()
    assert {field.name: getattr(options, field.name) for field in dataclasses.fields(options)} == {
        "collection": "monque_jobs",
        "instance_id": None,
        "concurrency": Concurrency(per_worker=5, per_instance=None),
        "retry": Retry(max_retries=10, base=timedelta(seconds=1), cap=timedelta(hours=24), jitter=0),
        "lease": Lease(timeout=timedelta(seconds=30)),
        "recover": True,
        "polling": Polling(interval=timedelta(seconds=1), safety=timedelta(seconds=30)),
        "shutdown_timeout": timedelta(seconds=30),
        "retention": Retention(completed=None, failed=None, cancelled=None),
        "max_payload_bytes": None,
        "max_result_bytes": 1_000_000,
        "create_indexes": True,
    }


@pytest.mark.parametrize(
    ("group", "defaults"),
    [
        (Concurrency(), {"per_worker": 5, "per_instance": None}),
        (Retry(), {"max_retries": 10, "base": timedelta(seconds=1), "cap": timedelta(days=1), "jitter": 0, "on": {}}),
        (Timeout(30), {"soft": 30, "hard": None}),
        (Lease(), {"timeout": timedelta(seconds=30)}),
        (Polling(), {"interval": timedelta(seconds=1), "safety": timedelta(seconds=30)}),
    ],
    ids=lambda value: type(value).__name__ if dataclasses.is_dataclass(value) else "",
)
def test_the_defaults_of_a_group(group: Any, defaults: dict[str, object]) -> None:
    assert dataclasses.asdict(group) == defaults


@pytest.mark.parametrize("group", [Concurrency(), Retry(), Lease(), Polling(), Timeout(1), Options()], ids=repr)
def test_options_are_frozen(group: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(group, dataclasses.fields(group)[0].name, 1)


NOT_A_DURATION: list[Any] = [
    None,
    "30",
    True,
    False,
    float("nan"),
    float("inf"),
    float("-inf"),
    [],
    -1,
    timedelta(-1),
    10**400,
]
NOT_A_COUNT = ["5", True, False, 0, -1, 1.0, 1.5, float("nan"), float("inf")]


def refused(
    make: Callable[..., object], option: str, expected: str, *values: object
) -> list[tuple[Callable[..., object], str, str, object]]:
    return [(make, option, expected, value) for value in values]


COUNT = "a whole number, at least 1"


def length(least: str) -> str:
    return f"a timedelta or a number of seconds, at least {least}, at most 1,000 years"


NONSENSE = [
    *refused(Concurrency, "concurrency.per_worker", COUNT, None, *NOT_A_COUNT),
    *refused(Concurrency, "concurrency.per_instance", COUNT, *NOT_A_COUNT),
    *refused(Retry, "retry.max_retries", COUNT, None, *NOT_A_COUNT),
    *refused(Retry, "retry.base", length("0.001"), 0, timedelta(0), 0.0009, *NOT_A_DURATION),
    *refused(Retry, "retry.cap", length("0.001"), 0, timedelta(0), 0.0009, *NOT_A_DURATION),
    *refused(
        Retry, "retry.jitter", "a share between 0 and 1", None, "0", True, False, -0.1, 1.1, 2, float("nan"), 10**400
    ),
    *refused(Retry, "retry.on", "a Mapping", None, [], [(ValueError, Fail)], Fail),
    *refused(Timeout, "timeout.soft", length("0.001"), 0, timedelta(0), 0.0009, *NOT_A_DURATION),
    *refused(Lease, "lease.timeout", length("0.3"), 0, 0.29, timedelta(milliseconds=299), *NOT_A_DURATION),
    *refused(Polling, "polling.interval", length("0.01"), 0, 0.009, timedelta(milliseconds=9), *NOT_A_DURATION),
    *refused(Polling, "polling.safety", length("0.01"), 0, 0.009, timedelta(milliseconds=9), *NOT_A_DURATION),
    *refused(
        Options,
        "collection",
        "a collection name: no '$', no NUL, not 'system.…', 1–200 bytes",
        *(None, 1, b"jobs", "", "a$b", "$jobs", "a\0b", "system.jobs", "system.", ".jobs", "jobs."),
        *("j" * 201, "ü" * 101, "jobs..old", "jobs\ud800"),
    ),
    *refused(
        Options,
        "instance_id",
        "a printable string of 1–255 characters",
        *(1, True, b"web", "", "w" * 256, "a\nb", "a\0b", "\x7f", "\ud800"),
    ),
    *refused(Options, "concurrency", "a Concurrency", None, 5, Retry(), Concurrency, {"per_worker": 5}),
    *refused(Options, "retry", "a Retry", None, 3, Lease(), Retry),
    *refused(Options, "lease", "a Lease", None, 30, timedelta(seconds=30), Polling()),
    *refused(Options, "recover", "a bool", None, 0, 1, "yes"),
    *refused(Options, "polling", "a Polling", None, 1, timedelta(seconds=1), Lease()),
    *refused(Options, "shutdown_timeout", length("0"), -0.001, timedelta(microseconds=-1), *NOT_A_DURATION),
    *refused(Options, "max_payload_bytes", COUNT, *NOT_A_COUNT),
    *refused(Options, "max_result_bytes", COUNT, None, *NOT_A_COUNT),
    *refused(Options, "create_indexes", "a bool", None, 0, 1, "no"),
]


@pytest.mark.parametrize(
    ("make", "option", "expected", "value"),
    NONSENSE,
    ids=[f"{option}={value!r:.20}" for _, option, _, value in NONSENSE],
)
def test_nonsense_is_refused_by_the_name_of_the_option(
    make: Callable[..., object], option: str, expected: str, value: object
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(**{option.rpartition(".")[2]: value})
    assert caught.value.option == option
    assert caught.value.value is value
    assert str(caught.value).startswith(f"option {option}: expected {expected}, got ")


def test_a_cap_below_the_base_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"option retry\.cap: expected no less than retry\.base \(10\), got 9"):
        Retry(base=10, cap=timedelta(seconds=9).total_seconds())
    assert Retry(base=10, cap=timedelta(seconds=10)).cap == timedelta(seconds=10)


SENSE: list[tuple[Callable[..., object], str, list[object]]] = [
    (Concurrency, "per_worker", [1, 10_000]),
    (Concurrency, "per_instance", [1, 10_000, None]),
    (Retry, "max_retries", [1, 1_000_000]),
    (Retry, "base", [0.001, 1, timedelta(milliseconds=1), 86_400]),
    (Retry, "cap", [1, 1.0, timedelta(seconds=1), timedelta(days=365)]),
    (Retry, "jitter", [0, 1, 0.0, 0.5, 1.0]),
    (Timeout, "soft", [0.001, 1, timedelta(milliseconds=1), timedelta(days=365)]),
    (Lease, "timeout", [0.3, 1, timedelta(milliseconds=300), timedelta(days=1)]),
    (Polling, "interval", [0.01, timedelta(milliseconds=10), 60]),
    (Polling, "safety", [0.01, timedelta(milliseconds=10), 60]),
    (Options, "collection", ["j", "jobs.old", "j" * 200, "ü" * 100, "systems", "a b"]),
    (Options, "instance_id", ["w", "w" * 255, "web 1", "wëb", None]),
    (Options, "recover", [True, False]),
    (Options, "shutdown_timeout", [0, 0.0, timedelta(0), 1, timedelta(hours=1)]),
    (Options, "max_payload_bytes", [1, 2**40, None]),
    (Options, "max_result_bytes", [1, 2**40]),
    (Options, "create_indexes", [True, False]),
]


@pytest.mark.parametrize(
    ("make", "option", "value"), [(make, option, value) for make, option, values in SENSE for value in values]
)
def test_what_makes_sense_is_taken_as_it_is(make: Callable[..., object], option: str, value: object) -> None:
    assert getattr(make(**{option: value}), option) is value


@pytest.mark.parametrize("timeout", [30, 30.0, timedelta(seconds=30)])
def test_a_lease_is_renewed_every_third_of_it(timeout: float | timedelta) -> None:
    assert Lease(timeout).heartbeat_interval == 10.0


@given(
    name=st.text(st.sampled_from("a.$\0 \n") | st.characters(), max_size=12)
    | st.text(st.characters(), min_size=80, max_size=220),
)
@example(name="a..b")
@example(name="\ud800")
def test_every_collection_that_is_accepted_the_driver_accepts_too(name: str) -> None:
    try:
        Options(collection=name)
    except ConfigurationError:
        return
    # No connection is made before the first command, which never comes.
    with MongoClient[dict[str, Any]](connect=False) as client:
        assert client["app"][name].name == name
    encode({"find": name})


@pytest.mark.parametrize(
    ("duration", "expected"), [(2, 2.0), (0.25, 0.25), (timedelta(minutes=1, milliseconds=5), 60.005)]
)
def test_a_duration_is_a_timedelta_or_seconds(duration: float | timedelta, expected: float) -> None:
    assert is_duration(duration)
    assert seconds(duration) == expected
    assert type(seconds(duration)) is float


@given(value=st.integers() | st.floats() | st.timedeltas() | st.text() | st.none() | st.booleans())
@example(value=10**400)
def test_what_passes_as_a_duration_can_be_waited_for(value: object) -> None:
    if is_duration(value):
        assert abs(seconds(value)) < float("inf")


@pytest.mark.parametrize(("value", "least"), [(0, 0), (3, 3), (-2, -5)])
def test_a_count_is_accepted_from_its_least_value_on(value: int, least: int) -> None:
    check_count("option", value, least=least)
    with pytest.raises(ConfigurationError, match=f"option option: expected a whole number, at least {least}, got"):
        check_count("option", least - 1, least=least)


@pytest.mark.parametrize(
    ("on", "value", "expected"),
    [
        ({"ValueError": Fail}, "ValueError", "types of exceptions as keys"),
        ({int: Fail}, int, "types of exceptions as keys"),
        ({ValueError("no"): Fail}, None, "types of exceptions as keys"),
        ({(ValueError, KeyError): Fail}, (ValueError, KeyError), "types of exceptions as keys"),
        ({ValueError: None}, None, "what makes an outcome of the exception, such as Fail"),
        ({ValueError: "fail"}, "fail", "what makes an outcome of the exception, such as Fail"),
        ({KeyError: Fail, ValueError: 3}, 3, "what makes an outcome of the exception, such as Fail"),
    ],
    ids=["text", "no exception", "instance", "several", "None", "word", "number"],
)
def test_a_policy_for_exceptions_goes_by_their_types(on: Any, value: object, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Retry(on=on)
    assert caught.value.option == "retry.on"
    assert value is None or caught.value.value == value
    assert f"expected {expected}, got" in str(caught.value)


def test_a_policy_stays_as_it_was_made() -> None:
    on: dict[type[BaseException], Any] = {ValueError: Fail}
    retry = Retry(on=on)
    on[ValueError] = Cancel
    assert retry == Retry(on={ValueError: Fail}) != Retry(on=on)


def test_policies_are_values() -> None:
    one, same, other = Retry(on={ValueError: Fail}), Retry(on={ValueError: Fail}), Retry(max_retries=3)
    assert one == same
    assert hash(one) == hash(same)
    assert {one: 1, other: 2, Retry(): 3}[same] == 1
    assert {Options(retry=one): 1}[Options(retry=same)] == 1
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301


def test_a_hard_limit_below_the_soft_one_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"option timeout\.hard: expected no less than timeout\.soft \(10\), got 9"
    ):
        Timeout(10, hard=9)
    assert Timeout(10, hard=timedelta(seconds=10)).hard_after == 10.0


@pytest.mark.parametrize("hard", [value for value in NOT_A_DURATION if value is not None], ids=repr)
def test_a_hard_limit_is_a_length_of_time(hard: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"option timeout\.hard: expected a timedelta or a number of seconds"):
        Timeout(0.001, hard=hard)


@pytest.mark.parametrize("soft", [1.5, timedelta(seconds=1.5)], ids=repr)
def test_a_hard_limit_comes_five_seconds_after_the_soft_one(soft: float | timedelta) -> None:
    assert Timeout(soft).hard_after == 6.5


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_a_retention_is_a_length_of_time_for_each_status(status: str) -> None:
    values: list[Any] = [1, 0.5, timedelta(days=7), None]
    for value in values:
        assert getattr(Retention(**{status: value}), status) is value
    for value in [value for value in NOT_A_DURATION if value is not None]:
        with pytest.raises(ConfigurationError, match=f"option retention.{status}: expected a timedelta or a number of"):
            Retention(**{status: value})
    assert Retention(**{status: 1})
    assert not Retention()
