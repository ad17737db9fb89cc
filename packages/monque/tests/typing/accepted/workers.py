# pyright: strict
"""Ways to declare workers."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, assert_type

from monque import Job, Monque

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

monque = Monque("mongodb://localhost")


@monque.worker("send-email", concurrency=20)
async def send_email(job: Job[dict[str, str]]) -> None:
    print(job.data["to"].upper())


@monque.worker("count", replace=True)
async def count(job: Job[list[int]], *, start: int = 0) -> int:
    return start + sum(job.data)


async def prefixed(prefix: str, job: Job[Any]) -> None:
    print(prefix, job.name)


class Mailer:
    """Handlers that share something."""

    async def send(self, job: Job[dict[str, str]]) -> None:
        print(job.data)

    async def __call__(self, job: Job[Any]) -> None:
        print(job.data)


# The handler keeps its type, so that tests can call it like any other function.
as_handler: Callable[[Job[dict[str, str]]], Awaitable[None]] = send_email


async def call(job: Job[list[int]]) -> None:
    assert_type(await count(job, start=3), int)


monque.worker("prefixed", functools.partial(prefixed, "a"))
monque.worker("method", Mailer().send, concurrency=None)
mailer = Mailer()
assert_type(monque.worker("object", mailer), Mailer)
