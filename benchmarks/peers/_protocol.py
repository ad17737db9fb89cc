"""How a program of the comparison and `run.py` talk. Nothing but the standard library: every peer has its own packages.

A program is started with a role, a server, a database and a number of jobs. It connects, imports and warms up, says
that it is ready, and waits for a line. What it is measured in begins with that line. In the end it prints what it took.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a job carries, so that its program can tell how late it came. All processes of a machine share this clock.
CALLED = "called"
_GOLDEN = 0.618


class Order(NamedTuple):
    """What a program is asked: to `enqueue` jobs at once, to `work` them off, or to `pace` them with pauses."""

    role: str
    uri: str
    database: str
    jobs: int
    pause: float
    # A way to use the peer that has a line of its own, or nothing.
    variant: str

    def pauses(self) -> Iterator[float]:
        """Before each job, of uneven length, so that they do not fall in step with somebody's polls."""
        return (self.pause * (0.5 + number * _GOLDEN % 1) for number in range(self.jobs))


def order() -> Order:
    role, uri, database, jobs, pause, variant = sys.argv[1:]
    return Order(role, uri, database, int(jobs), float(pause), variant)


def ready(*packages: str) -> float:
    """Say so, with the versions that run here; the moment at which the runner said to go."""
    say({"ready": {package: version(package) for package in packages}})
    sys.stdin.readline()
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    return time.monotonic()


def _end_with_the_runner() -> None:
    """However the runner ends, no program is left behind."""
    sys.stdin.read()
    os._exit(1)


def say(what: dict[str, object]) -> None:
    print(json.dumps(what), flush=True)


def took(started: float) -> None:
    """What a producer says in the end."""
    say({"seconds": time.monotonic() - started})


class Tally:
    """Counts jobs on the worker's side."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.started = 0.0
        self._done = 0
        self._late: list[float] = []

    def entered(self, called: float) -> None:
        """A handler was entered, for a job that was enqueued at this moment."""
        self._late.append(time.monotonic() - called)

    def done(self) -> bool:
        """A job is done; whether that was the last one, in which case the runner knows."""
        self._done += 1
        if self._done != self.jobs:
            return False
        say({"seconds": time.monotonic() - self.started, "late": self._late[:1000]})
        return True
