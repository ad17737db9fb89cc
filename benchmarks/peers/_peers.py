"""Who is measured: what each needs, how it was set, and what it promises."""

from __future__ import annotations

from typing import NamedTuple


class Peer(NamedTuple):
    """One line of the comparison."""

    name: str
    # A folder of `programs/`, or a program beside this file.
    program: str
    # What share of `--jobs` it gets, so that a slow one does not take for ever.
    share: float
    settings: str
    guarantee: str
    # The write concern of its writes, with a replica set.
    writes: str
    # A way to use it that has a line of its own.
    variant: str = ""
    # Whether its workers notice what another process enqueues.
    listens: bool = True


# What a driver asks for that was told nothing: since MongoDB 5.0 the server then waits for a majority.
_DEFAULT = "majority (by default)"

PEERS = (
    Peer(
        "bare loop",
        "bare_worker.py",
        share=1,
        settings="500 at a time",
        guarantee="nothing: the driver alone, to compare with",
        writes="majority",
    ),
    Peer(
        "Monque",
        "monque_worker.py",
        share=1,
        settings="concurrency 500",
        guarantee="at least once: leased for 30 s, renewed, settled only by who holds the lease",
        writes="majority",
    ),
    Peer(
        "Agenda",
        "agenda",
        share=0.05,
        settings="concurrency 100, no lock limit, processEvery 100 ms",
        guarantee="at least once: locked for 10 min",
        writes=_DEFAULT,
    ),
    Peer(
        "Agenda, change stream",
        "agenda",
        share=0.05,
        settings="concurrency 100, no lock limit, notified by a change stream",
        guarantee="at least once: locked for 10 min",
        writes=_DEFAULT,
        variant="change stream",
    ),
    Peer(
        "Pulse",
        "pulse",
        share=0.05,
        settings="concurrency 100, no lock limit, processEvery 100 ms",
        guarantee="at least once: locked for 10 min",
        writes=_DEFAULT,
    ),
    Peer(
        "mongodb-queue",
        "mongodb-queue",
        share=0.05,
        settings="20 consumers, a poll every 100 ms",
        guarantee="at least once: invisible for 30 s",
        writes=_DEFAULT,
    ),
    Peer(
        "Celery",
        "celery",
        share=0.1,
        settings="solo pool, prefetch 128, a poll every 100 ms, results ignored",
        guarantee="at most once: deleted when it is read",
        writes=_DEFAULT,
    ),
    Peer(
        "APScheduler 3",
        "apscheduler3",
        share=0.2,
        settings="20 threads, no limit to lateness",
        guarantee="at most once: deleted when it is handed to a thread; one scheduler per store",
        writes="w=1 (by default)",
        listens=False,
    ),
    Peer(
        "APScheduler 4",
        "apscheduler4",
        share=0.05,
        settings="100 jobs at once",
        guarantee="run again or given up: leased for 30 s, renewed",
        writes=_DEFAULT,
        listens=False,
    ),
    Peer(
        "taskiq",
        "taskiq",
        share=0.05,
        settings="100 tasks at once, a poll every 100 ms",
        guarantee="at most once: claimed for 5 min, then dead, unless told to retry",
        writes=_DEFAULT,
    ),
)
