# pyright: strict
"""What is no worker, and what workers do not take. Each line that must be refused ends in a marker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from monque import Job, Monque, NewJob, Router

monque = Monque("mongodb://localhost")
router = Router()


@dataclass
class Order:
    """What is ordered."""

    product: str


async def send(to: str, subject: str = "Hello", *, copies: int = 0) -> str:
    return f"{to} {subject} {copies}"


def resize(page: int) -> int:
    return page


async def of_order(job: Job[Order]) -> str:
    return job.data.product


monque.worker(send)  # error: the name is missing
monque.worker(1, send)  # error: the name is no text
monque.worker("nothing", None)  # error: nothing to call
monque.worker("options", send, concurrency="5")  # error: text for a number
monque.worker("options", send, replace=None)  # error: None for a bool
monque.worker("options", send, 5)  # error: options have names
monque.worker("options", send, colour=5)  # error: there is no such option
monque.worker("options", run_in="fiber")  # error: there is no such place
monque.worker("options", timeout="30")  # error: text for a length of time
router.worker("options", aliases=5)  # error: a number for names
router.worker("options", retry=3)  # error: a number for a Retry
monque.include(monque)  # error: that is no router

mail = monque.worker("mail")(send)
page = router.worker("page", resize)
order = monque.worker("order")(of_order)


async def call(job: Job[dict[str, str]]) -> None:
    number: int = await mail("ada")  # error: it returns text
    await mail(number)  # error: it takes text
    await mail()  # error: it takes one argument at least
    await page(3)  # error: that cannot be awaited
    await order(job)  # error: a job with other data


async def produce(text: str) -> None:
    await mail.enqueue(to=1)  # error: a number for text
    await mail.enqueue()  # error: an argument is missing
    await mail.enqueue("ada", to="ada")  # error: twice
    await mail.enqueue(to="ada", form="x")  # error: it does not take that
    await mail.enqueue("ada", "Dear", 2)  # error: that one has a name
    await page.enqueue(text)  # error: text for a number
    await order.enqueue({"product": text})  # error: a dict for an Order
    await order.enqueue(product=text)  # error: its data have no name
    await order.enqueue(Order(text), Order(text))  # error: one too many
    total: int = await (await mail.enqueue("ada")).result()  # error: it returns text
    print(total, (await mail.enqueue("ada")).status)  # error: the job of a handle has that
    await mail.schedule(to="ada")  # error: the expression is missing
    await mail.schedule("@daily")  # error: an argument is missing
    mail.new(5)  # error: a number for text
    await mail.enqueue_many(["ada"])  # error: names are no jobs
    mail.with_(delay="60")  # error: text for a length of time
    mail.with_(on_conflict="explode")  # error: there is no such way
    mail.with_(retry=3)  # error: a number for a policy
    mail.with_(colour=5)  # error: there is no such setting
    await mail.with_(priority=3).enqueue(to=1)  # error: a number for text
    mail.name = "post"  # error: workers cannot be changed
    made: str = mail.new("ada")  # error: that is a NewJob
    print(made, NewJob(name="a").data, Any)
