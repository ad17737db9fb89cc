"""A process of the bench: `python -m monque.cli._bench.child`. Not for people.

It reads lines of JSON from its parent: first what to do, then, for a worker, when to begin. It answers with lines of
JSON. It ends with its input, whatever it is doing then: so it cannot outlive its parent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from monque import Job, Monque, Options
from monque._connection import open_database
from monque.cli._bench import work
from monque.cli._bench.work import Load
from monque.cli._memory import MEMORY, memory
from monque.errors import MonqueError, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pymongo.asynchronous.database import AsyncDatabase

    from monque import JobCompleteEvent

_WARM_UP = 500


def main() -> None:
    """Do what the parent wants, until it closes the pipe."""
    line = sys.stdin.buffer.readline()
    # What goes wrong is for the parent to say.
    logging.getLogger("monque").addHandler(logging.NullHandler())
    if line:
        ending = threading.Lock()
        asyncio.run(_work(json.loads(line), ending))
        # Two ways to end, and only one may be taken.
        ending.acquire()


async def _work(task: Mapping[str, Any], ending: threading.Lock) -> None:
    begin = asyncio.Event()
    loop = asyncio.get_running_loop()
    tell_to_begin = partial(loop.call_soon_threadsafe, begin.set)
    threading.Thread(target=_listen, args=(tell_to_begin, ending), daemon=True).start()
    try:
        async with open_database(task["uri"]) as given:
            await _ROLES[task["role"]](given.client[task["database"]], task, begin)
    except MonqueError as error:
        tell(error=redact(str(error)))


def _listen(begin: Callable[[], object], ending: threading.Lock) -> None:
    """Say when the parent wants it to begin, and end with it. Unbuffered: a lock on stdin would outlast the loop."""
    while os.read(0, 1):
        begin()
    with ending:
        os._exit(0)


def tell(**facts: object) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def drain(database: AsyncDatabase[Any], task: Mapping[str, Any], begin: asyncio.Event) -> None:
    """Work off jobs from when the parent says so, and tell about memory now and then."""
    load = Load(jobs=task["jobs"], concurrency=task["concurrency"])
    options = load.options(task["collection"], create_indexes=False)
    async with Monque(database, options) as monque:
        await warm_up(monque, load, task["warm_up"])
    async with Monque(database, options) as monque:
        load.work(monque)
        if task["every"]:
            _tell_of_memory(monque, task["every"])
        tell(ready=True)
        await begin.wait()
        await monque.start()
        await asyncio.Event().wait()


async def warm_up(monque: Monque, load: Load, name: str) -> None:
    """Drain jobs of a name of one's own: connections are made, and code has been run."""
    own = Load(jobs=min(load.jobs, _WARM_UP), concurrency=load.concurrency, names=(name,))
    await own.enqueue(monque)
    await work.drain(monque, own)


def _tell_of_memory(monque: Monque, every: int) -> None:
    completed = 0

    def count(_: JobCompleteEvent) -> None:
        nonlocal completed
        completed += 1
        if completed % every == 0:
            tell(bytes=memory(MEMORY))

    monque.on("job:complete", count)


async def consume(database: AsyncDatabase[Any], task: Mapping[str, Any], _: asyncio.Event) -> None:
    """Say when it listens, and in the end how late each job was, in milliseconds."""
    late: list[float] = []
    listening, done = asyncio.Event(), asyncio.Event()

    async def note(job: Job[Any]) -> None:
        # The monotonic clock is that of the machine, and the same in all its processes.
        late.append((time.monotonic() - job.data["called"]) * 1000)
        if len(late) == task["jobs"]:
            done.set()

    async with Monque(database, Options(collection=task["collection"], create_indexes=False)) as monque:
        monque.worker("job", note, concurrency=100)
        for name in ("changestream:connected", "changestream:fallback"):
            monque.on(name, lambda _: listening.set())
        await monque.start()
        await listening.wait()
        tell(ready=True)
        await done.wait()
    tell(late=late)


_ROLES = {"drain": drain, "consume": consume}

if __name__ == "__main__":
    main()
