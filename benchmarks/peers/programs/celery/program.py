"""Celery with its MongoDB broker."""

from __future__ import annotations

import time

from _protocol import Order, Tally, order, ready, took
from celery import Celery, group, signals

PACKAGES = ("celery", "kombu", "pymongo")
ASKED = order()
TALLY = Tally(ASKED.jobs)


def broker(asked: Order) -> str:
    """The same server, with a database of this run's own."""
    address, _, options = asked.uri.partition("?")
    return "/".join([*address.split("/")[:3], f"{asked.database}?{options}"])


app = Celery("peers", broker=broker(ASKED))
app.conf.update(
    task_ignore_result=True,
    worker_redirect_stdouts=False,
    worker_prefetch_multiplier=128,
    broker_transport_options={"calc_queue_size": False, "polling_interval": 0.1},
)


@app.task(name="job")
def job(called: float) -> None:
    TALLY.entered(called)
    TALLY.done()


def enqueue(asked: Order) -> None:
    with app.connection_for_write() as connection:
        connection.ensure_connection()
    started = ready(*PACKAGES)
    group(job.s(time.monotonic()) for _ in range(asked.jobs)).apply_async()
    took(started)


def pace(asked: Order) -> None:
    started = ready(*PACKAGES)
    for pause in asked.pauses():
        time.sleep(pause)
        job.delay(time.monotonic())
    took(started)


@signals.worker_ready.connect
def start_the_clock(**_: object) -> None:
    """The worker is connected, and has read no message yet."""
    TALLY.started = ready(*PACKAGES)


def work(_: Order) -> None:
    app.worker_main(["worker", "--pool=solo", "--without-gossip", "--without-mingle", "--without-heartbeat", "-lERROR"])


if __name__ == "__main__":
    {"enqueue": enqueue, "pace": pace, "work": work}[ASKED.role](ASKED)
