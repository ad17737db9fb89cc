# pyright: strict
"""What is no worker. Each line that must be refused ends in a marker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monque import Job, Monque

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

monque = Monque("mongodb://localhost")


def plain(job: Job[Any]) -> None:
    print(job)


async def without_job() -> None: ...


async def with_text(job: str) -> None:
    print(job)


async def with_two(job: Job[Any], other: int) -> None:
    print(job, other)


async def generator(job: Job[Any]) -> AsyncGenerator[None]:
    yield print(job)


async def good(job: Job[dict[str, str]]) -> str:
    return job.data["to"]


monque.worker("plain", plain)  # error: a plain function
monque.worker("plain")(plain)  # error: likewise, decorated
monque.worker("without", without_job)  # error: it takes no job
monque.worker("text", with_text)  # error: it takes something else
monque.worker("two", with_two)  # error: it takes more
monque.worker("generator", generator)  # error: it cannot be awaited
monque.worker(good)  # error: the name is missing
monque.worker(1, good)  # error: the name is no text
monque.worker("options", good, concurrency="5")  # error: text for a number
monque.worker("options", good, replace=None)  # error: None for a bool
monque.worker("options", good, 5)  # error: options have names
monque.worker("options", good, timeout=5)  # error: there is no such option

declared = monque.worker("good")(good)


async def call(job: Job[dict[str, str]]) -> None:
    number: int = await declared(job)  # error: it returns text
    await declared(number)  # error: it takes a job
    await declared()  # error: it takes one argument
