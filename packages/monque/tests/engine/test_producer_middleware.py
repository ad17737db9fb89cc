"""Producer middleware: around every write of new jobs, and what it adds to their headers."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from monque import ConfigurationError, InvalidArgumentError, Job, Monque, MonqueError, NewJob
from monque.sync import Monque as SyncMonque

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from .support import Bench

tenant: ContextVar[str] = ContextVar("tenant")


class Watch:
    """Notes the writes, and adds headers to them."""

    def __init__(self, headers: Mapping[str, str] | None = None) -> None:
        self.headers = headers
        self.writes: list[Sequence[Job[Any]]] = []
        self.errors: list[BaseException] = []

    def __call__(self, jobs: Sequence[Job[Any]]) -> AbstractContextManager[Mapping[str, str] | None]:
        return self._around(jobs)

    @contextmanager
    def _around(self, jobs: Sequence[Job[Any]]) -> Generator[Mapping[str, str] | None]:
        self.writes.append(jobs)
        try:
            yield self.headers
        except BaseException as error:
            self.errors.append(error)
            raise


async def test_every_write_takes_place_within_it(bench: Bench) -> None:
    async def pages() -> AsyncGenerator[NewJob]:
        for _ in range(1001):
            yield NewJob(name="resize")

    monque = bench.monque()
    watch = monque.use_producer(Watch({"a": "1"}))

    async def greet(to: str) -> None: ...

    worker = monque.worker("greet", greet)
    async with monque:
        stored = [await monque.enqueue("greet", {"to": "ada"}), await monque.now("greet", {"to": "ada"})]
        stored.append((await worker.enqueue("ada")).job)
        stored += await monque.enqueue_many([("a", {}), ("b", {})])
        stored += [job async for batch in monque.enqueue_stream(pages()) for job in batch]
        await monque.enqueue_many([])
        scheduled = await monque.schedule("@daily", "report")
    assert [len(write) for write in watch.writes] == [1, 1, 1, 2, 1000, 1]
    assert [job.id for write in watch.writes for job in write] == [job.id for job in stored]
    assert all(job.headers == {"a": "1"} for job in stored)
    assert bench.count(headers={"a": "1"}) == 1006
    assert scheduled.headers == {}


async def test_the_first_is_the_outermost_and_what_a_job_has_is_left_alone(bench: Bench) -> None:
    monque = bench.monque()
    outer, silent, inner = Watch({"a": "outer", "b": "outer"}), Watch(), Watch({"b": "inner", "c": "inner"})
    for watch in (outer, silent, inner):
        monque.use_producer(watch)
    async with monque:
        job = await monque.enqueue("greet", headers={"c": "own"})
    assert job.headers == {"a": "outer", "b": "outer", "c": "own"}
    assert [dict(watch.writes[0][0].headers) for watch in (outer, silent, inner)] == [
        {"c": "own"},
        {"a": "outer", "b": "outer", "c": "own"},
        {"a": "outer", "b": "outer", "c": "own"},
    ]


async def test_a_job_that_takes_the_place_of_another_brings_its_headers(bench: Bench) -> None:
    monque = bench.monque()
    monque.use_producer(Watch({"a": "1"}))
    async with monque:
        one = await monque.enqueue("greet", unique_key="k", headers={"a": "0"})
        (other,) = await monque.enqueue_many([NewJob(name="greet", unique_key="k", on_conflict="replace")])
    assert (other.id, one.headers, other.headers) == (one.id, {"a": "0"}, {"a": "1"})


async def test_it_is_in_the_context_of_whoever_enqueues(bench: Bench) -> None:
    @contextmanager
    def of_tenant(_: Sequence[Job[Any]]) -> Generator[Mapping[str, str]]:
        yield {"tenant": tenant.get("none")}

    monque = bench.monque()
    monque.use_producer(of_tenant)
    async with monque:
        tenant.set("acme")
        assert (await monque.enqueue("greet")).headers == {"tenant": "acme"}


async def test_what_goes_wrong_comes_through_it(bench: Bench) -> None:
    monque = bench.monque()
    watch = monque.use_producer(Watch({"no name": "x"}))
    async with monque:
        with pytest.raises(InvalidArgumentError, match="headers: expected names"):
            await monque.enqueue("greet")
        watch.headers = None
        async with monque._connection().client.start_session() as session:
            await session.end_session()
            with pytest.raises(Exception, match="ended session") as caught:
                await monque.enqueue("greet", session=session)
    assert len(watch.errors) == 2
    assert watch.errors[1] is caught.value
    assert bench.count() == 0


async def test_it_cannot_swallow_an_error(bench: Bench) -> None:
    @contextmanager
    def swallowing(_: Sequence[Job[Any]]) -> Generator[None]:
        with suppress(Exception):
            yield

    monque = bench.monque()
    monque.use_producer(swallowing)
    async with monque, monque._connection().client.start_session() as session:
        await session.end_session()
        with pytest.raises(MonqueError, match="a producer middleware has swallowed the error of a write") as caught:
            await monque.enqueue("greet", session=session)
        assert "ended session" in str(caught.value.__cause__)


def test_without_an_event_loop(bench: Bench) -> None:
    with SyncMonque(bench.database) as monque:
        watch = monque.use_producer(Watch({"a": "1"}))
        monque.enqueue("greet")
        monque.enqueue_many([("greet", {}), ("greet", {})])
        with bench.client.start_session() as session:
            job = monque.enqueue("greet", session=session, headers={"b": "2"})
    assert job.headers == {"a": "1", "b": "2"}
    assert [len(write) for write in watch.writes] == [1, 2, 1]
    assert bench.count(**{"headers.a": "1"}) == 4


@pytest.mark.parametrize("middleware", [None, "tracing"])
def test_what_is_no_middleware_is_refused(middleware: Any) -> None:
    with pytest.raises(
        ConfigurationError, match="middleware: expected a function of jobs that gives a context manager"
    ):
        Monque().use_producer(middleware)
