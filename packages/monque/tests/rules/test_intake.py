from __future__ import annotations

import dataclasses
from collections import OrderedDict, UserDict
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from zoneinfo import ZoneInfo

import bson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex
from bson.codec_options import CodecOptions, TypeCodec, TypeRegistry
from hypothesis import example, given
from hypothesis import strategies as st
from typing_extensions import override

from monque import (
    FollowUp,
    InvalidArgumentError,
    InvalidJobIdentifierError,
    InvalidPayloadError,
    Job,
    JobStatus,
    NewJob,
    PayloadTooLargeError,
    Retry,
)
from monque._intake import LARGEST_PAYLOAD, Payloads, as_new_job, new_job
from monque.job import from_document, to_document

if TYPE_CHECKING:
    from collections.abc import Mapping

NOW = datetime(2026, 3, 1, 12, 0, 0, 5000, tzinfo=UTC)
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)


def made(codec: CodecOptions[Any] = CODEC, limit: int | None = None, **request: Any) -> Job[Any]:
    values: dict[str, Any] = {"name": "greet", **request}
    job = new_job(NewJob(**values), now=NOW)
    Payloads(codec, limit).size(job.data)
    return job


# --- what comes out -----------------------------------------------------------------------------------------------


def test_a_request_without_more_is_a_normal_job_due_now() -> None:
    job = made()
    assert job == Job(
        id=job.id,
        name="greet",
        data=dict[str, Any](),
        status=JobStatus.PENDING,
        next_run_at=NOW,
        fail_count=0,
        created_at=NOW,
        updated_at=NOW,
        priority=0,
        attempts=0,
    )


def test_every_job_has_an_id_of_its_own() -> None:
    assert made().id != made().id


@pytest.mark.parametrize("data", [{}, {"to": "a@b.c"}, [], 0, False, "", "text", [1, {"a": None}]], ids=repr)
def test_data_is_kept_as_given(data: object) -> None:
    assert made(data=data).data == data


@pytest.mark.parametrize(
    ("delay", "due"),
    [
        (0, NOW),
        (0.0004, NOW),
        (60, NOW + timedelta(seconds=60)),
        (0.25, NOW + timedelta(milliseconds=250)),
        (timedelta(0), NOW),
        (timedelta(microseconds=999), NOW),
        (timedelta(days=400, milliseconds=1), NOW + timedelta(days=400, milliseconds=1)),
    ],
)
def test_a_delay_counts_from_now(delay: float | timedelta, due: datetime) -> None:
    assert made(delay=delay).next_run_at == due


@given(milliseconds=st.integers(0, 10**12))
@example(milliseconds=1001)
def test_a_delay_in_whole_milliseconds_is_kept_to_the_millisecond(milliseconds: int) -> None:
    delay = timedelta(milliseconds=milliseconds)
    assert made(delay=delay).next_run_at - NOW == delay


@pytest.mark.parametrize(
    "run_at",
    [
        NOW,
        datetime(2026, 3, 1, 13, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime.min.replace(tzinfo=UTC),
        datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=-11))),
    ],
    ids=str,
)
def test_a_moment_may_be_in_any_zone_and_in_the_past(run_at: datetime) -> None:
    assert made(run_at=run_at).next_run_at == run_at.astimezone(UTC)


def test_a_moment_is_kept_in_utc() -> None:
    assert made(run_at=datetime(2026, 3, 1, 13, tzinfo=ZoneInfo("Europe/Berlin"))).next_run_at.tzinfo is UTC


_zones = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(run_at=st.datetimes(timezones=_zones))
@example(run_at=datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))))
@example(run_at=datetime.min.replace(tzinfo=timezone(timedelta(hours=1))))
@example(run_at=datetime.max.replace(tzinfo=UTC))
def test_a_moment_that_is_accepted_can_be_stored_and_read(run_at: datetime) -> None:
    try:
        job = made(run_at=run_at)
    except InvalidArgumentError as error:
        assert error.argument == "run_at"  # noqa: PT017
        return
    assert timedelta(0) <= run_at - job.next_run_at < timedelta(milliseconds=1)
    document: Any = bson.decode(bson.encode(to_document(job)), codec_options=CODEC)  # pyright: ignore[reportUnknownMemberType]
    assert from_document(document) == job


