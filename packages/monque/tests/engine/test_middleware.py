"""Middleware: around every run, wherever its handler is."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from monque import ConfigurationError, Job, JobErrorEvent, Retry, Timeout
from monque.testing import eventually

from .support import Record, working

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager

    from .support import Bench, Document

PATIENCE = 60
ONCE = Retry(max_retries=1)


def noting(notes: list[str], name: str) -> Callable[[Job[Any]], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def middleware(job: Job[Any]) -> AsyncGenerator[None]:
        notes.append(f"{name} before {job.name}")
        try:
            yield
        except Exception as error:
            notes.append(f"{name} saw {error!r}")
            raise
        notes.append(f"{name} after {job.name}")

    return middleware


async def run_one(bench: Bench, monque: Any, name: str, data: object = None) -> Document:
    async with working(monque):
        job = await monque.enqueue(name, data)
        await eventually(lambda: bench.find(job).get("settledBy"), timeout=PATIENCE)
    return bench.find(job)


async def test_the_first_is_the_outermost(bench: Bench) -> None:
    monque, notes = bench.monque(), list[str]()
    monque.use(noting(notes, "outer"))
    monque.use(noting(notes, "inner"))

    @monque.worker("do")
    async def do(job: Job[Any]) -> None:
        notes.append("handler")

    await run_one(bench, monque, "do")
    assert notes == ["outer before do", "inner before do", "handler", "inner after do", "outer after do"]


@pytest.mark.parametrize("place", ["thread", "process"])
async def test_it_is_around_threads_and_processes_too(bench: Bench, handlers: Any, place: Any) -> None:
    monque, notes = bench.monque(retry=ONCE), list[str]()
    monque.use(noting(notes, "it"))
    monque.worker("fails", handlers.fail, run_in=place)
    document = await run_one(bench, monque, "fails", {"text": "no"})
    assert notes == ["it before fails", "it saw ValueError('no')"]
    assert (document["status"], document["failReason"]) == ("failed", "ValueError: no")


async def test_it_may_swallow_an_exception(bench: Bench, handlers: Any) -> None:
    monque = bench.monque(retry=ONCE)

    @monque.use
    @asynccontextmanager
    async def swallow(job: Job[Any]) -> AsyncGenerator[None]:
        with suppress(ValueError):
            yield

    monque.worker("fails", handlers.fail)
    assert (await run_one(bench, monque, "fails", {"text": "no"}))["status"] == "completed"


async def test_it_may_raise_another_exception(bench: Bench, handlers: Any) -> None:
    monque = bench.monque(retry=ONCE)

    @monque.use
    @asynccontextmanager
    async def another(job: Job[Any]) -> AsyncGenerator[None]:
        try:
            yield
        except ValueError as error:
            raise LookupError("instead") from error

    monque.worker("fails", handlers.fail)
    assert (await run_one(bench, monque, "fails", {"text": "no"}))["failReason"] == "LookupError: instead"


@pytest.mark.parametrize("when", ["at once", "before", "after"])
async def test_its_own_failure_is_that_of_the_job(bench: Bench, when: str) -> None:
    monque, begun = bench.monque(retry=ONCE), list[Job[Any]]()

    def broken(job: Job[Any]) -> AbstractAsyncContextManager[None]:
        if when == "at once":
            raise LookupError("mine")
        return later()

    @asynccontextmanager
    async def later() -> AsyncGenerator[None]:
        if when == "before":
            raise LookupError("mine")
        yield
        raise LookupError("mine")

    monque.use(broken)

    @monque.worker("do")
    async def do(job: Job[Any]) -> None:
        begun.append(job)

    document = await run_one(bench, monque, "do")
    assert (document["status"], document["failReason"]) == ("failed", "LookupError: mine")
    assert bool(begun) == (when == "after")


@pytest.mark.parametrize("when", ["before", "after"])
async def test_one_that_hangs_is_under_the_time_limit(bench: Bench, when: str) -> None:
    monque = bench.monque(retry=ONCE)
    record = Record(monque)

    @monque.use
    @asynccontextmanager
    async def hangs(job: Job[Any]) -> AsyncGenerator[None]:
        if when == "before":
            await asyncio.Event().wait()
        yield
        await asyncio.Event().wait()

    @monque.worker("do", timeout=Timeout(0.05, 30))
    async def do(job: Job[Any]) -> None:
        """Nothing to do."""

    document = await run_one(bench, monque, "do")
    assert (document["status"], document["failReason"][:15]) == ("failed", "JobTimeoutError")
    assert not record.of(JobErrorEvent)


def test_what_cannot_be_called_is_refused(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match="option middleware: expected a function of a job"):
        bench.monque().use(None)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
