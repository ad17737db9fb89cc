"""One instance of Monque as a process of its own, told by a JSON object what to do.

    python worker_program.py '{"uri": …, "task": "work", …}'

task            "work" (until SIGTERM) or "produce" (once a line comes in)
names           of the jobs it works on; the handler does as the job's data say: {"seconds": …, "kill": …}
options         see `options_from`
record          whether every entry of a handler is written down in the collection `entries`
clock           seconds by which this process' clock is off
crash           a place in the code, see `CRASHES`, at which the process kills itself

What happens is told on standard output, one JSON object per line.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import json
import os
import signal
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import time_machine
from bson import ObjectId
from pymongo import AsyncMongoClient, WriteConcern
from pymongo.errors import DuplicateKeyError, PyMongoError

from monque import Concurrency, Lease, Monque, Options, Polling, Retry
from monque import _lease as lease
from monque._runs import Runs
from monque._store.flow import Flow

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.asynchronous.collection import AsyncCollection

    from monque import Job
    from monque.events import Event

_EVENTS = (
    "job:complete",
    "job:fail",
    "job:error",
    "job:lost",
    "stale:recovered",
    "changestream:connected",
    "changestream:fallback",
)


def tell(what: str, **facts: Any) -> None:
    print(json.dumps({"what": what, **facts}, default=str), flush=True)


def die() -> None:
    """End as if the power had failed: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def end_with_parent() -> None:
    """Leave no orphan, where the kernel can see to that."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            die()


def options_from(given: dict[str, Any]) -> Options:
    """Options of a few numbers, quick by default."""
    return Options(
        concurrency=Concurrency(given.get("concurrency", 5), given.get("per_instance")),
        lease=Lease(given.get("lease", 30)),
        retry=Retry(given.get("max_retries", 10), base=0.05),
        polling=Polling(interval=given.get("interval", 0.5), safety=given.get("safety", 1)),
        shutdown_timeout=given.get("shutdown_timeout", 30),
    )


# --- crashing -------------------------------------------------------------------------------------------------------


def _crash_before(owner: Any, name: str) -> None:
    @functools.wraps(getattr(owner, name))
    async def crash(*_: Any, **__: Any) -> None:
        die()

    setattr(owner, name, crash)


def _crash_after(owner: Any, name: str) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    async def crash(*arguments: Any, **named: Any) -> None:
        await original(*arguments, **named)
        die()

    setattr(owner, name, crash)


def _lose_lease_thread() -> None:
    def end_thread(*_: Any) -> None:
        raise SystemExit

    setattr(lease, "_renew", end_thread)  # noqa: B010  another signature is the point


def _fail_one_renewal() -> None:
    renew, calls = lease._renew, iter([True])

    def fail_once(*arguments: Any) -> Any:
        if next(calls, False):
            raise RuntimeError("out of the blue")
        return renew(*arguments)

    setattr(lease, "_renew", fail_once)  # noqa: B010  likewise


CRASHES: dict[str, Callable[[], None]] = {
    "before the insert": lambda: _crash_before(Flow, "insert"),
    "after the insert": lambda: _crash_after(Flow, "insert"),
    "before the claim": lambda: _crash_before(Flow, "claim"),
    "after the claim": lambda: _crash_after(Flow, "claim"),
    "before the settle": lambda: _crash_before(Flow, "settle"),
    "after the settle": lambda: _crash_after(Flow, "settle"),
    "during stop": lambda: _crash_before(Runs, "finish"),
    "before the recovery": lambda: _crash_before(Flow, "recover"),
    "after the recovery": lambda: _crash_after(Flow, "recover"),
    "in the lease thread": _lose_lease_thread,
    "in one renewal": _fail_one_renewal,
}


# --- working --------------------------------------------------------------------------------------------------------


class Records:
    """Writes down that handlers were entered, until it is done, whatever happens to the server."""

    def __init__(self, entries: AsyncCollection[dict[str, Any]]) -> None:
        self._entries = entries.with_options(write_concern=WriteConcern("majority"))

    async def write(self, job: Job[Any]) -> None:
        entry = {
            "_id": ObjectId(),
            "job": job.id,
            "pid": os.getpid(),
            "attempt": job.attempts,
            "due": job.next_run_at,
            "token": job.claim_token,
            "late": machine_time() - job.next_run_at.timestamp(),
        }
        while True:
            try:
                await self._entries.insert_one(dict(entry))
            except DuplicateKeyError:
                return
            except PyMongoError:
                await asyncio.sleep(0.1)
            else:
                return


def machine_time() -> float:
    """The time of this machine, even if this process' clock is off."""
    hatch = time_machine.escape_hatch
    return hatch.time.time() if hatch.is_travelling() else time.time()


def declare_workers(monque: Monque, names: list[str], records: Records | None) -> None:
    async def handle(job: Job[dict[str, Any]]) -> None:
        if records is not None:
            await records.write(job)
        if job.data.get("kill"):
            die()
        await asyncio.sleep(job.data.get("seconds", 0))

    for name in names:
        monque.worker(name, handle)


def report(event: Event) -> None:
    job = getattr(event, "job", None)
    facts = {name: getattr(event, name) for name in ("error", "count", "will_retry") if hasattr(event, name)}
    tell(event.name, job=None if job is None else job.id, **facts)


async def work(monque: Monque) -> None:
    async with monque:
        running = asyncio.create_task(monque.run())
        tell("ready")
        while not await _is_done(running):
            tell("health", healthy=monque.is_healthy())
        await running
    tell("stopped")


async def _is_done(task: asyncio.Task[None]) -> bool:
    return bool((await asyncio.wait([task], timeout=0.5))[0])


async def produce(monque: Monque, asked: list[dict[str, Any]]) -> None:
    """Enqueue everything at once, when told to."""
    async with monque:
        tell("ready")
        await asyncio.to_thread(sys.stdin.readline)
        jobs = await asyncio.gather(*(monque.enqueue(**one) for one in asked))
    tell("enqueued", jobs=[job.id for job in jobs])


async def main(given: dict[str, Any]) -> None:
    monque = Monque(given["uri"], options_from(given.get("options", {})))
    for event in _EVENTS:
        monque._events.on(event, report)
    async with AsyncMongoClient[dict[str, Any]](given["uri"]) as client:
        records = Records(client.get_default_database().entries) if given.get("record", True) else None
        declare_workers(monque, given.get("names", ["job"]), records)
        if given.get("task", "work") == "work":
            await work(monque)
        else:
            await produce(monque, given["jobs"])


def run(given: dict[str, Any]) -> None:
    end_with_parent()
    if "crash" in given:
        CRASHES[given["crash"]]()
    with time_machine.travel(time.time() + given["clock"], tick=True) if "clock" in given else nullcontext():
        asyncio.run(main(given))


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
