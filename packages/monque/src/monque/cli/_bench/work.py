"""Jobs that do nothing: making them, counting them, working them off."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monque import Concurrency, Job, JobCompleteEvent, Monque, Options
from monque._waiting import happens_within
from monque.cli._bench.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterable

_LARGEST_BATCH = 1000
_LARGEST_BYTES = 16_000_000
# As long as one job after the other is settled, a run may take its time.
PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is to be worked off.

    Attributes:
        jobs: How many jobs.
        concurrency: How many run at once, and the size of a bare batch.
        names: Their names, in turn.
        payload: Bytes of text in the data of each.
        delay: Seconds until they are due.
    """

    jobs: int
    concurrency: int
    names: tuple[str, ...] = ("job",)
    payload: int = 0
    delay: float = 0.0

    def options(self, collection: str, *, create_indexes: bool = True) -> Options:
        """Monque's options for it."""
        together = self.concurrency if len(self.names) > 1 else None
        limits = Concurrency(per_worker=self.concurrency, per_instance=together)
        return Options(collection=collection, concurrency=limits, create_indexes=create_indexes)

    async def enqueue(self, monque: Monque) -> None:
        """Enqueue the jobs."""
        batch = max(1, min(_LARGEST_BATCH, _LARGEST_BYTES // max(1, self.payload)))
        for start in range(0, self.jobs, batch):
            await monque.enqueue_many(self._requests(range(start, min(start + batch, self.jobs))))

    def _requests(self, numbers: Iterable[int]) -> Iterable[dict[str, Any]]:
        text = {"text": "x" * self.payload} if self.payload else {}
        for number in numbers:
            name = self.names[number % len(self.names)]
            yield {"name": name, "data": {"n": number, **text}, "delay": self.delay or None}

    def work(self, monque: Monque) -> Countdown:
        """Declare workers for the jobs, and count those they complete."""
        for name in self.names:
            monque.worker(name, do_nothing)
        return Countdown(monque, self.jobs)


async def do_nothing(_: Job[Any]) -> None:
    """The handler of all these jobs."""


class Countdown:
    """Counts the jobs an instance completes.

    Args:
        monque: The instance.
        jobs: How many there will be.

    Attributes:
        left: How many are still to come.
    """

    def __init__(self, monque: Monque, jobs: int) -> None:
        self.left = jobs
        self._news = asyncio.Event()
        monque.on("job:complete", self._count)

    def _count(self, _: JobCompleteEvent) -> None:
        self.left -= 1
        if self.left <= 0:
            self._news.set()

    async def wait(self) -> None:
        """Wait for the last one.

        Raises:
            BenchError: None has been settled for a long time.
        """
        left = None
        while not await happens_within(self._news, PATIENCE):
            if left == self.left:
                raise BenchError(f"no job was settled for {PATIENCE:g} s, with {left} to go")
            left = self.left


async def drain(monque: Monque, load: Load) -> float:
    """Seconds from `start()` until the last job is settled."""
    countdown = load.work(monque)
    started = time.perf_counter()
    await monque.start()
    await countdown.wait()
    return time.perf_counter() - started
