from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monque._batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Callable


class Writer:
    """Keeps the groups it is handed, and holds each back until it is let go."""

    def __init__(self) -> None:
        self.begun: list[list[int]] = []
        self.ended: list[list[int]] = []
        self.entered = asyncio.Event()
        self._gate = asyncio.Semaphore(0)

    async def __call__(self, group: list[int]) -> None:
        assert len(self.begun) == len(self.ended), "two groups at a time"
        self.begun.append(group)
        self.entered.set()
        await self._gate.acquire()
        self.ended.append(group)

    async def next_group(self) -> None:
        """Wait until a group has arrived."""
        await self.entered.wait()
        self.entered.clear()

    def let_go(self, groups: int = 1) -> None:
        for _ in range(groups):
            self._gate.release()


@pytest.fixture
def within() -> Callable[[], asyncio.Timeout]:
    """Ends a test that hangs."""
    return lambda: asyncio.timeout(5)


async def test_a_single_item_is_written_at_once() -> None:
    writer = Writer()
    batcher = Batcher(writer, largest=10)
    batcher.add(1)
    await asyncio.sleep(0)  # one turn of the loop for the task to begin,
    await asyncio.sleep(0)  # one for others to join
    assert writer.begun == [[1]]
    assert len(batcher) == 0


async def test_items_of_the_same_turn_are_written_together() -> None:
    writer = Writer()
    writer.let_go()
    batcher = Batcher(writer, largest=10)

    async def add(item: int) -> None:
        batcher.add(item)

    async with asyncio.TaskGroup() as group:
        for item in range(5):
            group.create_task(add(item))
    await batcher.flush()
    assert writer.ended == [[0, 1, 2, 3, 4]]


async def test_what_comes_in_during_a_write_makes_up_the_next_group(within: Callable[[], asyncio.Timeout]) -> None:
    writer = Writer()
    batcher = Batcher(writer, largest=10)
    async with within():
        batcher.add(1)
        await writer.next_group()
        for item in (2, 3, 4):
            batcher.add(item)
        assert len(batcher) == 3
        writer.let_go()
        await writer.next_group()
        assert writer.begun == [[1], [2, 3, 4]]
        writer.let_go()
        await batcher.flush()
    assert writer.ended == [[1], [2, 3, 4]]


async def test_no_group_is_larger_than_the_largest() -> None:
    writer = Writer()
    writer.let_go(3)
    batcher = Batcher(writer, largest=3)
    for item in range(7):
        batcher.add(item)
    await batcher.flush()
    assert writer.ended == [[0, 1, 2], [3, 4, 5], [6]]


async def test_flush_waits_for_what_is_being_written_and_for_what_is_added_meanwhile(
    within: Callable[[], asyncio.Timeout],
) -> None:
    writer = Writer()
    batcher = Batcher(writer, largest=1)
    async with within():
        batcher.add(1)
        await writer.next_group()
        flush = asyncio.create_task(batcher.flush())
        await asyncio.sleep(0)
        batcher.add(2)
        writer.let_go()
        await writer.next_group()
        assert not flush.done()
        writer.let_go()
        await flush
    assert writer.ended == [[1], [2]]


async def test_flush_of_nothing_returns_at_once() -> None:
    await Batcher(Writer(), largest=1).flush()


async def test_after_a_pause_writing_begins_again() -> None:
    writer = Writer()
    writer.let_go(2)
    batcher = Batcher(writer, largest=10)
    for item in (1, 2):
        batcher.add(item)
        await batcher.flush()
    assert writer.ended == [[1], [2]]


async def test_whoever_added_an_item_may_be_cancelled(within: Callable[[], asyncio.Timeout]) -> None:
    writer = Writer()
    batcher = Batcher(writer, largest=10)

    async def add_and_wait() -> None:
        batcher.add(1)
        await batcher.flush()

    async with within():
        caller = asyncio.create_task(add_and_wait())
        await writer.next_group()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        batcher.add(2)
        writer.let_go(2)
        await batcher.flush()
    assert writer.ended == [[1], [2]]


@given(turns=st.lists(st.integers(0, 6), max_size=12), largest=st.integers(1, 5))
def test_every_item_is_written_once_and_in_order(turns: list[int], largest: int) -> None:
    groups: list[list[int]] = []

    async def write(group: list[int]) -> None:
        await asyncio.sleep(0)
        groups.append(group)

    async def produce() -> int:
        batcher = Batcher(write, largest=largest)
        item = 0
        for number in turns:
            for _ in range(number):
                batcher.add(item)
                item += 1
            await asyncio.sleep(0)
        await batcher.flush()
        assert len(batcher) == 0
        return item

    total = asyncio.run(produce())
    assert [item for group in groups for item in group] == list(range(total))
    assert all(1 <= len(group) <= largest for group in groups)
