from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from monque._upkeep import repeatedly
from monque._waiting import happens_within
from monque.events import Events

if TYPE_CHECKING:
    from monque import JobErrorEvent

SOON = 0.001
NEVER = 3600.0


async def test_an_action_is_repeated_while_the_block_lasts() -> None:
    calls = 0
    often = asyncio.Event()
    before = asyncio.all_tasks()

    async def action() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            often.set()

    async with asyncio.timeout(5), repeatedly(action, every=SOON, events=Events()):
        await often.wait()
    assert calls >= 3
    assert asyncio.all_tasks() == before, "it goes on after the block"


async def test_the_first_call_comes_after_the_interval_and_leaving_does_not_wait_for_it() -> None:
    async def action() -> None:
        raise AssertionError("called too early")

    events = Events()
    errors: list[JobErrorEvent] = []
    events.on("job:error", errors.append)
    async with asyncio.timeout(5), repeatedly(action, every=NEVER, events=events):
        await asyncio.sleep(0)
    assert errors == []


async def test_an_action_that_fails_is_reported_and_tried_again() -> None:
    calls = 0
    again = asyncio.Event()
    events = Events()
    errors: list[JobErrorEvent] = []
    events.on("job:error", errors.append)

    async def action() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            again.set()
            return
        raise ValueError(calls)

    async with asyncio.timeout(5), repeatedly(action, every=SOON, events=events):
        await again.wait()
    assert [(type(event.error), event.error.args, event.job) for event in errors] == [
        (ValueError, (1,), None),
        (ValueError, (2,), None),
    ]


class Slow:
    """An action that can be caught in the middle."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.proceed = asyncio.Event()
        self.finished = False

    async def __call__(self) -> None:
        self.entered.set()
        await self.proceed.wait()
        self.finished = True


async def test_leaving_waits_for_an_action_that_is_under_way() -> None:
    action = Slow()

    async def block() -> None:
        async with repeatedly(action, every=SOON, events=Events()):
            await action.entered.wait()

    async with asyncio.timeout(5):
        task = asyncio.create_task(block())
        await action.entered.wait()
        await asyncio.sleep(0)
        assert not task.done()
        action.proceed.set()
        await task
    assert action.finished


@pytest.mark.parametrize("times", [1, 2])
async def test_an_action_under_way_is_not_cancelled_with_the_block(times: int) -> None:
    action = Slow()

    async def block() -> None:
        async with repeatedly(action, every=SOON, events=Events()):
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        task = asyncio.create_task(block())
        await action.entered.wait()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        action.proceed.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert action.finished


async def test_an_error_in_the_block_comes_out_of_it() -> None:
    async def action() -> None: ...

    with pytest.raises(ValueError, match="mine"):
        async with repeatedly(action, every=NEVER, events=Events()):
            raise ValueError("mine")


async def test_what_has_happened_is_not_waited_for() -> None:
    event = asyncio.Event()
    event.set()
    assert await happens_within(event, NEVER)


async def test_what_happens_ends_the_waiting() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    async with asyncio.timeout(5):
        assert await happens_within(event, NEVER)


async def test_what_does_not_happen_is_waited_for_no_longer_than_the_time_given() -> None:
    async with asyncio.timeout(5):
        assert not await happens_within(asyncio.Event(), SOON)
