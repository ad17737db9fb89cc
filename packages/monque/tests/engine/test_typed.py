"""Workers that say what their jobs carry, on a real MongoDB."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from bson import Decimal128, ObjectId
from bson.codec_options import CodecOptions, TypeRegistry
from pydantic import BaseModel, SecretStr
from pymongo import AsyncMongoClient

from monque import Concurrency, InvalidArgumentError, InvalidPayloadError, Job, Monque, NewJob, Router, Worker
from monque.testing import eventually

from .support import NO_POLLS, working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .support import Bench


class Colour(Enum):
    RED = "red"


class Address(BaseModel):
    street: str
    since: date


@dataclass
class Order:
    id: ObjectId
    price: Decimal
    ordered: datetime
    address: Address


ORDER = Order(
    ObjectId(),
    Decimal("19.99"),
    datetime(2026, 3, 1, 12, tzinfo=UTC),
    Address(street="High St", since=date(2020, 1, 1)),
)
VALUES: dict[str, Any] = {
    "moment": datetime(2026, 3, 1, 12, 0, 0, 5000, tzinfo=UTC),
    "product": ObjectId(),
    "uuid": UUID(int=5),
    "price": Decimal("1.20"),
    "colour": Colour.RED,
    "raw": b"\x00\x01",
    "day": date(2026, 3, 1),
    "length": timedelta(hours=1, milliseconds=5),
    "tags": {"a"},
    "order": ORDER,
}


class Seen:
    """What a handler was called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def wait(self, number: int = 1) -> list[Any]:
        await eventually(lambda: len(self.calls) >= number)
        return self.calls


def declare_everything(monque: Monque, seen: Seen) -> Worker[..., Any, ..., Any]:
    async def everything(  # noqa: PLR0917
        moment: datetime,
        product: ObjectId,
        uuid: UUID,
        price: Decimal,
        colour: Colour,
        raw: bytes,
        day: date,
        length: timedelta,
        tags: set[str],
        order: Order,
        more: int = 5,
    ) -> None:
        seen.calls.append({**locals(), "seen": None})

    return monque.worker("everything", everything)


async def test_values_travel_there_and_back(bench: Bench) -> None:
    monque, seen = bench.monque(polling=NO_POLLS), Seen()
    everything = declare_everything(monque, seen)
    async with working(monque):
        job = (await everything.enqueue(**VALUES)).job
        (call,) = await seen.wait()
        same = await monque.enqueue("everything", VALUES)
        assert (await seen.wait(2))[1] == call
    assert {name: call[name] for name in (*VALUES, "more")} == {**VALUES, "more": 5}
    assert {name: type(call[name]) for name in VALUES} == {name: type(value) for name, value in VALUES.items()}
    assert "more" not in job.data
    for returned in (job, same):
        stored = await read(bench, returned)
        assert stored == returned.data


async def read(bench: Bench, job: Job[Any]) -> Any:
    async with bench.monque() as monque:
        found = await monque.jobs.get(job.id)
    assert found is not None
    return found.data


async def test_a_typed_job_has_its_data_as_they_were(bench: Bench) -> None:
    monque, seen = bench.monque(polling=NO_POLLS), Seen()

    @monque.worker("order")
    async def handle(job: Job[Order]) -> None:
        seen.calls.append(job.data)

    async with working(monque):
        await handle.enqueue(ORDER)
        await monque.enqueue("order", ORDER)
        assert await seen.wait(2) == [ORDER, ORDER]


async def test_nothing_is_written_when_arguments_are_wrong(bench: Bench) -> None:
    monque = bench.monque()

    @monque.worker("mail", aliases=["post"])
    async def mail(to: str) -> None:
        raise NotImplementedError

    wrong: Any = {"to": 5}
    async with monque:
        for attempt in (
            mail.enqueue(**wrong),
            mail.schedule("@daily", **wrong),
            monque.enqueue("mail", wrong),
            monque.enqueue("post", wrong),
            monque.enqueue_many([("mail", {"to": "a"}), ("mail", wrong)]),
            monque.schedule("@daily", "mail", wrong),
        ):
            with pytest.raises(InvalidPayloadError, match=r"data\['to'\]: expected a valid string, got 5"):
                await attempt
        with pytest.raises(InvalidPayloadError):
            mail.new(**wrong)
        await monque.enqueue("other", wrong)
    assert bench.count() == bench.count(name="other") == 1