@pytest.mark.parametrize("priority", [-10, -1, 0, 1, 10])
def test_a_priority_is_kept(priority: int) -> None:
    assert made(priority=priority).priority == priority


# --- what is refused ----------------------------------------------------------------------------------------------


class NoOffset(tzinfo):
    """A zone that does not know how far from UTC it is."""

    @override
    def utcoffset(self, _: datetime | None, /) -> None: ...

    @override
    def dst(self, _: datetime | None, /) -> None: ...

    @override
    def tzname(self, _: datetime | None, /) -> None: ...


AWARE = "an aware datetime, such as datetime.now(UTC) + timedelta(minutes=5)"
LENGTH = "a timedelta or a number of seconds, 0 to 1,000 years"
PRIORITY = "a whole number from -10 to 10"
BAD_RUN_ATS = [
    datetime(2026, 3, 1, 12),  # noqa: DTZ001
    datetime(2026, 3, 1, 12, tzinfo=NoOffset()),
    date(2026, 3, 1),
    "2026-03-01T12:00:00Z",
    1_772_366_400,
    timedelta(minutes=5),
]
BAD_DELAYS = [
    *(-1, -0.001, timedelta(microseconds=-1), timedelta(days=-1)),
    *(float("nan"), float("inf"), float("-inf"), 1e300, 1e12, 10**400, 10**20),
    *(timedelta.max, timedelta(days=366 * 8000)),
    *(True, False, "60", [60], NOW, 1j),
]


@pytest.mark.parametrize(
    ("argument", "value", "expected"),
    [
        *(("run_at", value, AWARE) for value in BAD_RUN_ATS),
        *(("delay", value, LENGTH) for value in BAD_DELAYS),
        *(("priority", value, PRIORITY) for value in (-11, 11, 10**30, True, False, 1.0, 0.5, "high", float("nan"))),
    ],
    ids=lambda value: f"{value!r:.24}",
)
def test_a_bad_argument_is_refused_by_its_name(argument: str, value: object, expected: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        made(**cast("Any", {argument: value}))
    assert caught.value.argument == argument
    assert caught.value.value is value
    assert str(caught.value).startswith(f"{argument}: expected {expected}, got ")


@pytest.mark.parametrize("delay", [0, 60, timedelta(hours=1)])
def test_a_moment_and_a_delay_contradict_each_other(delay: float | timedelta) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^delay: expected either run_at or delay, not both, got"):
        made(run_at=NOW, delay=delay)


@pytest.mark.parametrize("name", ["", "two words", None, 1])
def test_a_name_that_is_none_is_refused(name: object) -> None:
    with pytest.raises(InvalidJobIdentifierError) as caught:
        made(name=name)
    assert caught.value.field == "name"


# --- payloads -----------------------------------------------------------------------------------------------------


class Unshowable:
    """Raises when it is shown, as half-initialised objects do."""

    @override
    def __repr__(self) -> str:
        raise RuntimeError("half-initialised")


def with_itself() -> tuple[list[Any], dict[str, Any]]:
    items: list[Any] = []
    items.append(items)
    mapping: dict[str, Any] = {}
    mapping["self"] = mapping
    return items, mapping


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


class Point(NamedTuple):
    """A tuple with names."""

    x: Any
    y: Any


BIG = 2**63
MISFITS: list[tuple[Any, str]] = [
    (BIG, "data"),
    (-BIG - 1, "data"),
    ({"a": [1, 2, {3}]}, "data['a'][2]"),
    ({"a": {"b": BIG}}, "data['a']['b']"),
    ({"ok": 1, "when": date(2026, 3, 1)}, "data['when']"),
    ([{"price": Decimal("1.5")}], "data[0]['price']"),
    ({"tuple": (1, (2, frozenset()))}, "data['tuple'][1][1]"),
    ({"point": Point(1, object())}, "data['point'][1]"),
    (OrderedDict[str, Any](a=1, b=OrderedDict[str, Any](c=object)), "data['b']['c']"),
    (UserDict({"a": 1j}), "data['a']"),
    ({"a": "\ud800"}, "data['a']"),
    ("\udfff", "data"),
    ({1: "one"}, "data"),
    ({"a": {None: 1}}, "data['a']"),
    ({"a": [{("b",): 1}]}, "data['a'][0]"),
    ({"a": {"nul\0": 1}}, "data['a']"),
    ({"a": {"\ud800": 1}}, "data['a']"),
    ({"a": (item for item in "abc")}, "data['a']"),
    ({"a": {1, 2}, "b": {3}}, "data['a']"),
    ({"a'b": {"]": {1}}}, "data[\"a'b\"][']']"),
    ({"a": [datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2))).timetz()]}, "data['a'][0]"),
]


