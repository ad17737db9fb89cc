from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from monque import Cancel, Fail, JobTimeoutError, RetryIn, Snooze, current_job
from monque._execution import Executor
from monque._scope import Scope, current, in_child
from monque._settlement import reason
from monque.outcome import COMPLETED, Completed, Failed, Released
from monque.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from monque import Job, Middleware
    from monque.outcome import Outcome
    from monque.worker import AnyWorker


async def execute(worker: AnyWorker, job: Job[Any], *middleware: Middleware) -> Outcome:
    # In a context of its own, as the engine does it.
    return await asyncio.create_task(Executor(middleware).execute(worker, Scope(job)))


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that other processes find by the same name."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    return import_module("process_functions")


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

    run = Executor([]).execute(Worker("greet", handler), Scope(make_job()))
    with pytest.raises(KeyboardInterrupt):
        copy_context().run(run.send, None)


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


# --- verdicts -------------------------------------------------------------------------------------------------------

WHY = ValueError("no")
VERDICTS: list[tuple[Any, Callable[[Outcome, Any], bool]]] = [
    (Snooze(5), lambda outcome, said: outcome is said),
    (Cancel("no need"), lambda outcome, said: outcome is said),
    (Fail("no"), lambda outcome, said: outcome == Failed(said, final=True)),
    (Fail(WHY), lambda outcome, _: outcome == Failed(WHY, final=True)),
    (RetryIn(5), lambda outcome, said: outcome == Failed(said, delay=5)),
    (RetryIn(5, WHY), lambda outcome, _: outcome == Failed(WHY, delay=5)),
]


@pytest.mark.parametrize("way", ["returned", "raised"])
@pytest.mark.parametrize("kind", ["async", "plain", "typed"])
@pytest.mark.parametrize(
    ("said", "is_right"), VERDICTS, ids=["snooze", "cancel", "fail", "fail with error", "retry", "retry with error"]
)
async def test_a_verdict_means_the_same_returned_and_raised(
    said: Any,
    is_right: Callable[[Outcome, Any], bool],
    kind: str,
    way: str,
    make_job: Callable[..., Job[Any]],
) -> None:
    def plain(_: Job[Any]) -> object:
        if way == "raised":
            raise said
        return said

    async def handler(job: Job[Any]) -> object:
        return plain(job)

    async def typed(number: int) -> object:
        assert number == 3
        return plain(make_job())

    function: Any = {"plain": plain, "async": handler, "typed": typed}[kind]
    outcome = await execute(Worker("greet", function, store_result=True), make_job(data={"number": 3}))
    assert is_right(outcome, said)


async def test_what_a_handler_returns_comes_along_if_it_is_to_be_stored(make_job: Callable[..., Job[Any]]) -> None:
    async def handler(_: Job[Any]) -> int:
        return 42

    assert await execute(Worker("greet", handler), make_job()) is COMPLETED
    assert await execute(Worker("greet", handler, store_result=True), make_job()) == Completed(42)


# --- being told to end ----------------------------------------------------------------------------------------------


async def end(
    handler: Callable[[Job[Any]], Any], entered: asyncio.Event, job: Job[Any], ending: BaseException | None
) -> Outcome:
    """What comes of a handler that is told to end once it has begun, as the engine does that."""
    run = Scope(job)
    task = asyncio.create_task(Executor([]).execute(Worker("greet", handler), run))
    await entered.wait()
    run.should_stop, run.ending = True, ending
    task.cancel()
    return await task


async def test_a_handler_whose_time_is_up_has_failed_of_that(make_job: Callable[..., Job[Any]]) -> None:
    entered, job = asyncio.Event(), make_job()

    async def slow(_: Job[Any]) -> None:
        entered.set()
        await asyncio.Event().wait()

    late = JobTimeoutError(job.id, 3)
    outcome = await end(slow, entered, job, late)
    assert outcome == Failed(late)
    assert isinstance(late.__cause__, asyncio.CancelledError)
    position = late.__cause__.__traceback__
    names: list[str] = []
    while position is not None:
        names.append(position.tb_frame.f_code.co_name)
        position = position.tb_next
    assert "slow" in names  # the traceback shows where it was