async def test_a_secret_is_not_written(bench: Bench) -> None:
    monque = bench.monque()

    @monque.worker("login")
    async def login(password: SecretStr) -> None:
        raise NotImplementedError

    async with monque:
        with pytest.raises(InvalidPayloadError, match=r"^data\['password'\]: expected a value BSON can hold"):
            await login.enqueue(SecretStr("hidden"))
    assert bench.count() == 0


async def test_a_job_that_does_not_fit_fails_and_says_why(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)

    @monque.worker("mail")
    async def mail(to: str) -> None:
        raise NotImplementedError

    failed: list[BaseException] = []
    monque.on("job:fail", lambda event: failed.append(event.error))
    async with monque:
        bench.insert("mail", data={"to": 5})
        await monque.start()
        await eventually(lambda: failed)
    assert isinstance(failed[0], InvalidPayloadError)
    assert str(failed[0]) == "data['to']: expected a valid string, got 5"


async def test_untyped_values_travel_as_well(bench: Bench) -> None:
    monque, seen = bench.monque(polling=NO_POLLS), Seen()

    @monque.worker("anything")
    async def anything(job: Job[Any]) -> None:
        seen.calls.append(job.data)

    async with working(monque):
        await monque.enqueue("anything", {"price": Decimal("1.2"), "tags": {1}, "id": UUID(int=5)})
        assert await seen.wait() == [{"price": Decimal128("1.2"), "tags": [1], "id": UUID(int=5)}]


async def test_the_users_own_stand_ins_come_first(bench: Bench) -> None:
    seen = Seen()
    registry = TypeRegistry(fallback_encoder=lambda value: "theirs" if isinstance(value, Decimal) else value)
    async with AsyncMongoClient[dict[str, Any]](bench.uri) as client:
        codec: CodecOptions[dict[str, Any]] = CodecOptions(type_registry=registry)
        monque = Monque(client.get_default_database(codec_options=codec))

        @monque.worker("anything")
        async def anything(job: Job[Any]) -> None:
            seen.calls.append(job.data)

        async with working(monque):
            await monque.enqueue("anything", {"price": Decimal("1.2"), "tags": {1}})
            assert await seen.wait() == [{"price": "theirs", "tags": [1]}]


async def test_plain_functions_do_not_block_the_loop(bench: Bench) -> None:
    monque, seen = bench.monque(polling=NO_POLLS), Seen()
    going_on = threading.Event()

    @monque.worker("blocking")
    def blocking(number: int) -> None:
        assert going_on.wait(60)
        seen.calls.append((number, threading.current_thread() is threading.main_thread()))

    async with working(monque):
        await blocking.enqueue(3)
        await eventually(lambda: bench.count(status="processing"))
        going_on.set()
        assert await seen.wait() == [(3, False)]


async def test_jobs_of_older_names_are_run_within_one_limit(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS, concurrency=Concurrency(per_worker=50))
    running, most = 0, 0
    names: Counter[str] = Counter()

    @monque.worker("new", concurrency=3, aliases=["old", "oldest"])
    async def new(job: Job[Any]) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running -= 1
        names[job.name] += 1

    for name in ("new", "old", "oldest"):
        bench.insert_many({"name": name} for _ in range(40))
    async with working(monque):
        await eventually(lambda: names.total() == 120)
        assert (await new.enqueue({})).job.name == "new"
        await eventually(lambda: names["new"] == 41)
        await monque.enqueue("oldest")
        await eventually(lambda: names["oldest"] == 41)
    assert most <= 3
    assert names == {"new": 41, "old": 40, "oldest": 41}


async def test_settings_go_along(bench: Bench) -> None:
    monque = bench.monque()

    @monque.worker("mail")
    async def mail(to: str) -> None:
        raise NotImplementedError

    urgent = mail.with_(priority=5, unique_key="ada", delay=60)
    async with monque:
        first = (await urgent.enqueue("ada")).job
        second = (await urgent.enqueue("grace")).job
        assert (second.id, second.data) == (first.id, {"to": "ada"})
        assert (first.priority, first.unique_key) == (5, "ada")
        assert first.next_run_at - first.created_at == timedelta(seconds=60)
        plain = (await mail.enqueue("ada")).job
        assert (plain.priority, plain.unique_key) == (0, None)
        daily = await mail.with_(timezone="Europe/Berlin", unique_key="daily").schedule("0 9 * * *", "ada")
        assert (daily.repeat_interval, daily.timezone, daily.unique_key) == ("0 9 * * *", "Europe/Berlin", "daily")
        with pytest.raises(InvalidArgumentError, match="nothing: the expression says when"):
            await urgent.schedule("@daily", "ada")


