"""Questions to the database, and how they end."""

from __future__ import annotations

import asyncio

import pytest
from pymongo.errors import AutoReconnect

from monque._questions import Questions
from monque._shutdown import Shutdown
from monque.testing import eventually


@pytest.fixture
def questions() -> Questions:
    return Questions(10, lambda _: None, Shutdown())


async def test_a_cancellation_that_leaks_out_of_the_driver_is_a_failure_of_the_database(questions: Questions) -> None:
    async def leaking() -> None:
        raise asyncio.CancelledError

    with pytest.raises(AutoReconnect, match="gave up waiting"):
        await questions.ask(leaking())
    assert not questions.are_open


async def test_whoever_asks_can_be_cancelled(questions: Questions) -> None:
    asking = asyncio.create_task(questions.ask(asyncio.Event().wait()))
    await eventually(lambda: questions.are_open)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not questions.are_open
