from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from monque._threads import call_in_thread, start_in_thread
from monque.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Generator

current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="nothing")


@pytest.fixture
def gate() -> Generator[threading.Event]:
    """Holds threads back; opened at the end, so that none stays."""
    gate = threading.Event()
    yield gate
    gate.set()


async def test_the_result_comes_back() -> None:
    assert await start_in_thread(lambda: 42, name="answer") == 42


async def test_it_runs_in_a_daemon_thread_of_that_name() -> None:
    thread = await start_in_thread(threading.current_thread, name="answer")
    assert (thread.name, thread.daemon) == ("answer", True)
    assert thread is not threading.current_thread()


async def test_it_has_begun_before_anything_is_awaited() -> None:
    begun = threading.Event()
    future = start_in_thread(begun.set, name="begin")
    assert begun.wait(10)  # without the event loop
    await future


async def test_one_that_waits_keeps_no_other_from_running(gate: threading.Event) -> None:
    waiting = [start_in_thread(gate.wait, name="wait") for _ in range(50)]
    assert await start_in_thread(lambda: "through", name="pass") == "through"
    gate.set()
    assert all(await asyncio.gather(*waiting))


async def test_it_runs_in_a_copy_of_the_context() -> None:
    def change() -> str:
        seen = current.get()
        current.set("changed")
        return seen

    current.set("set by the caller")
    assert await start_in_thread(change, name="context") == "set by the caller"
    assert current.get() == "set by the caller"


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_whatever_it_raises_comes_back(kind: type[BaseException]) -> None:
    error = kind("no")

    def fail() -> None:
        raise error

    future = start_in_thread(fail, name="fail")
    await asyncio.wait([future])
    assert future.exception() is error


async def test_stop_iteration_comes_back_as_the_cause_of_another_error() -> None:
    with pytest.raises(RuntimeError, match=r"raised StopIteration\(3\)") as caught:
        await start_in_thread(lambda: next(_stopped()), name="stop")
    assert isinstance(caught.value.__cause__, StopIteration)


def _stopped() -> Any:
    class Stopped:
        def __next__(self) -> None:
            raise StopIteration(3)

    return Stopped()


def _fail_at(gate: threading.Event) -> None:
    gate.wait()
    raise ValueError("too late")


@pytest.mark.parametrize("call", [threading.Event.wait, _fail_at], ids=["returns", "raises"])
async def test_cancelling_leaves_the_thread_alone_and_drops_what_it_brings(call: Any, gate: threading.Event) -> None:
    thread: list[threading.Thread] = []

    def follow() -> None:
        thread.append(threading.current_thread())
        call(gate)

    future = start_in_thread(follow, name="follow")
    await start_in_thread(lambda: None, name="other")
    future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await future

    gate.set()
    await asyncio.to_thread(thread[0].join, 10)
    await asyncio.sleep(0)  # what the thread has brought is looked at now, and would make a noise
    assert not thread[0].is_alive()
    assert future.cancelled()


def test_a_thread_may_outlive_the_event_loop(gate: threading.Event) -> None:
    thread: list[threading.Thread] = []

    def outlive() -> None:
        thread.append(threading.current_thread())
        gate.wait()

    async def begin() -> None:
        future = start_in_thread(outlive, name="outlive")
        await eventually(lambda: thread)
        assert not future.done()

    asyncio.run(begin())
    gate.set()
    thread[0].join(10)
    assert not thread[0].is_alive()
    gc.collect()  # an exception in a thread would be a warning, and a warning fails the test


def test_a_stuck_one_does_not_keep_the_process_alive() -> None:
    program = """
import asyncio, threading
from monque._threads import start_in_thread
async def main(): start_in_thread(threading.Event().wait, name="stuck")
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


async def test_a_call_is_made_with_its_arguments_in_a_thread_of_its_name() -> None:
    def add(one: int, other: int) -> tuple[int, str]:
        return one + other, threading.current_thread().name

    assert await call_in_thread(add, 1, other=2) == (3, "monque-add")


async def test_a_call_is_waited_for_come_what_may(gate: threading.Event) -> None:
    begun = threading.Event()

    def call() -> str:
        begun.set()
        gate.wait()
        return "done"

    waiting = asyncio.create_task(call_in_thread(call))
    await eventually(begun.is_set)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    assert await waiting == "done"
