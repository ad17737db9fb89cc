"""Workers that say what their jobs carry: as parameters, or as the data of a job; declared by a router.

python examples/typed.py
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from monque import InvalidPayloadError, Job, Monque, Router

shop = Router()
done = asyncio.Semaphore(0)


@dataclass
class Order:
    product: str
    price: Decimal
    by: date


@shop.worker("order")
async def order(job: Job[Order]) -> None:
    print(f"{job.data.product} for {job.data.price} until {job.data.by:%d %B}")
    await send_email.enqueue("ada@example.org", subject=f"Your {job.data.product}")
    done.release()


@shop.worker("send-email", aliases=["email"])
async def send_email(to: str, subject: str = "Hello") -> None:
    print(f"{subject} to {to}")
    done.release()


async def main() -> None:
    monque = Monque()  # the URI in $MONQUE_URI, or an embedded MongoDB
    monque.include(shop)
    async with monque:
        try:
            await monque.enqueue("order", {"product": "book", "price": "cheap", "by": "2026-03-01"})
        except InvalidPayloadError as error:
            print(error)
        await order.enqueue(Order("book", Decimal("12.50"), date(2026, 3, 1)))
        await monque.start()
        for _ in range(2):
            await done.acquire()


if __name__ == "__main__":
    asyncio.run(main())
