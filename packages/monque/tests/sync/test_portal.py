"""The way to an event loop in another thread."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

import pytest

from monque import BlockingCallError, ConnectionError
from monque._portal import Portal, refuse_to_block

if TYPE_CHECKING:
    from collections.abc import Generator


async def nothing() -> None:
    pass


@pytest.fixture
def portal() -> Generator[Portal]:
    portal = Portal()
    yield portal
    portal.close(nothing())


def test_a_call_runs_in_a_thread_that_keeps_no_process_alive(portal: Portal) -> None:
    async def thread() -> threading.Thread:
        return threading.current_thread()

    assert portal.call(thread()) is portal._thread
    assert portal._thread.daemon


def test_an_error_comes_out_as_it_is(portal: Portal) -> None:
    async def fail() -> NoReturn:
        raise LookupError("none")

    with pytest.raises(LookupError, match="none"):
        portal.call(fail())


def test_a_function_is_run_there_and_waited_for_also_from_there(portal: Portal) -> None:
    threads: list[threading.Thread] = []

    def inner() -> None:
        threads.append(threading.current_thread())

    portal.run(lambda: portal.run(inner))
    assert threads == [portal._thread]


def test_waiting_can_be_interrupted(portal: Portal) -> None:
    async def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        await asyncio.Event().wait()

    # Whoever runs the tests in the background of a shell has it ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            portal.call(interrupt())
    finally:
        signal.signal(signal.SIGINT, before)
    portal.call(nothing())


def test_after_closing_nothing_can_be_called() -> None:
    portal = Portal()
    portal.close(nothing())
    assert not portal._thread.is_alive()
    with pytest.raises(ConnectionError, match="closed by another thread before"):
        portal.call(nothing())


def test_what_is_under_way_when_it_closes_is_told() -> None:
    portal = Portal()
    begun = threading.Event()
    errors: list[BaseException] = []

    async def endless() -> None:
        begun.set()
        await asyncio.Event().wait()

    def call() -> None:
        try:
            portal.call(endless())
        except ConnectionError as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    begun.wait(10)
    portal.close(nothing())
    thread.join(10)
    assert [str(error) for error in errors] == ["closed by another thread while this call was under way"]


def test_a_farewell_that_fails_is_told_and_the_thread_ends() -> None:
    async def fail() -> NoReturn:
        raise LookupError("none")

    portal = Portal()
    with pytest.raises(LookupError):
        portal.close(fail())
    assert not portal._thread.is_alive()


def test_a_farewell_that_takes_too_long_is_cut_short() -> None:
    portal = Portal()
    with pytest.raises(TimeoutError):
        portal.close(_endless(), 0.01)
    portal._thread.join(10)
    assert not portal._thread.is_alive()


async def _endless() -> None:
    await asyncio.Event().wait()


def test_where_there_is_no_loop_blocking_is_fine() -> None:
    refuse_to_block()


async def test_on_a_loop_it_is_refused() -> None:
    with pytest.raises(BlockingCallError, match=r"use monque\.Monque and await"):
        refuse_to_block()
