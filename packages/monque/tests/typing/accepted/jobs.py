# pyright: strict
"""Ways to ask for jobs, and what comes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, assert_type

from monque import Concurrency, Job, JobStatus, Lease, Monque, NewJob, Options, Polling, Retry

if TYPE_CHECKING:
    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.database import AsyncDatabase

options = Options(
    collection="jobs",
    instance_id="web-1",
    concurrency=Concurrency(per_worker=20, per_instance=50),
    retry=Retry(max_retries=3, base=0.5, cap=timedelta(hours=1), jitter=0.1),
    lease=Lease(timeout=30),
    recover=False,
    polling=Polling(interval=timedelta(milliseconds=200), safety=60),
    shutdown_timeout=timedelta(minutes=1),
    max_payload_bytes=1_000_000,
    create_indexes=False,
)


def sources(client: AsyncMongoClient[dict[str, Any]], database: AsyncDatabase[dict[str, Any]]) -> list[Monque]:
    return [Monque(), Monque(None, options), Monque("mongodb://localhost"), Monque(client), Monque(database, options)]


async def main() -> None:
    async with Monque(options=options) as monque:
        assert_type(monque, Monque)
        job = await monque.enqueue("mail", {"to": "a@b.c"}, delay=timedelta(minutes=5), priority=3)
        await monque.enqueue("mail", timeout=30, retry=Retry(max_retries=3))
        await monque.enqueue(NewJob(name="mail", timeout=timedelta(minutes=1), retry=None))
        await monque.schedule("@daily", "mail", timeout=30.5, retry=Retry())
        await monque.enqueue("mail", run_at=datetime.now(UTC))
        await monque.now("mail", [1, 2, 3])
        made = await monque.enqueue_many([NewJob(name="mail", delay=60), {"name": "mail"}, ("mail", {"to": "a@b.c"})])
        await monque.enqueue_many(("mail", number) for number in range(3))
        assert_type(made, list[Job[Any]])
        assert_type(job.status, JobStatus)
        assert_type(job.next_run_at, datetime)
        assert_type(job.unique_key, str | None)
        assert_type(job.is_recurring, bool)
        assert_type(monque.is_healthy(), bool)
        if job.status == "pending":
            print(job.id)


def typed(job: Job[dict[str, int]]) -> None:
    assert_type(job.data["count"], int)