async def test_a_session_goes_along(bench: Bench) -> None:
    async with AsyncMongoClient[dict[str, Any]](bench.uri) as client, Monque(client) as monque:

        @monque.worker("mail")
        async def mail(to: str) -> None:
            raise NotImplementedError

        async with client.start_session() as session, await session.start_transaction():
            within = mail.with_(session=session)
            await within.enqueue("ada")
            await within.enqueue_many([mail.new("grace")])
            await within.schedule("@daily", "edsger")
            assert bench.count() == 0
        assert bench.count() == 3


async def test_many_jobs_of_one_worker(bench: Bench) -> None:
    monque = bench.monque()

    @monque.worker("resize")
    async def resize(page: int) -> None:
        raise NotImplementedError

    async def pages() -> AsyncIterator[NewJob]:
        for page in range(3):
            yield resize.new(page)

    def foreign() -> Iterator[NewJob]:
        yield NewJob(name="other")

    async with monque:
        for source in ([resize.new(page) for page in range(3)], (resize.new(page) for page in range(3)), pages()):
            jobs = await resize.enqueue_many(source)
            assert [job.data for job in jobs] == [{"page": 0}, {"page": 1}, {"page": 2}]
        nonsense: list[Any] = [[NewJob(name="other")], [("resize", {"page": 1})], foreign()]
        for wrong in nonsense:
            with pytest.raises(InvalidArgumentError, match="expected jobs of the worker 'resize', made by its `new`"):
                await resize.enqueue_many(wrong)
        no_jobs: Any = 5
        with pytest.raises(InvalidArgumentError, match="expected an iterable of jobs of the worker 'resize'"):
            await resize.enqueue_many(no_jobs)
    assert bench.count() == 9


async def test_a_router_is_included_before_and_while_an_instance_works(bench: Bench) -> None:
    seen, router, monque = Seen(), Router(), bench.monque(polling=NO_POLLS)
    monque.include(router)
    monque.include(router)

    @router.worker("first")
    async def first(to: str) -> None:
        seen.calls.append(to)

    async with working(monque):

        @router.worker("second")
        async def second(to: str) -> None:
            seen.calls.append(to)

        await second.with_(priority=1).enqueue("grace")
        await seen.wait(1)
        await first.enqueue("ada")
        assert await seen.wait(2) == ["grace", "ada"]


async def test_jobs_go_to_where_the_router_was_included_last(bench: Bench) -> None:
    router = Router()

    @router.worker("mail")
    async def mail(to: str) -> None:
        raise NotImplementedError

    later = mail.with_(delay=60)
    here, there = bench.monque(collection="here"), bench.monque(collection="there")
    here.include(router)
    there.include(router)
    async with here, there:
        await mail.enqueue("ada")
        await later.enqueue("grace")
    assert bench.database["there"].count_documents({}) == 2
    assert bench.database["here"].count_documents({}) == 0


async def test_declaring_the_same_schedule_again_changes_nothing(bench: Bench) -> None:
    monque = bench.monque()
    declare_everything(monque, Seen())
    async with monque:
        first = await monque.schedule("@daily", "everything", VALUES)
        before = bench.find(first)
        assert (await monque.schedule("@daily", "everything", VALUES)).id == first.id
        assert bench.find(first) == before
        # A name that nobody here has a worker for, and a moment that is cut to milliseconds.
        for data in ({"price": Decimal(1)}, {"at": datetime(2026, 3, 1, 12, 0, 0, 5678, tzinfo=UTC)}):
            first = await monque.schedule("@daily", "untyped", data)
            before = bench.find(first)
            assert (await monque.schedule("@daily", "untyped", data)).id == first.id
            assert bench.find(first) == before
        first = await monque.schedule("@daily", "untyped", {"price": Decimal(1)}, unique_key="a")
        changed = await monque.schedule("@daily", "untyped", {"price": Decimal(2)}, unique_key="a")
        assert (changed.id, changed.data) == (first.id, {"price": Decimal128("2")})
