# pyright: strict
"""Code without an event loop."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, assert_type

from monque import BulkResult, Health, Instance, Job, JobCompleteEvent, JobFilter, NewJob, Options, Pause
from monque.sync import Monque

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymongo import MongoClient
    from pymongo.database import Database


def sources(client: MongoClient[dict[str, Any]], database: Database[dict[str, Any]]) -> list[Monque]:
    return [Monque(), Monque(None, Options()), Monque("mongodb://localhost"), Monque(client), Monque(database)]


def produce(client: MongoClient[dict[str, Any]], items: Iterator[tuple[str, int]]) -> None:
    with Monque(client) as monque, client.start_session() as session:
        assert_type(monque, Monque)
        assert_type(monque.enqueue("mail", {"to": "a@b.c"}, delay=timedelta(minutes=5), session=session), Job[Any])
        assert_type(monque.enqueue(NewJob(name="mail")), Job[Any])
        assert_type(monque.now("mail", [1]), Job[Any])
        assert_type(monque.schedule("@daily", "mail", timezone="UTC"), Job[Any])
        assert_type(monque.enqueue_many([NewJob(name="mail"), {"name": "mail"}, ("mail", 1)]), list[Job[Any]])
        for jobs in monque.enqueue_stream(items, session=session):
            assert_type(jobs, list[Job[Any]])


def operate(monque: Monque) -> None:
    assert_type(monque.fleet.pause("mail", duration=timedelta(minutes=10), reason="down"), Pause)
    assert_type(monque.fleet.resume("mail"), bool)
    assert_type(monque.fleet.paused(), list[Pause])
    assert_type(monque.fleet.instances(), list[Instance])
    assert_type(monque.fleet.drain("id"), bool)
    assert_type(monque.health(), Health)


def manage(monque: Monque, job: Job[Any]) -> None:
    assert_type(monque.jobs.get(job.id), Job[Any] | None)
    assert_type(monque.jobs.reschedule(str(job.id), run_at=datetime.now(UTC)), Job[Any] | None)
    assert_type(monque.jobs.delete(job.id), bool)
    assert_type(monque.jobs.cancel_many(JobFilter(), all=True), BulkResult)


def work(monque: Monque) -> None:
    @monque.worker("mail", concurrency=3)
    async def mail(job: Job[dict[str, str]]) -> None:
        print(job.data["to"])

    def listener(event: JobCompleteEvent) -> None:
        print(event.duration)

    monque.on("job:complete", listener)
    monque.once("job:fail", lambda event: print(event.error))
    monque.off("job:complete", listener)
    assert_type(monque.is_healthy(), bool)
    monque.start()
    monque.stop()
    monque.run()
    monque.close()
    print(mail)