@pytest.mark.parametrize(
    ("data", "path"), MISFITS, ids=[f"{number}-{path}" for number, (_, path) in enumerate(MISFITS)]
)
def test_the_part_that_does_not_fit_is_named(data: object, path: str) -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        made(data=data)
    value: Any = eval(path, {"data": data})  # noqa: S307
    assert caught.value.argument == path
    assert caught.value.value is value
    assert str(caught.value).startswith(f"{path}: expected a value BSON can hold (")
    assert str(caught.value).endswith(f"), got {value!r}")
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("data", with_itself(), ids=["list", "mapping"])
def test_data_that_contains_itself_is_refused(data: object) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^data: expected .*contains? itself"):
        made(data=data)


@pytest.mark.parametrize("data", [{1: part} for part in with_itself()], ids=["list", "mapping"])
def test_data_that_is_wrong_in_two_ways_is_refused_as_well(data: object) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^data"):
        made(data=data)


@pytest.mark.parametrize("levels", [200, 500, 5_000, 100_000])
def test_data_nested_deeper_than_mongodb_takes_is_refused(levels: int) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^data"):
        made(data=nested(levels))


def test_data_may_be_nested_ninety_levels_deep() -> None:
    assert made(data=nested(90)).data == nested(90)


@pytest.mark.parametrize("data", [Unshowable(), {"a": [Unshowable()]}], ids=["alone", "inside"])
def test_what_cannot_be_shown_is_refused_like_anything_else(data: object) -> None:
    with pytest.raises(InvalidPayloadError, match=r"^data"):
        made(data=data)


@pytest.mark.parametrize(
    "data",
    [
        {"id": ObjectId(), "bytes": b"\0\xff", "binary": Binary(b"", 128), "decimal": Decimal128("1.5")},
        {"": {"": 1}, "$set": 1, "a.b": 2, "tuple": (1, 2), "date": NOW, "naive": datetime(2026, 3, 1)},  # noqa: DTZ001
        {"int": 2**63 - 1, "negative": -(2**63), "int64": Int64(1), "nan": float("nan"), "regex": Regex("a")},
        {"shared": [[1]] * 2},
        UserDict({"a": UserDict({"b": 1})}),
    ],
    ids=["types", "keys", "numbers", "shared", "mappings"],
)
def test_whatever_bson_can_hold_is_accepted(data: Mapping[str, Any]) -> None:
    assert made(data=data).data is data


def test_the_users_own_codecs_count() -> None:
    class Decimals(TypeCodec):
        """Stores Python's decimals."""

        python_type = Decimal  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]
        bson_type = Decimal128  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

        @override
        def transform_python(self, value: Any) -> Decimal128:
            return Decimal128(value)

        @override
        def transform_bson(self, value: Any) -> Any:
            return value.to_decimal()

    codec = CODEC.with_options(type_registry=TypeRegistry([Decimals()]))
    assert made(codec, data={"price": Decimal("1.5")}).data == {"price": Decimal("1.5")}
    with pytest.raises(InvalidPayloadError, match=r"^data\['other'\]"):
        made(codec, data={"price": Decimal("1.5"), "other": {1}})