async def test_what_a_handler_raises_on_its_way_out_is_not_what_it_failed_of(
    make_job: Callable[..., Job[Any]],
) -> None:
    entered, job = asyncio.Event(), make_job()
    odd = OSError("while cleaning up")

    async def slow(_: Job[Any]) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise odd

    late = JobTimeoutError(job.id, 3)
    assert await end(slow, entered, job, late) == Failed(late)
    assert late.__cause__ is odd
    entered.clear()
    # Told by a stop, it is released; and a reason that has a cause keeps it.
    assert await end(slow, entered, job, None) == Released()
    entered.clear()
    late.__cause__ = first = KeyError("first")
    assert await end(slow, entered, job, late) == Failed(late)
    assert late.__cause__ is first


async def test_a_handler_that_raises_its_own_ending_is_its_own_cause_of_nothing(
    make_job: Callable[..., Job[Any]],
) -> None:
    entered, job = asyncio.Event(), make_job()
    late = JobTimeoutError(job.id, 3)

    async def slow(_: Job[Any]) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise late

    assert await end(slow, entered, job, late) == Failed(late)
    assert late.__cause__ is None


async def test_a_handler_may_say_what_its_ending_means(make_job: Callable[..., Job[Any]]) -> None:
    entered, job, said = asyncio.Event(), make_job(), Snooze(5)

    async def slow(_: Job[Any]) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise said from None

    assert await end(slow, entered, job, JobTimeoutError(job.id, 3)) is said


async def test_a_handler_in_a_thread_is_waited_for_and_looks_whether_it_should_stop(
    make_job: Callable[..., Job[Any]],
) -> None:
    loop, entered, told, job = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), make_job()

    def slow(job: Job[Any]) -> None:
        loop.call_soon_threadsafe(entered.set)
        assert told.wait(10)
        raise ValueError("stopped" if job.should_stop else "not told")

    run, late = Scope(job), JobTimeoutError(job.id, 3)
    task = asyncio.create_task(Executor([]).execute(Worker("greet", slow), run))
    await entered.wait()
    run.should_stop, run.ending = True, late
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    told.set()
    assert await task == Failed(late)
    assert str(late.__cause__) == "stopped"


# --- middleware -----------------------------------------------------------------------------------------------------


def around(name: str, seen: list[str], *, swallow: bool = False) -> Middleware:
    @asynccontextmanager
    async def middleware(job: Job[Any]) -> AsyncGenerator[None]:
        assert current_job() is job
        seen.append(f"{name} before")
        try:
            yield
        except Exception as error:
            seen.append(f"{name} {type(error).__name__}")
            if not swallow:
                raise
        else:
            seen.append(f"{name} after")

    return middleware


async def test_the_first_middleware_is_the_outermost(make_job: Callable[..., Job[Any]]) -> None:
    seen: list[str] = []

    async def handler(_: Job[Any]) -> int:
        seen.append("handler")
        return 42

    worker: AnyWorker = Worker("greet", handler, store_result=True)
    assert await execute(worker, make_job(), around("a", seen), around("b", seen)) == Completed(42)
    assert seen == ["a before", "b before", "handler", "b after", "a after"]


async def test_what_a_handler_raises_comes_through_the_middleware(make_job: Callable[..., Job[Any]]) -> None:
    seen: list[str] = []
    error = ValueError("no")

    async def handler(_: Job[Any]) -> None:
        raise error

    worker: AnyWorker = Worker("greet", handler)
    assert await execute(worker, make_job(), around("a", seen), around("b", seen)) == Failed(error)
    assert seen == ["a before", "b before", "b ValueError", "a ValueError"]


async def test_a_middleware_may_swallow_an_exception(make_job: Callable[..., Job[Any]]) -> None:
    seen: list[str] = []

    async def handler(_: Job[Any]) -> None:
        raise Snooze(5)

    worker: AnyWorker = Worker("greet", handler)
    assert await execute(worker, make_job(), around("a", seen), around("b", seen, swallow=True)) is COMPLETED
    assert seen == ["a before", "b before", "b Snooze", "a after"]


