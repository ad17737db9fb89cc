"""The engine: claims what can start, runs it, settles what comes back."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import pymongo
from pymongo.errors import PyMongoError

from monque import _transitions as transitions
from monque import events as ev
from monque._agenda import Agenda
from monque._batching import Batcher
from monque._execution import execute
from monque._lease import LeaseKeeper, Reports
from monque._recovery import Recovery, plan_recovery
from monque._settlement import Finished, finish, plan
from monque._store.flow import OLDEST_LEASES, Settled
from monque._timetable import Timetable
from monque._upkeep import happens_within
from monque._wakeup import Hint, Wakeup
from monque.errors import MonqueError, ShutdownTimeoutError
from monque.options import seconds
from monque.outcome import COMPLETED, RELEASED, Completed, Failed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from bson import ObjectId

    from monque._clock import ServerClock
    from monque._store.flow import Claimed, Flow
    from monque.job import Job
    from monque.options import Options
    from monque.worker import Workers

T = TypeVar("T")

_LARGEST_SETTLE = 1000
# Beyond this many runs whose outcome is not written yet, no new ones are started.
_MOST_UNSETTLED = 5000
# How long handlers that were cancelled get to clean up.
_CLEAN_UP = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# A database that has not answered for this long is not there.
_PATIENCE = 5.0


class _Run:
    """A handler at work.

    Attributes:
        job: The job, as claimed.
        token: The token of its claim.
        task: What runs the handler.
    """

    __slots__ = ("job", "task", "token")

    def __init__(self, job: Job[Any], token: str) -> None:
        self.job = job
        self.token = token
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """Cut it short."""
        if self.task is not None:
            self.task.cancel()


class Engine:
    """One instance at work, from `run()` until `stop()`."""

    def __init__(
        self, flow: Flow, workers: Workers, options: Options, *, events: ev.Events, clock: ServerClock, instance: str
    ) -> None:
        self._flow = flow
        self._workers = workers
        self._options = options
        self._events = events
        self._clock = clock
        self._instance = instance
        self._lease = seconds(options.lease.timeout)
        self._agenda = Agenda(workers, options.concurrency)
        self._times = Timetable(clock)
        self._wakeup = Wakeup(flow, workers.names, events, self._hinted)
        self._settles: Batcher[Finished] = Batcher(self._settle, largest=_LARGEST_SETTLE)
        self._running: set[_Run] = set()
        # Tokens by job id, from the claim until the outcome is written.
        self._held: dict[ObjectId, str] = {}
        self._keeper = LeaseKeeper(
            flow.collection,
            self._held,
            Reports(lost=self._lost, trouble=self._report, culprit=self._current_job),
            instance=instance,
            interval=options.lease.heartbeat_interval,
        )
        self._signal = asyncio.Event()
        self._hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._give_up_at = float("inf")
        self._ticked = time.monotonic()
        self._asked: dict[object, float] = {}
        self._pause = _FIRST_PAUSE

    # --- from start to stop -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop()`, then end in order: running handlers finish, what they came to is written."""
        async with self._keeper.keeping():
            async with self._wakeup.listening():
                while not self.is_stopping:
                    await self._work()
            await self._finish_running()
            await self._settles.flush()

    def stop(self, *, hurry: bool = False) -> None:
        """Start nothing more; with `hurry`, cancel what is running instead of waiting for it."""
        if not self.is_stopping:
            self._stopping.set()
            self._give_up_at = time.monotonic() + seconds(self._options.shutdown_timeout) + _CLEAN_UP
        if hurry:
            self._hurry.set()
        self._signal.set()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop()` was called."""
        return self._stopping.is_set()

    def is_healthy(self) -> bool:
        """Whether it has come round lately, gets answers, and the leases it holds are being renewed."""
        now = time.monotonic()
        oldest_question = min(self._asked.values(), default=now)
        return (
            now - self._ticked < self._poll_interval() + _PATIENCE
            and now - oldest_question < _PATIENCE
            and self._keeper.is_healthy()
        )

    def notice(self, jobs: Iterable[tuple[str | None, datetime]]) -> None:
        """There may be jobs of these names (None: of any), due at these times."""
        now = self._clock.now()
        for name, due in jobs:
            if name is not None and name not in self._workers:
                continue
            if due <= now:
                self._agenda.open(self._workers.names() if name is None else [name])
            else:
                self._times.expect(due)
        self._signal.set()

    def listen_anew(self) -> None:
        """There is another worker: look for its jobs, and listen for them."""
        self._wakeup.restart()
        self._hinted(None)

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Do one thing, the most pressing one; wait if there is none."""
        if self._times.is_time_to_look(self._poll_interval()):
            self._agenda.open(self._workers.names())
        wanted, limit = self._agenda.wanted()
        try:
            if self._times.is_lease_due():
                await self._survey()
            elif limit and len(self._settles) < _MOST_UNSETTLED:
                await self._claim(wanted, limit)
            elif self._times.unknown:
                await self._survey()
            else:
                await self._wait()
        except Exception as error:  # noqa: BLE001  nothing ends an instance but `stop()`
            # Whatever it was doing is not done.
            self._agenda.open(wanted)
            self._times.unknown = True
            await self._pause_after(error)
        else:
            self._pause = _FIRST_PAUSE
            self._ticked = time.monotonic()

    def _poll_interval(self) -> float:
        polling = self._options.polling
        return seconds(polling.safety if self._wakeup.streaming else polling.interval)

    async def _wait(self) -> None:
        timer = self._loop.call_later(self._times.left(), self._signal.set)
        await self._signal.wait()
        timer.cancel()
        self._signal.clear()

    def _hinted(self, hint: Hint | None) -> None:
        if hint is None:
            self._times.hasten()
            self._signal.set()
        else:
            self.notice([(hint.name, hint.due or self._clock.now())])

    async def _ask(self, question: Awaitable[T]) -> T:
        """Await the database, but not for ever: a connection that says nothing is as good as cut."""
        asked = object()
        self._asked[asked] = time.monotonic()
        try:
            with pymongo.timeout(self._lease):
                return await question
        finally:
            del self._asked[asked]

    async def _pause_after(self, error: BaseException) -> None:
        """Report, and wait: longer each time, but not beyond the beginning of the stop."""
        self._report(error)
        await happens_within(self._stopping, self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _report(self, error: BaseException) -> None:
        self._events.emit(ev.JobErrorEvent, error)

    # --- claiming ---------------------------------------------------------------------------------------------------

    async def _claim(self, wanted: dict[str, int], limit: int) -> None:
        if not self._keeper.is_healthy():
            raise MonqueError("leases cannot be renewed; no jobs are claimed until they can")
        self._agenda.close(wanted)
        sighting = await self._ask(self._flow.look(wanted, limit))
        chosen = self._agenda.choose(wanted, limit, sighting)
        if chosen and not self.is_stopping:
            taken = await self._take([candidate.id for candidate in chosen])
            if not taken:
                self._agenda.open(wanted)

    async def _take(self, jobs: Sequence[ObjectId]) -> bool:
        """Claim, until it is known what came of it: an error may hide that the claim was made. False if it never is."""
        token = secrets.token_hex(12)
        deadline = time.monotonic() + self._lease
        while time.monotonic() < min(deadline, self._give_up_at):
            try:
                claimed = await self._ask(
                    self._flow.claim(
                        jobs,
                        token=token,
                        instance=self._instance,
                        heartbeat_interval=self._options.lease.heartbeat_interval,
                    )
                )
            except PyMongoError as error:
                await self._pause_after(error)
            else:
                await self._begin(claimed, token)
                return True
        return False

    async def _begin(self, claimed: Claimed, token: str) -> None:
        self._lost({job.id: self._held[job.id] for job in claimed.jobs if job.id in self._held})
        self._held.update((job.id, token) for job in claimed.jobs)
        if self.is_stopping:
            for job in claimed.jobs:
                self._settles.add(Finished(job, token, RELEASED))
        else:
            for job in claimed.jobs:
                self._start(_Run(job, token))
        if claimed.unreadable:
            changes = [transitions.reject(job, token, reason=str(error)) for job, error in claimed.unreadable.items()]
            await self._persist(lambda: self._flow.settle(changes))
            for error in claimed.unreadable.values():
                self._report(error)

    # --- running ----------------------------------------------------------------------------------------------------

    def _start(self, run: _Run) -> None:
        self._agenda.occupy(run.job.name)
        self._running.add(run)
        run.task = self._loop.create_task(self._perform(run))

    async def _perform(self, run: _Run) -> None:
        job = run.job
        try:
            self._events.emit(ev.JobStartEvent, job)
            started = time.perf_counter()
            outcome = await execute(self._workers[job.name], job)
            if outcome is RELEASED and not self.is_stopping:
                # Nobody but a stop gives jobs back: the handler has cancelled itself.
                outcome = Failed(asyncio.CancelledError())
            finished = Finished(job, run.token, outcome, time.perf_counter() - started)
            if self._held.get(job.id) == run.token:
                self._settles.add(self._decide(finished))
        finally:
            # The slot is held by this task and by nothing else, so however the run ends it is free again.
            self._running.discard(run)
            self._agenda.vacate(job.name)
            self._signal.set()

    def _decide(self, finished: Finished) -> Finished:
        """What follows from an outcome; for most, nothing does."""
        if finished.outcome is COMPLETED and finished.job.repeat_interval is None:
            return finished
        return finish(finished, retry=self._options.retry, now=self._clock.now())

    def _current_job(self) -> Job[Any] | None:
        """The job whose handler has the event loop at this moment; asked from another thread."""
        task = asyncio.current_task(self._loop)
        return next((run.job for run in self._running.copy() if run.task is task), None)

    def _lost(self, lost: Mapping[ObjectId, str]) -> None:
        """Give up runs whose claim is gone. Those that have ended are found out when they are settled."""
        for run in [run for run in self._running if lost.get(run.job.id) == run.token] if lost else ():
            if self._held.get(run.job.id) == run.token:
                del self._held[run.job.id]
                self._events.emit(ev.JobLostEvent, run.job)
                run.cancel()

    # --- settling ---------------------------------------------------------------------------------------------------

    async def _settle(self, finished: list[Finished]) -> None:
        held = [run for run in finished if self._is_held(run)]
        settled = await self._persist(lambda: self._flow.settle(plan(held))) if held else None
        if settled is not None:
            for run in held:
                if not (settled.lost and await self._is_resettled(run, settled)):
                    self._close(run, settled)
        self._signal.set()

    def _is_held(self, run: Finished) -> bool:
        """Whether the job was not claimed again, here, while the outcome waited to be written."""
        if self._held.get(run.job.id) == run.token:
            return True
        self._events.emit(ev.JobLostEvent, run.job)
        return False

    async def _persist(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """Get an answer from the database, however often it takes; None if the shutdown's time ran out over it."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._ask(question())
            except PyMongoError as error:
                self._report(error)
            if time.monotonic() >= self._give_up_at:
                return None
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _is_resettled(self, run: Finished, settled: Settled) -> bool:
        """Settle again what was not written because the job was given another schedule meanwhile."""
        if run.job.id not in settled.lost:
            return False
        job = await self._persist(lambda: self._flow.reread(run.job.id, run.token))
        if job is None:
            return False
        self._settles.add(self._decide(replace(run, job=job, repeat_at=None)))
        return True

    def _close(self, run: Finished, settled: Settled) -> None:
        """The outcome is written, or never will be: say so."""
        job = run.job
        if self._held.get(job.id) == run.token:
            del self._held[job.id]
        if settled.lost and job.id in settled.lost:
            self._events.emit(ev.JobLostEvent, job)
        elif settled.refused and job.id in settled.refused:
            self._events.emit(ev.JobErrorEvent, settled.refused[job.id], job)
        else:
            self._announce(run)

    def _announce(self, run: Finished) -> None:
        if isinstance(run.outcome, Completed):
            self._events.emit(ev.JobCompleteEvent, run.job, run.duration)
        elif isinstance(run.outcome, Failed):
            self._events.emit(ev.JobFailEvent, run.job, run.outcome.error, run.retry_at is not None)
        if run.next_run_at is not None:
            self.notice([(run.job.name, run.next_run_at)])

    # --- looking ahead ----------------------------------------------------------------------------------------------

    async def _survey(self) -> None:
        """Find out when there will be something to do, and take back jobs whose leases ran out."""
        survey = await self._ask(self._flow.survey(self._workers.names(), self._times.since))
        if not self._options.recover:
            self._times.surveyed(survey.next_due, None)
            return
        recovery = plan_recovery(
            [lease for lease in survey.leases if lease["_id"] not in self._held],
            now=self._clock.now(),
            timeout=self._lease,
            max_attempts=self._options.retry.max_retries,
        )
        await self._recover(recovery)
        # Only now: should the recovery fail, it is tried again at once and not at the next poll.
        self._times.surveyed(survey.next_due, recovery.next_expiry)
        if (recovery.requeue or recovery.fail) and len(survey.leases) == OLDEST_LEASES:
            self._times.unknown = True

    async def _recover(self, recovery: Recovery) -> None:
        count = 0
        if recovery.requeue:
            count += await self._ask(self._flow.recover(recovery.requeue))
        for change, error in recovery.fail:
            job = await self._ask(self._flow.apply(change))
            if job is not None:
                count += 1
                self._events.emit(ev.JobFailEvent, job, error, False)
        if count:
            self._events.emit(ev.StaleRecoveredEvent, count)
            self._agenda.open(self._workers.names())

    # --- ending -----------------------------------------------------------------------------------------------------

    async def _finish_running(self) -> None:
        """Let running handlers finish; cancel and release those that take too long."""
        timeout = seconds(self._options.shutdown_timeout)
        await self._wait_for_running(timeout, self._hurry)
        if self._running:
            late = [run.job for run in self._running]
            for run in self._running:
                run.cancel()
            self._report(ShutdownTimeoutError(timeout, late))
            await self._wait_for_running(_CLEAN_UP, asyncio.Event())

    async def _wait_for_running(self, timeout: float, cut_short: asyncio.Event) -> None:
        deadline = time.monotonic() + timeout
        cut = asyncio.ensure_future(cut_short.wait())
        while self._running and not cut.done() and (left := deadline - time.monotonic()) > 0:
            tasks = [run.task for run in self._running if run.task is not None]
            await asyncio.wait([*tasks, cut], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
