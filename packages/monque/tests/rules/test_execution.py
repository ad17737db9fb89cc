from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from monque._execution import Executor
from monque._scope import Scope
from monque._settlement import reason
from monque.outcome import Completed, Failed, Released
from monque.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

    from monque import Job
    from monque.outcome import Outcome
    from monque.worker import AnyWorker


async def execute(worker: AnyWorker, job: Job[Any]) -> Outcome:
    return await Executor([]).execute(worker, Scope(job))


class Mishap(BaseException):
    """An exception that is no Exception."""


@pytest.mark.parametrize("returned", [None, 42, False, RuntimeError("returned, not raised")], ids=repr)
async def test_a_handler_that_returns_has_completed(returned: object, make_job: Callable[..., Job[Any]]) -> None:
    job = make_job()
    seen: list[Job[Any]] = []

    async def handler(job: Job[Any]) -> object:
        seen.append(job)
        return returned

    assert await execute(Worker("greet", handler), job) == Completed()
    assert len(seen) == 1
    assert seen[0] is job


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        SystemExit(1),
        asyncio.CancelledError("leaked"),
        Mishap(),
        TimeoutError(),
        StopAsyncIteration(),
        BaseExceptionGroup("several", [SystemExit(), ValueError()]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_handler_raises_is_a_failure(error: BaseException, make_job: Callable[..., Job[Any]]) -> None:
    async def handler(_: Job[Any]) -> None:
        raise error

    outcome = await execute(Worker("greet", handler), make_job())
    assert isinstance(outcome, Failed)
    assert outcome.error is error
    assert not outcome.final


async def test_a_cancellation_from_the_handlers_own_affairs_is_a_failure(make_job: Callable[..., Job[Any]]) -> None:
    async def handler(_: Job[Any]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    outcome = await execute(Worker("greet", handler), make_job())
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, asyncio.CancelledError)


async def test_a_run_that_is_cancelled_from_outside_is_released(make_job: Callable[..., Job[Any]]) -> None:
    entered = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        entered.set()
        await asyncio.Event().wait()

    run = asyncio.create_task(execute(Worker("greet", handler), make_job()))
    await entered.wait()
    run.cancel()
    assert await run == Released()


async def test_a_run_that_finishes_in_spite_of_being_cancelled_has_completed(
    make_job: Callable[..., Job[Any]],
) -> None:
    entered = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    run = asyncio.create_task(execute(Worker("greet", handler), make_job()))
    await entered.wait()
    run.cancel()
    assert await run == Completed()


async def test_a_timeout_inside_a_handler_is_its_own_affair(make_job: Callable[..., Job[Any]]) -> None:
    async def handler(_: Job[Any]) -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    outcome = await execute(Worker("greet", handler), make_job())
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, TimeoutError)


def test_a_keyboard_interrupt_passes(make_job: Callable[..., Job[Any]]) -> None:
    async def handler(_: Job[Any]) -> None:
        raise KeyboardInterrupt

    run = execute(Worker("greet", handler), make_job())
    with pytest.raises(KeyboardInterrupt):
        run.send(None)


class Unspeakable(Exception):  # noqa: N818
    """Cannot be put into words."""

    @override
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Wrong(Exception):  # noqa: N818
    """Its words are no text."""

    @override
    def __str__(self) -> str:
        return None  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  # noqa: PLE0307


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (KeyError("key"), "KeyError: 'key'"),
        (Mishap("ouch"), "Mishap: ouch"),
        (SystemExit(3), "SystemExit: 3"),
        (Unspeakable(), "Unspeakable: (its message cannot be shown)"),
        (Wrong(), "Wrong: (its message cannot be shown)"),
        (ValueError("a\ud800b\udfff"), "ValueError: a?b?"),
        (ValueError("two\nlines"), "ValueError: two\nlines"),
        (ValueError("nul\0"), "ValueError: nul\0"),
        (ValueError("x" * 1988), "ValueError: " + "x" * 1988),
        (ValueError("x" * 1989), "ValueError: " + "x" * 1987 + "…"),
        (ValueError("🚀" * 10**6), "ValueError: " + "🚀" * 1987 + "…"),
    ],
    ids=lambda value: f"{value!r:.20}" if isinstance(value, str) else "",
)
def test_the_reason_is_the_kind_and_the_message(error: BaseException, kept: str) -> None:
    assert reason(error) == kept


@given(message=st.text(st.characters(), max_size=50) | st.text(st.characters(), min_size=1980, max_size=2100))
def test_a_reason_is_bounded_and_can_be_stored(message: str) -> None:
    kept = reason(ValueError(message))
    assert 0 < len(kept) <= 2000
    document = {"failReason": kept}
    assert bson.decode(bson.encode(document)) == document  # pyright: ignore[reportUnknownMemberType]
