"""For a long time: one process that enqueues, two that work, of which one is killed again and again. Does it last?

Nothing may be lost, nothing may run twice that was not running in a killed process, and nothing may grow.
"""

from __future__ import annotations

import asyncio
import json
import platform
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _common import Document, Row, scratch, server, table
from _soak_account import Books
from _soak_report import plot, rows
from _soak_watch import Sample, sample

from monque._waiting import happens_within

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import AsyncGenerator, Awaitable, Callable

_PROGRAMS = Path(__file__).with_name("_soak_programs.py")
STEADY, KILLED = "worker 1", "worker 2"
# What is left at the end has this long beyond a lease, and a process this long to end.
_PATIENCE = 60.0
_BALANCE_EVERY = 1.0


@dataclass(frozen=True)
class Settings:
    """How the soak is run; times are in seconds."""

    duration: float
    rate: float
    kill_every: float
    sample_every: float
    lease: float
    seed: int


class Child:
    """One of the processes, and what it tells."""

    def __init__(self, label: str, running: asyncio.subprocess.Process, hear: Callable[[Document], None]) -> None:
        self.label = label
        self.running = running
        self._ready = asyncio.Event()
        self._hear = hear
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self.running.stdout is not None
        async for line in self.running.stdout:
            # What was cut short by a kill is no news.
            if line.endswith(b"\n"):
                self._ready.set()
                self._hear(json.loads(line))

    async def until_ready(self) -> None:
        await asyncio.wait_for(self._ready.wait(), _PATIENCE)

    def begin(self) -> None:
        """Let it do what it is for."""
        assert self.running.stdin is not None
        self.running.stdin.write(b"\n")

    async def end(self) -> None:
        """Ask it to end, and wait until it has."""
        assert self.running.stdin is not None
        self.running.stdin.close()
        await asyncio.wait_for(self.running.wait(), _PATIENCE)
        await self._listening

    async def kill(self) -> None:
        if self.running.returncode is None:
            self.running.kill()
        await self.running.wait()
        await self._listening


