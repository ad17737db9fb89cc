# pyright: strict
"""Ways to declare workers."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, assert_type

from monque import Job, JobHandle, Monque, NewJob, Retry, Router, Timeout, Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

monque = Monque("mongodb://localhost")
router = Router()


@dataclass
class Order:
    """What is ordered."""

    product: str
    count: int


@monque.worker("send-email", concurrency=20)
async def send_email(to: str, subject: str = "Hello", *, copies: int = 0) -> bool:
    return bool((to, subject, copies))


@router.worker("resize", aliases=["shrink"], run_in="process", timeout=Timeout(30, 60), retry=Retry(max_retries=3))
def resize(page: int) -> str:
    return str(page)


@monque.worker("count", replace=True, timeout=timedelta(minutes=1), store_result=True, keep_logs=True)
async def count(job: Job[list[int]], *, start: int = 0) -> int:
    return start + sum(job.data)


@monque.worker("order", timeout=30, keep_logs=5, transaction=True)
async def order(job: Job[Order]) -> None:
    print(job.data.product)


@router.worker("blocking", run_in="thread")
def blocking(job: Job[Order]) -> str:
    return job.data.product


@monque.worker("clean-up")
async def clean_up() -> None: ...


async def prefixed(prefix: str, job: Job[Any]) -> None:
    print(prefix, job.name)


class Mailer:
    """Handlers that share something."""

    async def send(self, job: Job[dict[str, str]]) -> None:
        print(job.data)

    async def __call__(self, job: Job[Any]) -> None:
        print(job.data)


async def ordered(product: str) -> None: ...


# A worker is called like its function, so that tests can do that.
as_function: Callable[[Job[Order]], Awaitable[None]] = order


async def call(job: Job[list[int]], typed: Job[Order]) -> None:
    assert_type(await count(job), int)
    assert_type(await send_email("ada", copies=2), bool)
    assert_type(resize(page=3), str)
    assert_type(blocking(typed), str)
    await clean_up()


async def pages() -> AsyncIterator[NewJob]:
    yield resize.new(3)


async def produce() -> None:
    assert_type(await send_email.enqueue(to="ada"), JobHandle[bool])
    assert_type(await (await send_email.enqueue(to="ada")).result(), bool)
    assert_type(await (await send_email.enqueue(to="ada")).refresh(), Job[Any])
    await send_email.enqueue("ada", "Dear", copies=2)
    await order.enqueue(Order("book", 1))
    await blocking.enqueue(Order("book", 1))
    await count.enqueue([1, 2])
    await clean_up.enqueue()
    assert_type(resize.new(3), NewJob)
    assert_type(await resize.enqueue_many([resize.new(3), resize.new(page=4)]), list[Job[Any]])
    await resize.enqueue_many(resize.new(page) for page in range(3))
    await resize.enqueue_many(pages())
    await send_email.schedule("@daily", to="ada")
    later = send_email.with_(delay=60, unique_key="ada", on_conflict="raise").with_(priority=3)
    assert_type(await (await later.enqueue(to="ada")).result(timeout=1), bool)
    await send_email.with_(timeout=30, retry=Retry(max_retries=3)).enqueue("ada")
    await send_email.with_(run_at=datetime.now(UTC), timezone="Europe/Berlin", session=None).schedule("@daily", "ada")


assert_type(send_email.concurrency, int | None)
assert_type(resize.timeout, Timeout | None)
assert_type(resize.aliases, tuple[str, ...])
monque.worker("prefixed", functools.partial(prefixed, "a"))
monque.worker("method", Mailer().send, concurrency=None)
mailer: Worker[..., Any, [Any], None] = monque.worker("object", Mailer())
direct = monque.worker("direct", ordered)
again = router.worker("again")(direct)
monque.include(router, replace=True)
router.include(Router())
