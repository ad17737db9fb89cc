# pyright: strict
"""Options and arguments of the wrong type. Each line that must be refused ends in a marker."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from monque import Concurrency, Job, Lease, Monque, NewJob, Options, Polling, Retry

if TYPE_CHECKING:
    from pymongo import MongoClient

Options("jobs")  # error: options have names
Options(retry=3)  # error: a number for a Retry
Options(lease=30)  # error: a number for a Lease
Options(polling=timedelta(seconds=1))  # error: a length of time for a Polling
Options(concurrency=5)  # error: a number for a Concurrency
Options(recover="yes")  # error: text for a bool
Options(shutdown_timeout="30")  # error: text for a length of time
Options(colection="jobs")  # error: there is no such option
Retry(max_retries="3")  # error: text for a number
Retry(base=None)  # error: None for a length of time
Lease("30 s")  # error: text for a length of time
Polling(interval="1")  # error: likewise
Concurrency(per_worker=2.5)  # error: half a handler
Options().collection = "jobs"  # error: options cannot be changed
Monque(1)  # error: a number is no source
Monque(b"mongodb://localhost")  # error: bytes are none
Monque("mongodb://localhost", {"collection": "jobs"})  # error: a dict for Options


def synchronous(client: MongoClient[dict[str, Any]]) -> None:
    Monque(client)  # error: the synchronous driver


async def main(monque: Monque, job: Job[dict[str, int]]) -> None:
    await monque.enqueue(1)  # error: a name is text
    await monque.enqueue("mail", {}, 60)  # error: times have names
    await monque.enqueue("mail", run_at=date(2026, 3, 1))  # error: a date is no moment
    await monque.enqueue("mail", delay="60")  # error: text for a length of time
    await monque.enqueue("mail", priority="high")  # error: text for a number
    await monque.enqueue("mail", unique_key="k", on_conflict="overwrite")  # error: there is no such word
    NewJob(name="mail", unique_key="k", on_conflict="skip")  # error: likewise
    await monque.enqueue("mail", timeout="30")  # error: text for a length of time
    await monque.enqueue("mail", retry=3)  # error: a number for a policy
    await monque.schedule("@daily", "mail", retry={"max_retries": 3})  # error: likewise
    NewJob(name="mail", timeout=None, retry=3)  # error: likewise
    await monque.enqueue_many(["mail"])  # error: names alone
    await monque.enqueue_many([("mail", 1, 2)])  # error: three of a pair
    NewJob("mail")  # error: fields have names
    job.name = "other"  # error: jobs cannot be changed
    print(job.data["count"].upper())  # error: a number is no text
    print(job.nextRunAt)  # error: that is its name in the database
