"""Testing code that uses Monque, with a real MongoDB and the real engine.

Functions for tests that await; `monque.testing.sync` has the same for tests that do not:

* `drain`: run every job that is due, and what those enqueue; or what is due later, too.
* `perform`: run one job, without storing it.
* `assert_enqueued`, `refute_enqueued`: what is, and is not, waiting to be run.
* `travel`: let time go by for the jobs of this test.
* `Program`: a process of its own, to be killed and frozen; `expire_leases`: take its jobs back at once.
* `eventually`: wait for something to come true.

Installing Monque brings a pytest plugin with these fixtures:

* `monque_server`: the URI of a MongoDB that lasts for the whole run: the one in `$MONQUE_TEST_URI`, or an embedded one.
* `monque_uri`: the same with a database of its own for this test, which is dropped afterwards.
* `monque_database`: that database through the synchronous driver, to look into.
* `monque_environment`: `Monque()` uses that database, here and in processes started from here.

All of them are plain fixtures, so they work with any asyncio plugin.
"""

from __future__ import annotations

from monque.testing._drain import Drained, Run, drain
from monque.testing._enqueued import assert_enqueued, refute_enqueued
from monque.testing._perform import perform
from monque.testing._program import Program
from monque.testing._travel import expire_leases, travel
from monque.testing._waiting import eventually

__all__ = [
    "Drained",
    "Program",
    "Run",
    "assert_enqueued",
    "drain",
    "eventually",
    "expire_leases",
    "perform",
    "refute_enqueued",
    "travel",
]
