from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import pytest

from monque import InvalidJobIdentifierError, Job, WorkerRegistrationError
from monque.worker import Worker, Workers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable


async def handler(job: Job[Any]) -> None: ...


async def other(job: Job[Any]) -> None: ...


async def with_more(prefix: str, job: Job[Any], *, loud: bool = False) -> None: ...


class Methods:
    """Handlers in a class."""

    async def method(self, job: Job[Any]) -> None: ...

    @classmethod
    async def of_class(cls, job: Job[Any]) -> None: ...

    @staticmethod
    async def static(job: Job[Any]) -> None: ...


class AsyncObject:
    """An object that can be called."""

    async def __call__(self, job: Job[Any]) -> None: ...


class Plain:
    """An object that can be called, but not awaited."""

    def __call__(self, job: Job[Any]) -> None: ...


def decorated(function: Callable[[Job[Any]], Awaitable[None]]) -> Callable[[Job[Any]], Awaitable[None]]:
    @functools.wraps(function)
    async def wrapper(job: Job[Any]) -> None:
        await function(job)

    return wrapper


@pytest.mark.parametrize(
    "handler",
    [
        handler,
        Methods().method,
        Methods.of_class,
        Methods.static,
        AsyncObject(),
        functools.partial(with_more, "prefix"),
        functools.partial(functools.partial(with_more, "prefix"), loud=True),
        functools.partial(AsyncObject()),
        decorated(handler),
    ],
    ids=[
        "function",
        "method",
        "class method",
        "static",
        "object",
        "partial",
        "nested partial",
        "partial of object",
        "decorated",
    ],
)
def test_a_handler_is_anything_async(handler: Any) -> None:
    assert Worker("mail", handler).handler is handler


def plain(job: Job[Any]) -> None: ...


async def generator(job: Job[Any]) -> AsyncGenerator[None]:
    yield


@pytest.mark.parametrize(
    "handler",
    [
        *(None, "handler", 1, plain, print, str.upper, generator, Plain(), Plain, Methods, AsyncObject),
        *(functools.partial(plain), functools.partial(Plain())),
    ],
    ids=[
        *(
            "None",
            "text",
            "number",
            "function",
            "builtin",
            "method",
            "generator",
            "object",
            "class",
            "class of methods",
        ),
        *("class of async objects", "partial", "partial of object"),
    ],
)
def test_what_is_not_async_is_refused(handler: Any) -> None:
    with pytest.raises(WorkerRegistrationError) as caught:
        Worker("mail", handler)
    assert caught.value.job_name == "mail"
    assert str(caught.value) == (
        f"worker 'mail': expected an async function of one job, got {handler!r}; "
        "write `async def` and hand blocking calls to asyncio.to_thread"
    )


@pytest.mark.parametrize("name", ["", "two words", "a\n", None, 1])
def test_a_worker_needs_a_job_name(name: Any) -> None:
    with pytest.raises(InvalidJobIdentifierError):
        Worker(name, handler)


@pytest.mark.parametrize("concurrency", [1, 100, None])
def test_a_worker_may_have_a_limit_of_its_own(concurrency: int | None) -> None:
    assert Worker("mail", handler, concurrency=concurrency).concurrency == concurrency


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, 1.0, "5", True, False])
def test_a_limit_that_makes_no_sense_is_refused(concurrency: Any) -> None:
    with pytest.raises(WorkerRegistrationError) as caught:
        Worker("mail", handler, concurrency=concurrency)
    assert caught.value.job_name == "mail"
    assert str(caught.value) == (
        f"worker 'mail': option concurrency: expected a whole number, at least 1, got {concurrency!r}"
    )
    assert caught.value.__cause__ is None


def test_a_worker_cannot_be_changed() -> None:
    worker = Worker("mail", handler)
    with pytest.raises(dataclasses.FrozenInstanceError):
        worker.concurrency = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_workers_are_found_by_name_in_the_order_they_were_added() -> None:
    workers = Workers()
    assert workers.names() == []
    mail, report = Worker("mail", handler), Worker("report", other)
    workers.add(report, replace=False)
    workers.add(mail, replace=True)
    assert workers.names() == ["report", "mail"]
    assert workers["mail"] is mail
    assert workers["report"] is report


def test_a_name_that_is_taken_is_refused() -> None:
    workers = Workers()
    first, second = (Worker("mail", function) for function in (handler, other))
    workers.add(first, replace=False)
    with pytest.raises(WorkerRegistrationError, match="there is a worker for this name already; pass replace=True"):
        workers.add(second, replace=False)
    assert workers["mail"] is first


def test_a_worker_can_be_replaced() -> None:
    workers = Workers()
    first, second = (Worker("mail", function) for function in (handler, other))
    workers.add(first, replace=False)
    workers.add(second, replace=True)
    assert workers["mail"] is second
    assert workers.names() == ["mail"]


def test_the_list_of_names_is_a_copy() -> None:
    workers = Workers()
    workers.names().append("mail")
    assert workers.names() == []
