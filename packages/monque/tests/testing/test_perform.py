from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import PyMongoError

from monque import (
    ConnectionError,
    Fail,
    InvalidArgumentError,
    InvalidJobIdentifierError,
    InvalidPayloadError,
    Job,
    JobStatus,
    Monque,
    MonqueError,
    NewJob,
    ResultError,
    Router,
    Snooze,
    current_job,
)
from monque.testing import perform

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pymongo.database import Database

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@dataclass
class Order:
    number: int


async def test_a_worker_is_called_with_its_own_arguments(monque: Monque) -> None:
    @monque.worker("add")
    async def add(one: int, other: int = 0) -> int:
        return one + other

    assert await perform(monque, add, 1, other=2) == 3
    assert await perform(monque, "add", {"one": 1}) == 1
    assert await perform(monque, add.new(2, 3)) == 5
    with pytest.raises(InvalidPayloadError, match="one"):
        await perform(monque, "add", {"one": "x"})


async def test_the_handler_sees_a_job_as_claimed_and_nothing_is_stored(
    monque: Monque, monque_database: Database[Any]
) -> None:
    @monque.worker("see")
    async def see(job: Job[Any]) -> Job[Any]:
        assert current_job().id == job.id
        job.progress(0.5)
        return job

    job = await perform(monque, NewJob(name="see", data={"pair": (1, 2)}, priority=3), attempt=4)
    assert (job.data, job.priority, job.attempts, job.fail_count) == ({"pair": [1, 2]}, 3, 4, 3)
    assert (job.status, job.claimed_by) == (JobStatus.PROCESSING, monque.instance_id)
    assert None not in (job.claim_token, job.locked_at, job.last_heartbeat, job.heartbeat_interval)
    assert (await perform(monque, "see")).attempts == 1
    assert monque_database.monque_jobs.count_documents({}) == 0
    with pytest.raises(MonqueError, match="no job is running here"):
        current_job()


async def test_a_job_may_enqueue_others(monque: Monque, monque_database: Database[Any]) -> None:
    @monque.worker("first")
    async def first() -> None:
        await monque.enqueue("second")

    await perform(monque, first)
    assert [row["name"] for row in monque_database.monque_jobs.find()] == ["second"]


async def test_it_runs_within_the_middleware_and_in_its_place(monque: Monque) -> None:
    @monque.use
    @asynccontextmanager
    async def within(job: Job[Any]) -> AsyncGenerator[None]:
        tenant.set(job.data["tenant"])
        yield

    @monque.worker("where")
    def where(tenant: str) -> tuple[str, str]:
        return seen.get(), threading.current_thread().name

    seen = tenant
    assert await perform(monque, where, tenant="ada") == ("ada", "monque-where")
    assert tenant.get() == "nobody"


async def test_logs_are_kept_by_nobody(monque: Monque) -> None:
    @monque.worker("log", keep_logs=5)
    async def log() -> str:
        return "logged"

    assert await perform(monque, log) == "logged"


async def test_what_the_handler_raises_is_raised(monque: Monque) -> None:
    @monque.worker("raise")
    async def raising(what: str) -> None:
        raise _RAISED[what]

    for what, error in _RAISED.items():
        with pytest.raises(type(error)) as caught:
            await perform(monque, "raise", {"what": what})
        assert caught.value is error


_RAISED: dict[str, BaseException] = {"error": ValueError("no"), "exit": SystemExit(3), "verdict": Snooze(3)}


async def test_what_the_handler_says_is_returned(monque: Monque) -> None:
    @monque.worker("say", store_result=True)
    async def say() -> int | Fail:
        return Fail("no")

    assert isinstance(await perform(monque, say), Fail)


async def test_a_result_that_is_stored_comes_back_as_it_would_be_read(monque: Monque) -> None:
    @monque.worker("order", store_result=True)
    async def order(number: int) -> Order:
        return Order(number)

    @monque.worker("nothing", store_result=True)
    async def nothing() -> None: ...

    @monque.worker("anything", store_result=True)
    async def anything() -> Any:
        return object()

    assert await perform(monque, order, 7) == Order(7)
    assert await perform(monque, "nothing") is None
    with pytest.raises(ResultError, match="could not be stored"):
        await perform(monque, anything)


async def test_a_transaction_is_committed_with_the_run_or_not_at_all(
    monque: Monque, monque_database: Database[Any]
) -> None:
    @monque.worker("pay", transaction=True, store_result=True)
    async def pay(job: Job[dict[str, Any]]) -> str:
        await monque.enqueue("receipt", session=job.session)
        if job.data.get("fail"):
            raise ValueError
        return "paid"

    receipts = monque_database.monque_jobs
    with pytest.raises(ValueError, match=r"^$"):
        await perform(monque, pay, {"fail": True})
    assert receipts.count_documents({}) == 0
    assert await perform(monque, pay, {}) == "paid"
    assert receipts.count_documents({}) == 1


async def test_a_transaction_that_conflicts_is_run_again(monque: Monque, monque_database: Database[Any]) -> None:
    attempts: list[object] = []

    @monque.worker("pay", transaction=True)
    async def pay(job: Job[Any]) -> int:
        attempts.append(job.session)
        if len(attempts) == 1:
            error = PyMongoError("conflict")
            error._add_error_label("TransientTransactionError")
            raise error
        return len(attempts)

    assert await perform(monque, pay, {}) == 2


async def test_a_transaction_that_the_handler_ends_itself_is_refused(monque: Monque) -> None:
    @monque.worker("pay", transaction=True)
    async def pay(job: Job[Any]) -> None:
        await job.session.abort_transaction()

    with pytest.raises(MonqueError, match="leave it to Monque to commit it"):
        await perform(monque, pay, {})


async def test_giving_up_cancels_the_handler(monque: Monque) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @monque.worker("hang")
    async def hang() -> None:
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.set()

    performing = asyncio.create_task(perform(monque, hang))
    await begun.wait()
    performing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await performing
    assert ended.is_set()


async def test_what_cannot_be_performed_is_refused(monque: Monque) -> None:
    @monque.worker("greet")
    async def greet() -> None: ...

    stray = Router().worker("stray", greet.function)
    with pytest.raises(InvalidArgumentError, match="job: expected a name that has a worker here: greet, got 'stray'"):
        await perform(monque, stray)
    with pytest.raises(InvalidJobIdentifierError, match="white space"):
        await perform(monque, "two words")
    with pytest.raises(InvalidArgumentError, match="data: expected nothing beside a NewJob"):
        await perform(monque, greet.new(), {})
    odd: list[Any] = [0, True, "1"]
    for attempt in odd:
        with pytest.raises(InvalidArgumentError, match="attempt"):
            await perform(monque, "greet", attempt=attempt)
    with pytest.raises(ConnectionError, match="not connected"):
        await perform(Monque(), greet)


async def test_without_workers_it_says_so(monque: Monque) -> None:
    with pytest.raises(InvalidArgumentError, match="there are none"):
        await perform(monque, "greet")
