"""What handlers are called with: made at their declaration, checked when jobs are enqueued and when they run."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, NotRequired, TypeVar
from uuid import UUID

import bson
import pytest
from bson import Decimal128, ObjectId
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, TypeCodec, TypeRegistry
from pydantic import AfterValidator, AnyUrl, BaseModel, ConfigDict, Field, SecretStr, computed_field
from typing_extensions import TypedDict, override

from monque import InvalidPayloadError, Job, WorkerRegistrationError
from monque._codec import restored, stand_in, stored, with_stand_ins
from monque._payload import payload_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from somewhere import Missing  # type: ignore[import-not-found]  # pyright: ignore[reportUnknownMemberType]

T = TypeVar("T")

MOMENT = datetime(2026, 3, 1, 12, 30, 15, 123_000, tzinfo=UTC)
SOME_ID = ObjectId("6650a0b0c0d0e0f001020304")
SOME_UUID = UUID("12345678-1234-5678-1234-567812345678")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(StrEnum):
    BIG = "big"


class Level(IntEnum):
    HIGH = 3


class Price(Enum):
    LOW = Decimal("1.5")


@dataclass
class Line:
    product: ObjectId
    price: Decimal
    count: int = 1


class Address(BaseModel):
    street: str
    post_code: str = Field(alias="postCode")


class Customer(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    id: ObjectId
    address: Address
    born: date

    @computed_field  # type: ignore[prop-decorator]
    @property
    def year(self) -> int:
        return self.born.year


class Note(TypedDict):
    text: str
    urgent: NotRequired[bool]


@dataclass
class Order:
    lines: list[Line]
    customer: Customer
    note: Note
    tags: set[str] = field(default_factory=set[str])


def through_bson(data: Any) -> Any:
    codec: CodecOptions[Any] = with_stand_ins(CodecOptions(tz_aware=True))
    raw = bson.encode({"data": data}, codec_options=codec)
    return bson.decode(raw, codec)["data"]  # pyright: ignore[reportUnknownMemberType]


def declared(function: Callable[..., object]) -> Any:
    return payload_of("work", function)


# --- which kind of handler --------------------------------------------------------------------------------------------


async def of_any(job: Any) -> None: ...
async def of_object(job: object) -> None: ...
async def of_job(job: Job) -> None: ...  # type: ignore[type-arg]  # pyright: ignore[reportUnknownMemberType]
async def of_any_job(job: Job[Any]) -> None: ...
async def of_object_job(job: Job[object]) -> None: ...
async def of_generic_job(job: Job[T]) -> None: ...
async def of_anything(job) -> None: ...  # type: ignore[no-untyped-def]  # pyright: ignore[reportUnknownMemberType]  # noqa: ANN001
def plain(job: Job[Any], /) -> None: ...
async def with_more(job: Job[Any], *, loud: bool = False) -> None: ...
async def bound(prefix: str, job: Job[Any]) -> None: ...


class Handlers:
    async def method(self, job: Job[Any]) -> None: ...
    async def __call__(self, job: Job[Any]) -> None: ...


HANDLERS: dict[str, Any] = {
    "any": of_any,
    "object": of_object,
    "job": of_job,
    "job of any": of_any_job,
    "job of object": of_object_job,
    "job of a variable": of_generic_job,
    "nothing": of_anything,
    "by position": plain,
    "more": with_more,
    "partial": functools.partial(bound, "a"),
    "method": Handlers().method,
    "callable": Handlers(),
    "builtin": list[Any]().append,
}


@pytest.mark.parametrize("function", HANDLERS.values(), ids=HANDLERS)
def test_a_handler_that_takes_a_job_gets_the_job(
    function: Callable[..., Any], make_job: Callable[..., Job[Any]]
) -> None:
    payload = declared(function)
    job = make_job(data={"a": 1})
    assert not payload.is_typed
    args, kwargs = payload.arguments(job)
    assert args == (job,)
    assert args[0] is job
    assert kwargs == {}
    data = object()
    assert payload.check(data) is data
    assert payload.bind((data,), {}) is data
    assert payload.bind((), {}) is None


@pytest.mark.parametrize(("args", "kwargs"), [((1, 2), {}), ((), {"data": 1}), ((1,), {"data": 1})])
def test_a_handler_that_takes_a_job_has_one_value_of_data(args: Any, kwargs: Any) -> None:
    for function in (of_any_job, typed):
        with pytest.raises(
            InvalidPayloadError, match=r"^data: expected one value, without a name: the job's data, got"
        ):
            declared(function).bind(args, kwargs)


def test_a_plain_handler_costs_no_import() -> None:
    program = (
        "import sys, monque\nfrom monque import Job\nm = monque.Monque('mongodb://localhost')\n"
        "@m.worker('a')\nasync def a(job: Job) -> None: ...\n"
        "print('pydantic' in sys.modules)\n"
        "@m.worker('b')\nasync def b(to: str) -> None: ...\n"
        "print('pydantic' in sys.modules)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "True"]


async def typed(job: Job[Order]) -> None: ...


async def without(job: Job[None]) -> None: ...


def test_a_job_of_none_has_no_data(make_job: Callable[..., Job[Any]]) -> None:
    payload = payload_of("work", without)
    nothing: list[Any] = [None, {}]
    for data in nothing:
        assert payload.check(data) is None
        (job,), _ = payload.arguments(make_job(data=data))
        assert job.data is None
    with pytest.raises(InvalidPayloadError, match="data: expected None"):
        payload.check({"n": 1})


def test_the_data_of_a_typed_job_are_what_it_says(make_job: Callable[..., Job[Any]]) -> None:
    payload = declared(typed)
    order = Order([Line(SOME_ID, Decimal("1.20"))], customer(), {"text": "soon"}, {"a"})
    data = payload.bind((order,), {})
    assert data == {
        "lines": [{"product": SOME_ID, "price": Decimal128("1.20"), "count": 1}],
        "customer": {"id": SOME_ID, "address": {"street": "High St", "postCode": "1"}, "born": "1990-05-06"},
        "note": {"text": "soon"},
        "tags": ["a"],
    }
    assert payload.check(data) == data
    assert through_bson(data) == data
    job = make_job(data=through_bson(data))
    (received,), kwargs = payload.arguments(job)
    assert kwargs == {}
    assert received.data == order
    assert received.id == job.id
    assert job.data == data


def customer() -> Customer:
    return Customer(id=SOME_ID, address=Address(street="High St", postCode="1"), born=date(1990, 5, 6))


async def counted(job: Job[dict[str, int]]) -> None: ...


def test_no_data_are_an_empty_document() -> None:
    assert declared(counted).check(None) == {}
    assert declared(none).check(None) == {}
    assert declared(none).bind((), {}) == {}


async def none() -> None: ...


SEVERAL = (
    "data['to']: expected a value (there is something wrong with data['copies'], data['subject'], too), got nothing"
)


async def send(to: str, subject: str = "Hello", *, copies: int = 0) -> bool:
    return bool((to, subject, copies))


@pytest.mark.parametrize(
    ("args", "kwargs", "data"),
    [
        (("a",), {}, {"to": "a"}),
        (("a", "b"), {}, {"to": "a", "subject": "b"}),
        (("a",), {"copies": 2}, {"to": "a", "copies": 2}),
        ((), {"to": "a", "copies": "2"}, {"to": "a", "copies": 2}),
    ],
)
def test_parameters_are_a_document_of_them(
    args: Any, kwargs: Any, data: Any, make_job: Callable[..., Job[Any]]
) -> None:
    payload = declared(send)
    assert payload.is_typed
    assert payload.bind(args, kwargs) == data
    assert payload.check(data) == data
    assert payload.arguments(make_job(data=data)) == ((), data)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "data['to']: expected a value, got nothing"),
        ((1,), {}, "data['to']: expected a valid string, got 1"),
        ((), {"to": "a", "form": "b"}, "data['form']: expected nothing of this name, got 'b'"),
        (("a", "b", 3), {}, "data: expected at most 2 arguments without a name (to, subject), got ('a', 'b', 3)"),
        (("a",), {"to": "b"}, "data['to']: expected one value, and 'a' came, too, got 'b'"),
        ((), {"subject": 1, "copies": "x"}, SEVERAL),
    ],
    ids=["missing", "wrong", "unknown", "too many", "twice", "several"],
)
def test_what_a_handler_cannot_take_is_named(args: Any, kwargs: Any, message: str) -> None:
    with pytest.raises(InvalidPayloadError) as caught:
        declared(send).bind(args, kwargs)
    assert str(caught.value) == message
    assert caught.value.argument == message.partition(":")[0]


@pytest.mark.parametrize("data", [1, "text", ["a"]])
def test_parameters_come_as_a_mapping(data: Any, make_job: Callable[..., Job[Any]]) -> None:
    payload = declared(send)
    with pytest.raises(InvalidPayloadError, match=r"^data: expected a mapping with the arguments of the handler by na"):
        payload.check(data)
    with pytest.raises(InvalidPayloadError, match=r"^data: expected a mapping"):
        payload.arguments(make_job(data=data))


def test_a_mismatch_deep_inside_is_named(make_job: Callable[..., Job[Any]]) -> None:
    payload = declared(typed)
    data = payload.bind((Order([Line(SOME_ID, Decimal(1))], customer(), {"text": ""}),), {})
    data["lines"][0]["price"] = "much"
    with pytest.raises(InvalidPayloadError) as caught:
        payload.arguments(make_job(data=data))
    assert caught.value.argument == "data['lines'][0]['price']"
    assert caught.value.value == "much"
    data["lines"][0] = {"product": 5, "price": Decimal128("1")}
    with pytest.raises(
        InvalidPayloadError, match=r"data\['lines'\]\[0\]\['product'\]: expected an instance of ObjectI"
    ):
        payload.check(data)


def even(number: int) -> int:
    if number % 2:
        raise ValueError("an even number")
    return number


async def halve(number: Annotated[int, AfterValidator(even)]) -> None: ...


def test_validators_of_the_users_own_have_their_say() -> None:
    assert declared(halve).bind((2,), {}) == {"number": 2}
    with pytest.raises(InvalidPayloadError, match=r"^data\['number'\]: expected an even number, got 3$"):
        declared(halve).bind((3,), {})


# --- what is no handler -----------------------------------------------------------------------------------------------


async def unannotated(first, second=2) -> None: ...  # type: ignore[no-untyped-def]  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]  # noqa: ANN001


def test_parameters_without_annotations_take_anything(make_job: Callable[..., Job[Any]]) -> None:
    payload = declared(unannotated)  # pyright: ignore[reportUnknownArgumentType]
    data = payload.bind(({"a": 1},), {})
    assert data == {"first": {"a": 1}}
    assert payload.arguments(make_job(data=data)) == ((), data)


async def of_args(*values: int) -> None: ...
async def of_kwargs(**values: int) -> None: ...
async def of_position(value: int, /) -> None: ...
async def of_job_and(job: Job[Any], value: int) -> None: ...
async def of_value_and_job(value: int, job: Job[Any]) -> None: ...
async def of_job_by_name(*, job: Job[Any]) -> None: ...
async def of_missing(value: Missing) -> None: ...  # pyright: ignore[reportUnknownParameterType]
async def of_missing_job(job: Job[Missing]) -> None: ...  # pyright: ignore[reportUnknownParameterType]
async def of_nonsense(value: no.such.name) -> None: ...  # type: ignore[name-defined]  # pyright: ignore[reportUnknownMemberType]  # noqa: F821
async def of_unusable(value: Unusable) -> None: ...


class Unusable:
    __get_pydantic_core_schema__ = 5


NO_HANDLERS: list[tuple[Any, str]] = [
    (of_args, "the parameter *values cannot be given by name"),
    (of_kwargs, "the parameter **values cannot be given by name"),
    (of_position, "the parameter value cannot be given by name"),
    (of_job_and, "the parameter 'job' takes the job, and there are others"),
    (of_value_and_job, "the parameter 'job' takes the job, and there are others"),
    (of_job_by_name, "the parameter 'job' takes the job"),
    (of_missing, "the annotation of the parameter 'value' cannot be resolved: name 'Missing' is not defined"),
    (of_missing_job, "the annotation of the parameter 'job' cannot be resolved: name 'Missing' is not defined"),
    (of_nonsense, "the annotation of the parameter 'value' cannot be resolved: name 'no' is not defined"),
    (of_unusable, "values cannot be checked against its annotations: "),
    (dict.fromkeys, "the parameter iterable cannot be given by name"),
    (type, "the parameters of <class 'type'> cannot be seen"),
]


@pytest.mark.parametrize(("function", "problem"), NO_HANDLERS, ids=[case[0].__name__ for case in NO_HANDLERS])
def test_what_cannot_be_called_with_a_job_is_refused(function: Callable[..., Any], problem: str) -> None:
    with pytest.raises(WorkerRegistrationError) as caught:
        declared(function)
    assert caught.value.job_name == "work"
    assert problem in str(caught.value)


# --- annotations ------------------------------------------------------------------------------------------------------


def test_text_is_resolved_with_the_names_around() -> None:
    @dataclass
    class Local:
        number: int

    async def handler(value: Local) -> None: ...

    assert payload_of("work", handler).bind((), {"value": Local(3)}) == {"value": {"number": 3}}


def test_text_is_resolved_with_what_the_function_itself_refers_to() -> None:
    @dataclass
    class Local:
        number: int

    async def handler(value: Local) -> Local:
        return Local(value.number)

    def elsewhere() -> Any:
        return declared(handler)

    assert elsewhere().bind((), {"value": {"number": 3}}) == {"value": {"number": 3}}


def only_for_type_checkers() -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec(  # noqa: S102
        "from __future__ import annotations\nasync def handler(job: Job[Any]) -> Awaitable[None]: ...\n", names
    )
    handler: Callable[..., Any] = names["handler"]
    return handler


def test_a_job_is_known_though_it_is_imported_for_type_checkers_only() -> None:
    payload = declared(only_for_type_checkers())
    assert not payload.is_typed
    with pytest.raises(WorkerRegistrationError, match="the annotation of what it returns cannot be resolved"):
        payload.dump_result(None)


def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


def test_a_decorated_function_takes_what_the_function_does() -> None:
    assert declared(wrapped(send)).bind((), {"to": "a"}) == {"to": "a"}


# --- what travels as what ---------------------------------------------------------------------------------------------

TRAVELS: dict[str, tuple[Any, Any, Any]] = {
    "text": (str, "a", "a"),
    "number": (int, 2**40, 2**40),
    "fraction": (float, 1.5, 1.5),
    "truth": (bool, True, True),
    "nothing": (str | None, None, None),
    "bytes": (bytes, b"\x00a", b"\x00a"),
    "moment": (datetime, MOMENT, MOMENT),
    "moment elsewhere": (datetime, MOMENT.astimezone(timezone(timedelta(hours=2))), MOMENT),
    "day": (date, date(2026, 3, 1), "2026-03-01"),
    "time of day": (time, time(12, 30), "12:30:00"),
    "length of time": (timedelta, timedelta(days=2, microseconds=5), 172_800.000005),
    "decimal": (Decimal, Decimal("1.20"), Decimal128("1.20")),
    "their decimal": (Decimal128, Decimal128("1.20"), Decimal128("1.20")),
    "id": (ObjectId, SOME_ID, SOME_ID),
    "uuid": (UUID, SOME_UUID, SOME_UUID),
    "enum": (Colour, Colour.BLUE, "blue"),
    "enum of text": (Size, Size.BIG, "big"),
    "enum of numbers": (Level, Level.HIGH, 3),
    "enum of decimals": (Price, Price.LOW, Decimal128("1.5")),
    "set": (set[int], {1}, [1]),
    "frozen set": (frozenset[Decimal], frozenset({Decimal(1)}), [Decimal128("1")]),
    "tuple": (tuple[int, str], (1, "a"), [1, "a"]),
    "list of decimals": (list[Decimal], [Decimal(1)], [Decimal128("1")]),
    "numbers by number": (dict[int, int], {1: 2}, {"1": 2}),
    "by enum": (dict[Colour, int], {Colour.RED: 2}, {"red": 2}),
    "by day": (dict[date, int], {date(2026, 3, 1): 2}, {"2026-03-01": 2}),
    "by uuid": (dict[UUID, int], {SOME_UUID: 2}, {str(SOME_UUID): 2}),
    "path": (Path, Path("a/b"), "a/b"),
    "url": (AnyUrl, AnyUrl("http://a.b/c"), "http://a.b/c"),
    "host": (IPv4Address, IPv4Address("127.0.0.1"), "127.0.0.1"),
    "queue": (deque[int], deque([1]), [1]),
    "dataclass": (Line, Line(SOME_ID, Decimal(1)), {"product": SOME_ID, "price": Decimal128("1"), "count": 1}),
    "document": (Note, {"text": "a"}, {"text": "a"}),
    "anything": (Any, {"a": Decimal(1)}, {"a": Decimal128("1")}),
}


@pytest.mark.parametrize(("kind", "value", "wire"), TRAVELS.values(), ids=TRAVELS)
def test_values_travel_there_and_back(kind: Any, value: Any, wire: Any, make_job: Callable[..., Job[Any]]) -> None:
    async def handler(value: Any, *, other: int = 0) -> Any: ...

    handler.__annotations__ = {"value": kind, "other": int, "return": kind}
    payload = declared(handler)
    data = payload.bind((value,), {})
    assert data == {"value": wire}
    back = through_bson(data)
    assert back == data
    assert payload.check(back) == data
    expected = value if kind is not Any else {"a": Decimal(1)}
    _, kwargs = payload.arguments(make_job(data=back))
    assert kwargs == {"value": expected}
    assert type(kwargs["value"]) is type(expected)
    assert payload.load_result(through_bson({"result": payload.dump_result(value)})["result"]) == expected


def test_dates_are_cut_to_milliseconds_and_in_utc() -> None:
    assert stored(datetime(2026, 3, 1, 12, 0, 0, 123_999)) == datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)  # noqa: DTZ001
    assert stored([MOMENT + timedelta(microseconds=900)]) == [MOMENT]


class Custom:
    """Of no use to BSON."""


@pytest.mark.parametrize(
    "value", [Decimal("1." + "1" * 40), SecretStr("x"), Custom()], ids=["decimal", "secret", "own"]
)
def test_what_bson_cannot_hold_stays_as_it_is(value: object) -> None:
    assert stored({"a": [value]}) == {"a": [value]}
    assert stored({("a", value): 1}) == {("a", value): 1}


class Strange(BaseModel):
    secret: SecretStr


async def keep(strange: Strange) -> None: ...


def test_a_secret_is_not_turned_into_asterisks() -> None:
    data = declared(keep).bind((), {"strange": {"secret": "x"}})
    assert data["strange"]["secret"] == SecretStr("x")


def test_what_needs_no_restoring_is_not_copied() -> None:
    for value in ({"a": [1, {"b": "c"}]}, [1, 2], "a"):
        assert restored(value) is value
    assert restored({"a": [1, {"b": Decimal128("1")}]}) == {"a": [1, {"b": Decimal(1)}]}


# --- results ----------------------------------------------------------------------------------------------------------


async def answer() -> dict[str, Decimal]: ...  # type: ignore[empty-body]  # pyright: ignore[reportUnknownMemberType]


async def unspoken():  # type: ignore[no-untyped-def]  # pyright: ignore[reportUnknownMemberType]  # noqa: ANN201
    ...


async def of_unusable_result() -> Unusable: ...  # type: ignore[empty-body]  # pyright: ignore[reportUnknownMemberType]


def test_results_are_stored_and_read_by_the_return_annotation() -> None:
    payload = declared(answer)
    payload.prepare_results()
    assert payload.dump_result({"a": Decimal("1.2")}) == {"a": Decimal128("1.2")}
    assert payload.load_result({"a": Decimal128("1.2")}) == {"a": Decimal("1.2")}
    with pytest.raises(InvalidPayloadError, match=r"^result: expected a valid dictionary, got 5$"):
        payload.dump_result(5)
    with pytest.raises(InvalidPayloadError, match=r"^result\['a'\]: expected "):
        payload.load_result({"a": "x"})


def test_a_result_of_any_type_is_stored_as_it_is() -> None:
    payload = declared(unspoken)
    assert payload.dump_result({"a": {1}}) == {"a": [1]}
    assert payload.load_result(5) == 5


def test_a_result_that_cannot_be_checked_is_refused() -> None:
    with pytest.raises(WorkerRegistrationError, match="values cannot be checked against its annotations"):
        declared(of_unusable_result).prepare_results()


# --- stand-ins --------------------------------------------------------------------------------------------------------


def encode(value: object, codec: CodecOptions[Any]) -> Any:
    options = with_stand_ins(codec)
    return bson.decode(bson.encode({"": value}, codec_options=options), options)[""]  # pyright: ignore[reportUnknownMemberType]


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        (Decimal("1.2"), Decimal128("1.2")),
        (timedelta(seconds=2), 2.0),
        (date(2026, 3, 1), "2026-03-01"),
        (time(1, 2), "01:02:00"),
        (Colour.RED, "red"),
        (Price.LOW, Decimal128("1.5")),
        ({Decimal(1)}, [Decimal128("1")]),
        (SOME_UUID, SOME_UUID),
    ],
    ids=["decimal", "length", "day", "time", "enum", "enum of decimals", "set", "uuid"],
)
def test_untyped_values_travel_as_well(value: object, wire: object) -> None:
    assert encode(value, CodecOptions()) == wire
    assert encode([{"a": value}], CodecOptions()) == [{"a": wire}]


def test_what_nothing_stands_in_for_is_refused_as_ever() -> None:
    with pytest.raises(bson.InvalidDocument):
        encode(Custom(), CodecOptions())
    assert stand_in(MOMENT) is MOMENT


def never(value: Any) -> Any:
    raise TypeError(f"no {value}")


def test_the_users_own_stand_ins_come_first() -> None:
    def theirs(value: Any) -> Any:
        return "theirs" if isinstance(value, Decimal) else value

    codec: CodecOptions[Any] = CodecOptions(type_registry=TypeRegistry(fallback_encoder=theirs))
    assert encode(Decimal(1), codec) == "theirs"
    assert encode({1}, codec) == [1]
    codec = CodecOptions(type_registry=TypeRegistry(fallback_encoder=never))
    assert encode({1}, codec) == [1]
    with pytest.raises(TypeError, match=r"^no <"):
        encode(Custom(), codec)


class Text(TypeCodec):
    """Decimals as text."""

    @property
    @override
    def python_type(self) -> Any:
        return Decimal

    @property
    @override
    def bson_type(self) -> Any:
        return Decimal128

    @override
    def transform_python(self, value: Any) -> Any:
        return f"text {value}"

    @override
    def transform_bson(self, value: Any) -> Any:
        return value


def test_the_users_own_codecs_and_representation_of_uuids_stay() -> None:
    codec: CodecOptions[Any] = CodecOptions(
        type_registry=TypeRegistry([Text()]), uuid_representation=UuidRepresentation.JAVA_LEGACY
    )
    assert encode(Decimal(1), codec) == "text 1"
    assert with_stand_ins(codec).uuid_representation == UuidRepresentation.JAVA_LEGACY
    assert with_stand_ins(CodecOptions()).uuid_representation == UuidRepresentation.STANDARD


class Generics(BaseModel, Generic[T]):
    item: T


async def generic(job: Job[Generics[Decimal]]) -> None: ...


def test_generic_models_are_read_as_what_they_are_made_of(make_job: Callable[..., Job[Any]]) -> None:
    payload = declared(generic)
    data = payload.bind((Generics(item=Decimal(1)),), {})
    ((job,), _) = payload.arguments(make_job(data=through_bson(data)))
    assert job.data == Generics(item=Decimal(1))
