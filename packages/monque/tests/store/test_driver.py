"""Waiting for the driver, which may hang, swallow a cancellation, or be harmed by one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.errors import AutoReconnect

from monque._store import driver
from monque._store.driver import call_off, knows_server, reached, undisturbed, within
from monque._store.stream import Stream
from monque.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pymongo.asynchronous.database import AsyncDatabase

    from .support import Document

Client = AsyncMongoClient[dict[str, Any]]


@pytest.fixture
async def lost() -> AsyncGenerator[Client]:
    """A client that knows no server."""
    async with Client("127.0.0.1", 1, connect=False) as client:
        yield client


@pytest.fixture
async def connected(database: AsyncDatabase[Document]) -> Client:
    """A client that knows its server."""
    await database.command("ping")
    return database.client


async def for_ever() -> None:
    await asyncio.Event().wait()


async def leaking() -> None:
    raise asyncio.CancelledError


async def swallowing(number: int) -> None:
    """Swallows so many cancellations, and goes on."""
    for _ in range(number):
        with suppress(asyncio.CancelledError):
            await for_ever()
    await for_ever()


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_AGAIN", 0.01)
    monkeypatch.setattr(driver, "_SOON", 0.01)


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_what_the_driver_says_in_time_is_passed_on() -> None:
    assert await within(60, asyncio.sleep(0, "said")) == "said"


async def test_a_driver_that_does_not_even_give_up_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_GRACE", 0.01)
    with pytest.raises(AutoReconnect, match=r"not even given up after 0\.02 s: it hangs"):
        await within(0.01, for_ever())


async def test_a_driver_that_hangs_in_what_it_does_about_it_is_given_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_GRACE", 0.01)
    quick(monkeypatch)
    with pytest.raises(AutoReconnect, match="it hangs"):
        await within(0.01, swallowing(3))
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_limit_can_be_cancelled() -> None:
    waiting = asyncio.create_task(within(60, for_ever()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("limited", [True, False])
async def test_a_cancellation_that_leaks_out_of_the_driver_is_a_failure_of_the_database(limited: bool) -> None:
    with pytest.raises(AutoReconnect, match="gave up waiting"):
        await (within(60, leaking()) if limited else undisturbed(leaking(), None))


# --- cancelling -------------------------------------------------------------------------------------------------------


async def test_what_was_not_cancelled_says_what_it_has_to_say(connected: Client) -> None:
    assert await undisturbed(asyncio.sleep(0, "said"), connected) == "said"


async def test_a_cancellation_that_the_driver_swallows_is_repeated(
    connected: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    waiting = asyncio.create_task(undisturbed(swallowing(3), connected))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_one_that_comes_at_the_moment_of_the_answer_is_heeded() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def ask() -> str:
        with suppress(asyncio.CancelledError):
            await for_ever()
        return await answer

    waiting = asyncio.create_task(undisturbed(ask(), None))
    await asyncio.sleep(0)
    waiting.cancel()
    answer.set_result("said")
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_who_waits_for_a_server_is_not_cancelled_but_waited_for(
    lost: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    found = asyncio.Event()
    asking = asyncio.create_task(found.wait())
    ending = asyncio.create_task(call_off(asking, lost))
    for _ in range(5):
        await asyncio.sleep(0.01)
        ending.cancel()  # whoever ends it has to wait, too
    assert not asking.done()
    found.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert asking.result()


async def test_who_waits_for_a_server_for_longer_than_the_driver_does_is_cancelled(
    lost: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick(monkeypatch)
    monkeypatch.setattr(driver, "_LONGEST_WAIT", 0.05)
    asking = asyncio.create_task(for_ever())
    await call_off(asking, lost)
    assert asking.cancelled()


async def test_what_fails_while_it_is_called_off_is_not_complained_about(lost: Client) -> None:
    async def fail() -> None:
        raise ValueError

    failing = asyncio.create_task(fail())
    await call_off(failing, lost)
    assert failing.done()


# --- servers ----------------------------------------------------------------------------------------------------------


async def test_a_server_that_is_known_is_not_waited_for(connected: Client) -> None:
    assert knows_server(connected)
    await reached(connected, 0)


async def test_a_server_is_waited_for_until_it_is_known(monque_uri: str) -> None:
    async with Client(monque_uri, connect=False) as client:
        waiting = asyncio.create_task(reached(client, 60))
        await asyncio.sleep(0)
        assert not waiting.done()
        await client.admin.command("ping")
        await eventually(waiting.done)
        waiting.result()


async def test_a_server_is_not_waited_for_any_longer_than_that(lost: Client) -> None:
    with pytest.raises(AutoReconnect, match="no server is in reach"):
        await reached(lost, 0.01)


async def test_a_stream_is_not_read_on_while_no_server_is_known(lost: Client, connected: Client) -> None:
    cursor = await connected["app"].jobs.aggregate([{"$changeStream": {}}])
    stream = Stream(cursor, lost)
    with pytest.raises(AutoReconnect, match="no server is in reach"):
        await stream.next(60)
    await stream.close()
    assert not stream.alive
