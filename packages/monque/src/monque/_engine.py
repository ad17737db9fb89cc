"""The engine: claims what can start, runs it, settles what comes back."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from monque import _transitions as transitions
from monque._agenda import Agenda
from monque._batching import Batcher
from monque._execution import execute
from monque._settlement import Finished, finish, plan
from monque.errors import ShutdownTimeoutError
from monque.events import JobCompleteEvent, JobErrorEvent, JobFailEvent, JobStartEvent
from monque.options import seconds
from monque.outcome import RELEASED, Completed, Failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bson import ObjectId

    from monque._clock import ServerClock
    from monque._store.flow import Claimed, Flow, Settled
    from monque._transitions import Transition
    from monque.events import Events
    from monque.job import Job
    from monque.options import Options
    from monque.worker import Worker, Workers

_LARGEST_SETTLE = 1000
# Beyond this many runs whose outcome is not written yet, no new ones are started.
_MOST_UNSETTLED = 5000
# How long handlers that were cancelled get to clean up.
_CLEAN_UP = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class Engine:
    """One instance at work, from `run()` until `stop()`."""

    def __init__(
        self,
        flow: Flow,
        workers: Workers,
        options: Options,
        *,
        events: Events,
        clock: ServerClock,
        instance: str,
    ) -> None:
        self._flow = flow
        self._workers = workers
        self._options = options
        self._events = events
        self._clock = clock
        self._instance = instance
        self._agenda = Agenda(workers, options.concurrency)
        self._settles: Batcher[Finished] = Batcher(self._settle, largest=_LARGEST_SETTLE)
        self._running: dict[asyncio.Task[None], Job[Any]] = {}
        self._signal = asyncio.Event()
        self._hurry = asyncio.Event()
        self._stopping = False
        self._give_up_at = float("inf")
        self._next_poll = 0.0
        self._ticked = time.monotonic()
        self._pause = _FIRST_PAUSE

    async def run(self) -> None:
        """Work until `stop()`, then end in order: running handlers finish, what they came to is written."""
        while not self._stopping:
            wanted, limit = self._next()
            if limit:
                await self._claim(wanted, limit)
            else:
                await self._wait(self._next_poll - time.monotonic())
            self._poll()
        await self._finish_running()
        await self._settles.flush()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop()` was called."""
        return self._stopping

    def stop(self, *, hurry: bool = False) -> None:
        """Start nothing more; with `hurry`, cancel what is running instead of waiting for it."""
        if not self._stopping:
            self._stopping = True
            self._give_up_at = time.monotonic() + seconds(self._options.shutdown_timeout) + _CLEAN_UP
        if hurry:
            self._hurry.set()
        self._signal.set()

    def wake(self, names: Iterable[str]) -> None:
        """There may be due jobs of these names."""
        self._agenda.open(names)
        self._signal.set()

    def is_healthy(self) -> bool:
        """Whether it has come round lately."""
        return time.monotonic() - self._ticked < 3 * seconds(self._options.polling.interval) + _LONGEST_PAUSE

    def _next(self) -> tuple[dict[str, int], int]:
        wanted, limit = self._agenda.wanted()
        return wanted, limit if len(self._settles) < _MOST_UNSETTLED else 0

    def _poll(self) -> None:
        now = time.monotonic()
        if now >= self._next_poll:
            self._next_poll = now + seconds(self._options.polling.interval)
            self._agenda.open(self._workers.names())

    async def _wait(self, longest: float) -> None:
        """Wait for a signal, or for `longest` seconds."""
        timer = asyncio.get_running_loop().call_later(max(longest, 0), self._signal.set)
        await self._signal.wait()
        timer.cancel()
        self._signal.clear()
        self._ticked = time.monotonic()

    async def _claim(self, wanted: dict[str, int], limit: int) -> None:
        self._agenda.close(wanted)
        try:
            sighting = await self._flow.look(wanted, limit)
        except PyMongoError as error:
            self._agenda.open(wanted)
            await self._recover_from(error)
            return
        chosen = self._agenda.choose(wanted, limit, sighting)
        if chosen:
            await self._take([candidate.id for candidate in chosen])
        self._ticked = time.monotonic()
        self._pause = _FIRST_PAUSE

    async def _take(self, jobs: Sequence[ObjectId]) -> None:
        """Claim, until it is known what came of it: an error may hide that the claim was made."""
        token = secrets.token_hex(12)
        deadline = time.monotonic() + seconds(self._options.lease.timeout)
        while time.monotonic() < deadline:
            try:
                claimed = await self._flow.claim(
                    jobs,
                    token=token,
                    instance=self._instance,
                    heartbeat_interval=self._options.lease.heartbeat_interval,
                )
            except PyMongoError as error:
                await self._recover_from(error)
            else:
                await self._begin(claimed, token)
                return

    async def _begin(self, claimed: Claimed, token: str) -> None:
        for job in claimed.jobs:
            if self._stopping:
                self._settles.add(Finished(job, token, RELEASED, 0))
            else:
                self._start(job, token)
        if claimed.unreadable:
            await self._reject(claimed.unreadable, token)

    def _start(self, job: Job[Any], token: str) -> None:
        self._agenda.occupy(job.name)
        task = asyncio.get_running_loop().create_task(self._perform(self._workers[job.name], job, token))
        self._running[task] = job
        task.add_done_callback(self._ended)

    async def _perform(self, worker: Worker, job: Job[Any], token: str) -> None:
        self._events.emit(JobStartEvent, job)
        started = time.perf_counter()
        outcome = await execute(worker, job)
        duration = time.perf_counter() - started
        self._settles.add(finish(job, token, outcome, duration, retry=self._options.retry, now=self._clock.now()))

    def _ended(self, task: asyncio.Task[None]) -> None:
        # The slot is held by the task and by nothing else, so however a run ends it is free again.
        self._agenda.vacate(self._running.pop(task).name)
        self._signal.set()

    async def _reject(self, unreadable: dict[ObjectId, Exception], token: str) -> None:
        changes = [transitions.reject(job, token, reason=str(error)) for job, error in unreadable.items()]
        await self._write(changes)
        for error in unreadable.values():
            self._events.emit(JobErrorEvent, error)

    async def _settle(self, finished: list[Finished]) -> None:
        settled = await self._write(plan(finished))
        self._signal.set()
        if settled is not None:
            for run in finished:
                self._announce(run, settled)

    async def _write(self, changes: Sequence[Transition]) -> Settled | None:
        """Settle, however often it takes; None if the shutdown's time ran out over it."""
        while True:
            try:
                return await self._flow.settle(changes)
            except PyMongoError as error:
                self._events.emit(JobErrorEvent, error)
            if time.monotonic() >= self._give_up_at:
                return None
            await self._rest()

    def _announce(self, run: Finished, settled: Settled) -> None:
        if run.job.id in settled.lost:
            return
        if run.job.id in settled.refused:
            self._events.emit(JobErrorEvent, settled.refused[run.job.id], run.job)
        elif isinstance(run.outcome, Completed):
            self._events.emit(JobCompleteEvent, run.job, run.duration)
        elif isinstance(run.outcome, Failed):
            self._events.emit(JobFailEvent, run.job, run.outcome.error, run.retry_at is not None)

    async def _recover_from(self, error: PyMongoError) -> None:
        self._events.emit(JobErrorEvent, error)
        await self._rest()

    async def _rest(self) -> None:
        """Pause after an error, longer each time."""
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _finish_running(self) -> None:
        """Let running handlers finish; cancel and release those that take too long."""
        await self._wait_for_running(seconds(self._options.shutdown_timeout), self._hurry)
        if not self._running:
            return
        late = list(self._running.values())
        for task in self._running:
            task.cancel()
        timeout = seconds(self._options.shutdown_timeout)
        self._events.emit(JobErrorEvent, ShutdownTimeoutError(timeout, late))
        await self._wait_for_running(_CLEAN_UP, asyncio.Event())

    async def _wait_for_running(self, timeout: float, cut_short: asyncio.Event) -> None:
        deadline = time.monotonic() + timeout
        cut = asyncio.ensure_future(cut_short.wait())
        while self._running and not cut.done() and (left := deadline - time.monotonic()) > 0:
            await asyncio.wait([*self._running, cut], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
