"""A shop whose orders are paid, packed and followed up in the background. Its tests are beside it, in test_shop.py.

python shop.py works on the jobs, until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from monque import Cancel, Fail, Monque, Options, Retry, Snooze

monque = Monque(options=Options(retry=Retry(max_retries=5)))

PACKING_TAKES = 600.0  # seconds
unsubscribed: set[str] = set()
in_stock = {"book": 3, "lamp": 0}


class BankIsClosedError(Exception):
    """The bank does not answer; it may later."""


async def ask_the_bank(card: str) -> bool:
    """Whether the card is good. Tests put something else in its place."""
    raise BankIsClosedError(card)


async def order(customer: str, item: str, card: str) -> None:
    """What the web application calls."""
    await charge.with_(unique_key=f"{customer}/{item}").enqueue(customer, item, card)


@monque.worker("charge")
async def charge(customer: str, item: str, card: str) -> None:
    if not await ask_the_bank(card):
        raise Fail(f"the card {card[-4:]} is no good")
    await pack.enqueue(customer, item)
    await ask_for_review.with_(delay=timedelta(days=7)).enqueue(customer, item)


@monque.worker("pack", store_result=True)
async def pack(customer: str, item: str) -> str | Snooze:
    if not in_stock[item]:
        return Snooze(timedelta(hours=6))
    print("packing", item, flush=True)
    await asyncio.sleep(PACKING_TAKES)
    return f"one {item} to {customer}"


@monque.worker("ask-for-review")
async def ask_for_review(customer: str, item: str) -> Cancel | None:
    if customer in unsubscribed:
        return Cancel("unsubscribed")
    print(customer, "is asked about the", item)
    return None


@monque.worker("sales-report")
async def sales_report(kind: str) -> None:
    print("the", kind, "report")


async def set_up() -> None:
    """What the application calls when it starts, as often as it likes."""
    await sales_report.schedule("0 * * * *", kind="hourly")


if __name__ == "__main__":
    asyncio.run(monque.run())
