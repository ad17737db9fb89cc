"""How an application that uses Monque is tested: with a real MongoDB, and nothing but `monque.testing`.

python -m pytest examples/testing
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import shop
from shop import BankIsClosedError, monque

from monque import Cancel, InvalidPayloadError, JobStatus, Snooze
from monque.testing import (
    Program,
    assert_enqueued,
    drain,
    eventually,
    expire_leases,
    perform,
    refute_enqueued,
    travel,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

ADA = {"customer": "ada@example.org", "item": "book"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
async def queue(monque_environment: str, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[None]:
    """The application's own queue, in a database of this test's own. Nothing runs unless a test says so."""
    monkeypatch.setattr(shop, "PACKING_TAKES", 0)
    async with monque:
        yield


@pytest.fixture
def bank_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    def say(answer: bool) -> None:
        async def ask_the_bank(_: str) -> bool:
            return answer

        monkeypatch.setattr(shop, "ask_the_bank", ask_the_bank)

    return say


# --- what is enqueued -----------------------------------------------------------------------------------------------


async def test_an_order_is_charged_once() -> None:
    for _ in range(2):
        await shop.order("ada@example.org", "book", "4242 4242")
    await assert_enqueued(monque, shop.charge, ADA, unique_key="ada@example.org/book", count=1)
    await refute_enqueued(monque, shop.pack)


async def test_a_review_is_asked_for_a_week_later(bank_says: Callable[[bool], None]) -> None:
    bank_says(True)
    await perform(monque, shop.charge, **ADA, card="4242 4242")
    [job] = await assert_enqueued(monque, "ask-for-review", due=7 * 86_400)
    assert job.data == ADA


async def test_an_assertion_that_fails_shows_what_is_there() -> None:
    await shop.order("ada@example.org", "book", "4242 4242")
    with pytest.raises(AssertionError, match=r"charge .*\n      but data\['item'\] is 'book', expected 'lamp'"):
        await assert_enqueued(monque, "charge", {"item": "lamp"})


# --- one job --------------------------------------------------------------------------------------------------------


async def test_what_is_out_of_stock_is_put_off() -> None:
    assert isinstance(await perform(monque, shop.pack, "ada@example.org", "lamp"), Snooze)


async def test_who_unsubscribed_is_left_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "unsubscribed", {"ada@example.org"})
    assert isinstance(await perform(monque, "ask-for-review", ADA), Cancel)


async def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidPayloadError, match="item"):
        await perform(monque, "pack", {"customer": "ada@example.org"})


# --- all that follows -----------------------------------------------------------------------------------------------


async def test_an_order_from_beginning_to_end(
    bank_says: Callable[[bool], None], capsys: pytest.CaptureFixture[str]
) -> None:
    bank_says(True)
    await shop.order("ada@example.org", "book", "4242 4242")
    drained = await drain(monque, with_scheduled=True)
    assert [job.name for job in drained.completed] == ["charge", "pack", "ask-for-review"]
    assert capsys.readouterr().out.splitlines()[-1] == "ada@example.org is asked about the book"


async def test_a_closed_bank_is_asked_again(bank_says: Callable[[bool], None]) -> None:
    await shop.order("ada@example.org", "book", "4242 4242")
    with pytest.raises(BankIsClosedError):
        await drain(monque)
    await refute_enqueued(monque, "pack")

    bank_says(True)
    await travel(monque, minutes=1)
    assert str(await drain(monque)) == "2 runs: 2 completed"


async def test_a_bank_that_stays_closed_is_given_up() -> None:
    await shop.order("ada@example.org", "book", "4242 4242")
    drained = await drain(monque, with_retries=True, raise_failures=False)
    assert str(drained) == "5 runs: 4 retried, 1 failed"


async def test_a_bad_card_is_not_charged_again(bank_says: Callable[[bool], None]) -> None:
    bank_says(False)
    await shop.order("ada@example.org", "book", "0000 0000")
    await drain(monque, raise_failures=False)
    [job] = await assert_enqueued(monque, "charge", status=JobStatus.FAILED)
    assert job.fail_reason == "Fail: the card 0000 is no good"


async def test_the_report_comes_every_hour(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        await shop.set_up()
    for _ in range(2):
        await travel(monque, hours=1)
        await drain(monque)
    assert capsys.readouterr().out == "the hourly report\n" * 2


# --- crashes --------------------------------------------------------------------------------------------------------


async def test_a_process_that_dies_while_packing_loses_nothing() -> None:
    handle = await shop.pack.enqueue("ada@example.org", "book")
    with Program(Path(shop.__file__)) as program:
        await eventually(lambda: program.has_said("packing book"), timeout=60)
        program.kill()
    await expire_leases(monque)
    assert len((await drain(monque)).completed) == 1
    assert await handle.result() == "one book to ada@example.org"
    assert (await handle.refresh()).attempts == 2