async def test_a_middleware_that_fails_fails_the_run(make_job: Callable[..., Job[Any]]) -> None:
    seen: list[str] = []
    error = KeyError("middleware")

    def fails(_: Job[Any]) -> Any:
        raise error

    async def handler(_: Job[Any]) -> None:
        seen.append("handler")

    worker: AnyWorker = Worker("greet", handler)
    assert await execute(worker, make_job(), around("a", seen), fails) == Failed(error)
    assert seen == ["a before", "a KeyError"]


async def test_a_plain_function_sees_the_context_of_the_middleware(make_job: Callable[..., Job[Any]]) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")

    @asynccontextmanager
    async def middleware(job: Job[Any]) -> AsyncGenerator[None]:
        tenant.set(job.data["tenant"])
        yield

    def handler(_: Job[Any]) -> tuple[str, Any, bool]:
        return tenant.get(), current_job().id, threading.current_thread() is threading.main_thread()

    job = make_job(data={"tenant": "blue"})
    outcome = await execute(Worker("greet", handler, store_result=True), job, middleware)
    assert outcome == Completed(["blue", job.id, False])


# --- processes ------------------------------------------------------------------------------------------------------


async def test_a_function_in_a_process_is_part_of_its_run(in_process: Any, make_job: Callable[..., Job[Any]]) -> None:
    executor, notes, job = Executor([]), list[Any](), make_job(data={"number": 20})
    run = Scope(job, Journal(notes))
    worker: AnyWorker = Worker("double", in_process.double, run_in="process", store_result=True)
    try:
        assert await executor.execute(worker, run) == Completed([str(job.id), 40])
        assert [(note.fraction, note.message) for note in notes] == [(0.5, "half")]
    finally:
        await executor.close()


async def test_a_function_in_a_process_is_interrupted_by_its_ending(
    in_process: Any, make_job: Callable[..., Job[Any]]
) -> None:
    executor, notes, job = Executor([]), list[Any](), make_job()
    begun, late = asyncio.Event(), JobTimeoutError(job.id, 3)
    run = Scope(job, Journal(notes, begun.set))
    worker: AnyWorker = Worker("wait", in_process.wait, run_in="process")
    try:
        task = asyncio.create_task(executor.execute(worker, run))
        await begun.wait()
        run.ending = late
        task.cancel()
        assert await task == Failed(late)
        assert isinstance(late.__cause__, JobTimeoutError)
        assert "in wait" in late.__cause__.__notes__[0]
    finally:
        await executor.close()


@pytest.mark.parametrize("why", ["is_lost", "is_overdue"])
async def test_a_process_is_killed_when_nobody_waits_for_it(
    why: str, in_process: Any, make_job: Callable[..., Job[Any]]
) -> None:
    executor, notes = Executor([]), list[Any]()
    begun = asyncio.Event()
    run = Scope(make_job(), Journal(notes, begun.set))
    worker: AnyWorker = Worker("wait", in_process.wait_come_what_may, run_in="process")
    try:
        task = asyncio.create_task(executor.execute(worker, run))
        await begun.wait()
        task.cancel()  # a stop asks first
        await asyncio.sleep(0)
        setattr(run, why, True)
        task.cancel()
        assert await task == Released()
    finally:
        await executor.close()


class Journal:
    """Takes down what is said."""

    def __init__(self, notes: list[Any], told: Callable[[], None] = lambda: None) -> None:
        self._notes = notes
        self._told = told

    def note(self, scope: Scope, note: object) -> None:  # noqa: ARG002
        self._notes.append(note)
        self._told()


def test_in_a_process_a_scope_lasts_as_long_as_the_run(make_job: Callable[..., Job[Any]]) -> None:
    job, told = make_job(), list[object]()
    with in_child({"job": job}, told.append):
        assert current_job() is job
        current_job().progress(0.5)
        assert not job.should_stop
    assert len(told) == 1
    assert current() is None