def size(data: object) -> int:
    return len(bson.encode({"data": data}))


def test_the_limit_is_the_size_of_the_data_as_bson() -> None:
    data = {"text": "x" * 100}
    assert made(data=data, limit=size(data)).data == data
    with pytest.raises(PayloadTooLargeError) as caught:
        made(data=data, limit=size(data) - 1)
    assert (caught.value.actual, caught.value.maximum) == (size(data), size(data) - 1)


def test_no_data_counts_as_an_empty_document() -> None:
    with pytest.raises(PayloadTooLargeError) as caught:
        made(limit=1)
    assert caught.value.actual == size({})


@pytest.mark.parametrize("limit", [None, 2**40])
def test_mongodbs_own_limit_holds_whatever_was_set(limit: int | None) -> None:
    fits = b"x" * (LARGEST_PAYLOAD - size(b""))
    assert made(data=fits, limit=limit).data == fits
    with pytest.raises(PayloadTooLargeError) as caught:
        made(data=fits + b"x", limit=limit)
    assert (caught.value.actual, caught.value.maximum) == (LARGEST_PAYLOAD + 1, LARGEST_PAYLOAD)


def test_the_largest_payload_leaves_room_for_all_that_a_job_collects() -> None:
    job = dataclasses.replace(
        made(data=b"x" * (LARGEST_PAYLOAD - size(b""))),
        name="🚀" * 255,
        unique_key="🚀" * 1024,
        repeat_interval="0 9 * * 1-5" * 20,
        timezone="America/Argentina/ComodRivadavia",
        fail_reason="🚀" * 2000,
        locked_at=NOW,
        claimed_by="🚀" * 255 + ":" + "0" * 36,
        claim_token="0" * 24,
        last_heartbeat=NOW,
        heartbeat_interval=2**40,
        priority=10,
        attempts=10,
        timeout=1e6,
        retry=Retry(),
        tags=tuple("🚀" * 254 + chr(65 + number) for number in range(20)),
    )
    job = dataclasses.replace(job, follow_up=FollowUp(None, NOW, 10, 1e6, Retry(), job.tags))
    failure = {"at": NOW, "attempt": 10, "error": "🚀" * 2000, "traceback": "🚀" * 4000}
    after = {"settledBy": "0" * 24, "errors": [failure] * 5}
    assert len(bson.encode(to_document(job) | after)) <= 16 * 1024 * 1024


# --- items of enqueue_many ----------------------------------------------------------------------------------------

REQUEST = NewJob(name="greet", data={"a": 1}, delay=60, priority=3)


@pytest.mark.parametrize(
    ("item", "request_"),
    [
        (REQUEST, REQUEST),
        ({"name": "greet", "data": {"a": 1}, "delay": 60, "priority": 3}, REQUEST),
        ({"name": "greet"}, NewJob(name="greet")),
        (UserDict({"name": "greet", "run_at": NOW}), NewJob(name="greet", run_at=NOW)),
        (("greet", {"a": 1}), NewJob(name="greet", data={"a": 1})),
        (("greet", None), NewJob(name="greet")),
        (Point("greet", [1]), NewJob(name="greet", data=[1])),
    ],
    ids=["value", "mapping", "name only", "other mapping", "pair", "pair without data", "named tuple"],
)
def test_an_item_may_be_given_in_three_ways(item: Any, request_: NewJob) -> None:
    assert as_new_job(item) == request_


@pytest.mark.parametrize(
    "item",
    [
        *({}, {"data": 1}, {"name": "greet", "datum": 1}, {"name": "greet", 1: 2}),
        *((), ("greet",), ("greet", 1, 2), ["greet", 1], "greet", "ab", b"ab", None, 1),
        pytest.param({"greet", "data"}, id="a set"),
    ],
    ids=repr,
)
def test_anything_else_is_refused(item: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        as_new_job(item)
    assert caught.value.argument == "jobs"
    assert caught.value.value is item
    assert str(caught.value) == (
        f"jobs: expected NewJob values, mappings of their fields, or pairs (name, data), got {item!r}"
    )
