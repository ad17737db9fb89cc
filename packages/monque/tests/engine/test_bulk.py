"""Many jobs in one call, from lists and from sources of any length."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient

from monque import (
    ConnectionError,
    InvalidArgumentError,
    InvalidJobIdentifierError,
    InvalidPayloadError,
    Monque,
    NewJob,
    PayloadTooLargeError,
    UniqueKeyConflictError,
)
from monque._bulk import LARGEST_BATCH_BYTES
from monque._intake import LARGEST_PAYLOAD

from .support import Bench, Commands, Lab

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable

MEGABYTE = 1024 * 1024


def read(bench: Bench, count: int, seen: list[int]) -> Generator[tuple[str, int]]:
    """Items, and how many jobs were stored when each was asked for."""
    for number in range(count):
        seen.append(bench.count())
        yield "work", number


async def later(items: Iterable[Any]) -> AsyncGenerator[Any]:
    for item in items:
        yield item


FORMS = pytest.mark.parametrize("form", [iter, later, dict.fromkeys], ids=["generator", "async", "keys of a dict"])


@FORMS
async def test_any_iterable_is_enqueued_in_its_order(bench: Bench, form: Callable[[Any], Any]) -> None:
    async with bench.monque() as monque:
        jobs = await monque.enqueue_many(form([("work", number) for number in range(2500)]))
        assert [job.data for job in jobs] == list(range(2500))
        assert bench.count() == 2500
        assert {row["_id"]: row["data"] for row in bench.jobs.find()} == {job.id: job.data for job in jobs}


@pytest.mark.parametrize("form", [list, tuple, iter, later], ids=lambda form: form.__name__)
async def test_nothing_is_enqueued_of_nothing(bench: Bench, form: Callable[[Any], Any]) -> None:
    commands = Commands()
    async with AsyncMongoClient[Any](bench.uri, event_listeners=[commands]) as client, Monque(client) as monque:
        commands.names.clear()
        assert await monque.enqueue_many(form([])) == []
        assert commands.names == []


async def test_a_generator_is_not_read_ahead_of_what_is_written(bench: Bench) -> None:
    seen: list[int] = []
    async with bench.monque() as monque:
        await monque.enqueue_many(read(bench, 2001, seen))
    assert seen == [0] * 1000 + [1000] * 1000 + [2000]


async def test_a_batch_is_one_round_trip(bench: Bench) -> None:
    commands = Commands()
    async with AsyncMongoClient[Any](bench.uri, event_listeners=[commands]) as client, Monque(client) as monque:
        commands.names.clear()
        await monque.enqueue_many(("work", number) for number in range(2500))
        assert commands.names == ["insert"] * 3


async def test_large_jobs_make_small_batches(bench: Bench) -> None:
    large = "x" * (LARGEST_BATCH_BYTES // 3)
    async with bench.monque() as monque:
        stream = monque.enqueue_stream(("work", data) for data in [large, large, large, 1, 2, large, large])
        assert [len(jobs) async for jobs in stream] == [2, 4, 1]


async def test_one_that_fills_a_batch_alone_goes_alone(bench: Bench) -> None:
    largest = "x" * (LARGEST_PAYLOAD - 100)
    async with bench.monque() as monque:
        stream = monque.enqueue_stream(("work", data) for data in [largest, largest])
        assert [len(jobs) async for jobs in stream] == [1, 1]


# --- what is wrong --------------------------------------------------------------------------------------------------

WRONG = pytest.mark.parametrize(
    ("item", "error"),
    [
        ("work", InvalidArgumentError),
        (("bad name", 1), InvalidJobIdentifierError),
        (NewJob(name="work", data=object()), InvalidPayloadError),
        (("work", "x" * 17 * MEGABYTE), PayloadTooLargeError),
    ],
    ids=["no item", "name", "payload", "size"],
)


@WRONG
async def test_a_sequence_is_checked_whole_before_anything_is_written(
    bench: Bench, item: Any, error: type[InvalidArgumentError]
) -> None:
    async with bench.monque() as monque:
        with pytest.raises(error, match=r"^jobs\[1500\]: .*; nothing was written$"):
            await monque.enqueue_many([*[("work", 1)] * 1500, item, ("work", 2)])
        assert bench.count() == 0


@WRONG
@pytest.mark.parametrize("form", [iter, later], ids=["generator", "async"])
async def test_a_stream_stops_at_the_first_wrong_item(
    bench: Bench, form: Callable[[Any], Any], item: Any, error: type[InvalidArgumentError]
) -> None:
    async with bench.monque() as monque:
        with pytest.raises(error, match=r"^jobs\[2500\]: .*; 2,000 jobs before it are stored$"):
            await monque.enqueue_many(form([*[("work", 1)] * 2500, item]))
        assert bench.count() == 2000


@pytest.mark.parametrize("source", [None, 1, NewJob(name="work")], ids=["None", "number", "NewJob"])
async def test_what_cannot_be_iterated_is_refused(bench: Bench, source: Any) -> None:
    async with bench.monque() as monque:
        with pytest.raises(InvalidArgumentError, match=r"^jobs: expected a list or another iterable of NewJob values"):
            await monque.enqueue_many(source)
        with pytest.raises(InvalidArgumentError, match=r"^jobs: expected"):
            monque.enqueue_stream(source)


def test_a_stream_without_a_connection_is_refused_at_the_call() -> None:
    with pytest.raises(ConnectionError, match="not connected"):
        Monque().enqueue_stream([])


async def test_an_error_of_the_source_comes_out_and_what_was_stored_stays(bench: Bench) -> None:
    def broken() -> Generator[tuple[str, int]]:
        yield from (("work", number) for number in range(1500))
        raise LookupError("no more pages")

    async with bench.monque() as monque:
        with pytest.raises(LookupError, match="no more pages"):
            await monque.enqueue_many(broken())
        assert bench.count() == 1000


async def test_a_write_that_fails_says_what_was_stored_before(lab: Lab) -> None:
    async with lab.monque() as monque:
        stream = monque.enqueue_stream(("work", number) for number in range(2000))
        assert len(await anext(stream)) == 1000
        with (
            lab.failing("insert", errorCode=8000),
            pytest.raises(ConnectionError, match="cannot enqueue the jobs") as caught,
        ):
            await anext(stream)
    assert caught.value.__notes__ == ["1,000 jobs of the batches before are stored"]
    assert lab.count() == 1000


async def test_a_job_that_the_server_refuses_is_told(bench: Bench) -> None:
    async with bench.monque() as monque:
        bench.database.command("collMod", "monque_jobs", validator={"data": {"$ne": 1}})
        with pytest.raises(ConnectionError, match="cannot enqueue the jobs"):
            await monque.enqueue_many(iter([("work", 0), ("work", 1)]))


# --- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [list, iter, later], ids=lambda form: form.__name__)
async def test_a_stream_gives_back_each_batch_as_stored(bench: Bench, form: Callable[[Any], Any]) -> None:
    async with bench.monque() as monque:
        numbers = 0
        async for jobs in monque.enqueue_stream(form([("work", number) for number in range(2100)])):
            assert [job.data for job in jobs] == list(range(numbers, numbers + len(jobs)))
            numbers += len(jobs)
            assert bench.count() == numbers
        assert numbers == 2100


async def test_a_stream_that_is_left_reads_and_writes_no_more(bench: Bench) -> None:
    closed: list[bool] = []

    async def endless() -> AsyncGenerator[tuple[str, int]]:
        try:
            while True:
                yield "work", 1
        finally:
            closed.append(True)

    async with bench.monque() as monque, aclosing(endless()) as source:
        async with aclosing(monque.enqueue_stream(source)) as stream:
            async for _ in stream:
                break
        assert bench.count() == 1000
    assert closed == [True]


async def test_what_is_stored_is_worked_on_while_more_is_read(bench: Bench) -> None:
    async with bench.monque() as monque:
        done: list[int] = []

        @monque.worker("work")
        async def work(job: Any) -> None:
            done.append(job.data)

        await monque.start()
        async for jobs in monque.enqueue_stream(("work", number) for number in range(1500)):
            last = jobs[-1].data
            while last not in done:
                await monque.jobs.get(jobs[-1].id)
        assert sorted(done) == list(range(1500))


async def test_a_unique_key_holds_within_and_across_batches(bench: Bench) -> None:
    async with bench.monque() as monque:
        jobs = await monque.enqueue_many(
            NewJob(name="work", data=number, unique_key=str(number % 3)) for number in range(1002)
        )
        assert [job.data for job in jobs] == [0, 1, 2] * 334
        assert bench.count() == 3


async def test_what_becomes_of_holders_of_keys_is_said_job_by_job(bench: Bench) -> None:
    async with bench.monque() as monque:
        await monque.enqueue("work", 0, unique_key="k")
        jobs = await monque.enqueue_many(
            NewJob(name="work", data=number, unique_key="k", on_conflict="replace" if number == 1001 else "return")
            for number in range(1, 1003)
        )
        assert [job.data for job in jobs] == [0] * 1000 + [1001, 0]
        assert [row["data"] for row in bench.jobs.find()] == [1001]
        with pytest.raises(UniqueKeyConflictError) as caught:
            await monque.enqueue_many(iter([NewJob(name="work", unique_key="k", on_conflict="raise")]))
        assert caught.value.__notes__ == ["0 jobs of the batches before are stored"]


async def test_streams_are_part_of_a_transaction(bench: Bench) -> None:
    async with AsyncMongoClient[Any](bench.uri) as client, Monque(client) as monque, client.start_session() as session:
        async with await session.start_transaction():
            await monque.enqueue_many((("work", number) for number in range(1100)), session=session)
            assert [len(jobs) async for jobs in monque.enqueue_stream([("work", 1)], session=session)] == [1]
            assert bench.count() == 0
        assert bench.count() == 1101
        await session.start_transaction()
        await monque.enqueue_many(iter([("work", 1)]), session=session)
        await session.abort_transaction()
        assert bench.count() == 1101


# --- a NewJob alone -------------------------------------------------------------------------------------------------


async def test_a_new_job_can_be_enqueued_as_it_is(bench: Bench) -> None:
    async with bench.monque() as monque:
        job = await monque.enqueue(NewJob(name="work", data={"a": 1}, delay=60, unique_key="k", priority=3))
        assert (job.name, job.data, job.unique_key, job.priority) == ("work", {"a": 1}, "k", 3)
        assert job.next_run_at > job.created_at
        assert await monque.jobs.get(job.id) == job


@pytest.mark.parametrize(
    "more",
    [{"data": {}}, {"run_at": "now"}, {"delay": 0}, {"unique_key": "k"}, {"priority": 0}, {"on_conflict": "raise"}],
    ids=lambda more: next(iter(more)),
)
async def test_nothing_may_be_said_beside_a_new_job(bench: Bench, more: dict[str, Any]) -> None:
    async with bench.monque() as monque:
        with pytest.raises(InvalidArgumentError, match="expected nothing beside a NewJob") as caught:
            await monque.enqueue(NewJob(name="work"), **more)
        assert caught.value.argument in more
        assert bench.count() == 0


async def test_but_it_can_be_part_of_a_transaction(bench: Bench) -> None:
    async with AsyncMongoClient[Any](bench.uri) as client, Monque(client) as monque, client.start_session() as session:
        async with await session.start_transaction():
            await monque.enqueue(NewJob(name="work"), session=session)
            assert bench.count() == 0
        assert bench.count() == 1
