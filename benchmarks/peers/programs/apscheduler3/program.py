"""APScheduler 3 with its MongoDB job store."""

from __future__ import annotations

import threading
import time

from _protocol import Order, Tally, order, ready, took
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.mongodb import MongoDBJobStore
from apscheduler.schedulers.background import BackgroundScheduler

PACKAGES = ("apscheduler", "pymongo")
ASKED = order()
TALLY = Tally(ASKED.jobs)
ALL_DONE = threading.Event()
LOCK = threading.Lock()


def job(called: float) -> None:
    TALLY.entered(called)
    with LOCK:
        if TALLY.done():
            ALL_DONE.set()


def scheduler(asked: Order) -> BackgroundScheduler:
    """Paused: it neither reads the store nor runs anything before it is resumed."""
    made = BackgroundScheduler(
        jobstores={"default": MongoDBJobStore(database=asked.database, host=asked.uri)},
        executors={"default": ThreadPoolExecutor(20)},
        job_defaults={"misfire_grace_time": None},
    )
    made.start(paused=True)
    return made


def enqueue(asked: Order) -> None:
    made = scheduler(asked)
    started = ready(*PACKAGES)
    for _ in range(asked.jobs):
        made.add_job(job, args=[time.monotonic()])
    took(started)


def work(asked: Order) -> None:
    made = scheduler(asked)
    TALLY.started = ready(*PACKAGES)
    made.resume()
    ALL_DONE.wait()


if __name__ == "__main__":
    {"enqueue": enqueue, "work": work}[ASKED.role](ASKED)