class Soak:
    """The processes, the books, and what was seen."""

    def __init__(self, uri: str, database: str, books: Books, settings: Settings) -> None:
        self.books = books
        self.samples: list[Sample] = []
        self.kills: list[float] = []
        self.told: Counter[str] = Counter()
        self.workers: dict[str, Child] = {}
        self.began = time.monotonic()
        self._settings = settings
        self._where = {"uri": uri, "database": database, "lease": settings.lease}
        self._generation = 0

    @property
    def at(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    @asynccontextmanager
    async def processes(self) -> AsyncGenerator[Child]:
        """Two workers, and who enqueues; none outlasts the block."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._end_workers)
            producer = await self._start("produce", "producer", rate=self._settings.rate, seed=self._settings.seed)
            stack.push_async_callback(producer.kill)
            await asyncio.gather(producer.until_ready(), *map(self.start_worker, (STEADY, KILLED)))
            self.began = time.monotonic()
            producer.begin()
            yield producer

    async def start_worker(self, place: str) -> None:
        self._generation += 1
        self.workers[place] = await self._start("work", f"{place}, number {self._generation}")
        await self.workers[place].until_ready()

    async def kill_worker(self) -> None:
        """Kill one, and start another in its place."""
        child = self.workers[KILLED]
        self.books.account.killed.add(child.label)
        self.kills.append(round(self.at, 1))
        await child.kill()
        await self.start_worker(KILLED)

    async def take_sample(self, client: Any) -> None:  # noqa: ANN401  whatever client there is
        pids = {place: (child.running.pid, child.label) for place, child in self.workers.items()}
        self.samples.append(await sample(client, self.books, pids, self.at))

    async def stop_workers(self) -> None:
        for child in self.workers.values():
            await child.end()

    async def _end_workers(self) -> None:
        for child in self.workers.values():
            await child.kill()

    async def _start(self, task: str, label: str, **given: Any) -> Child:  # noqa: ANN401  JSON
        arguments = json.dumps({**self._where, "label": label, **given})
        pipe = asyncio.subprocess.PIPE
        running = await asyncio.create_subprocess_exec(
            sys.executable, str(_PROGRAMS), task, arguments, stdin=pipe, stdout=pipe
        )
        return Child(label, running, self._hear)

    def _hear(self, news: Document) -> None:
        if news["what"] == "enqueued":
            self.books.account.announced.add(news["job"])
        elif news["what"] != "ready":
            error = f": {news['error']}" if "error" in news else ""
            self.told[news["what"] + error] += 1


async def every(interval: float, action: Callable[[], Awaitable[object]], leaving: asyncio.Event) -> None:
    """Again and again, at times that do not drift; what has begun is not cut short."""
    begin, number = time.monotonic(), 1
    while not await happens_within(leaving, max(begin + number * interval - time.monotonic(), 0)):
        await action()
        number += 1


async def last(soak: Soak, client: Any, settings: Settings) -> None:  # noqa: ANN401  whatever client there is
    """Let it go on for its time."""
    leaving = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(every(_BALANCE_EVERY, soak.books.balance, leaving))
        group.create_task(every(settings.sample_every, lambda: soak.take_sample(client), leaving))
        group.create_task(every(settings.kill_every, soak.kill_worker, leaving))
        await asyncio.sleep(settings.duration)
        leaving.set()


async def drain(books: Books, settings: Settings) -> None:
    """Let what was enqueued come to its end: what ran in a killed process does so after its lease."""
    deadline = time.monotonic() + settings.lease + _PATIENCE
    while await books.left() and time.monotonic() < deadline:
        await books.balance()
        await asyncio.sleep(0.2)


async def run(uri: str | None, settings: Settings) -> Document:
    async with server(uri) as address, scratch(address) as database:
        books = Books(database)
        await books.open()
        soak = Soak(address, database.name, books, settings)
        async with soak.processes() as producer:
            await last(soak, database.client, settings)
            await producer.end()
            await drain(books, settings)
            await soak.stop_workers()
        while await books.balance(final=True):
            pass
        books.account.judge_ticks()
    return outcome(soak, settings)


def outcome(soak: Soak, settings: Settings) -> Document:
    account = soak.books.account
    return {
        "benchmark": "soak",
        "machine": f"Python {platform.python_version()}, {platform.machine()}",
        "settings": vars(settings),
        "enqueued": len(account.announced),
        "lost": sorted(account.lost),
        "wrong": account.wrong,
        "statuses": dict(account.statuses),
        "runs": account.runs,
        "kills": soak.kills,
        "run again after a kill": account.again,
        "occurrences": len(account.ticks),
        "occurrences missed": account.missed,
        "told": dict(soak.told),
        "rows": rows(soak.samples),
        "samples": soak.samples,
    }


def show(result: Document) -> None:
    settings = ", ".join(f"{name} {value:g}" for name, value in result["settings"].items())
    print(f"soak ({result['machine']}; {settings})")
    for line in table(result["rows"]):
        print(line)
    counts: list[Row] = [
        {"": "enqueued", "jobs": result["enqueued"]},
        {"": "lost", "jobs": len(result["lost"])},
        {"": "wrong", "jobs": len(result["wrong"])},
        *({"": status, "jobs": number} for status, number in sorted(result["statuses"].items())),
        {"": "handlers entered", "jobs": result["runs"]},
        {"": "processes killed", "jobs": len(result["kills"])},
        *({"": what, "jobs": result[what]} for what in ("run again after a kill", "occurrences", "occurrences missed")),
        *({"": what, "jobs": number} for what, number in result["told"].items()),
    ]
    for line in table(counts):
        print(line)
    for line in [*result["lost"], *result["wrong"]][:20]:
        print(line)


def arguments() -> Namespace:
    made = ArgumentParser(description=__doc__)
    made.add_argument("--uri", help="a MongoDB; by default one is started, and thrown away afterwards")
    made.add_argument("--minutes", type=float, default=30)
    made.add_argument("--rate", type=float, default=50, help="jobs per second")
    made.add_argument("--kill-every", type=float, default=180, help="seconds")
    made.add_argument("--sample-every", type=float, default=10, help="seconds")
    made.add_argument("--lease", type=float, default=30, help="seconds")
    made.add_argument("--seed", type=int, default=1, help="of the dice that mix the jobs")
    made.add_argument("--json", type=Path, metavar="FILE", help="where everything that was seen is written")
    made.add_argument("--plot", type=Path, metavar="FILE.svg", help="where it is drawn")
    return made.parse_args()


def main() -> None:
    chosen = arguments()
    settings = Settings(
        chosen.minutes * 60, chosen.rate, chosen.kill_every, chosen.sample_every, chosen.lease, chosen.seed
    )
    result = asyncio.run(run(chosen.uri, settings))
    show(result)
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    if chosen.plot is not None:
        plot(result["samples"], result["kills"], chosen.plot)
    sys.exit(1 if result["lost"] or result["wrong"] else 0)


if __name__ == "__main__":
    main()
