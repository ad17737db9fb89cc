"""The engine: claims what can start, runs it, settles what comes back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pymongo
from pymongo.errors import PyMongoError

from monque import _transitions as transitions
from monque import events as ev
from monque._agenda import Agenda, Spread
from monque._batching import Batcher
from monque._execution import Executor, ended_with
from monque._journal import Journal
from monque._lease import LeaseKeeper, Reports
from monque._recovery import Recovery, plan_recovery
from monque._retry import policy, policy_of_document
from monque._scope import Scope
from monque._settlement import Finished, finish, plan, without_result
from monque._store.flow import OLDEST_LEASES, Settled
from monque._store.search import due_by
from monque._timetable import Timetable
from monque._transaction import InDoubtError, Steps, transact
from monque._upkeep import happens_within
from monque._wakeup import Hint, Wakeup
from monque.errors import JobTimeoutError, MonqueError, ResultError, ShutdownTimeoutError, StuckHandlerError
from monque.options import Timeout, seconds
from monque.outcome import COMMITTED, COMPLETED, RELEASED, Completed, Failed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
    from datetime import datetime

    from bson import ObjectId
    from pymongo.asynchronous.client_session import AsyncClientSession

    from monque._clock import ServerClock
    from monque._store.flow import Claimed, Flow
    from monque._store.search import Candidate
    from monque._transitions import Transition
    from monque.job import Job
    from monque.options import Options, Retry
    from monque.outcome import Outcome
    from monque.worker import AnyWorker, Workers

T = TypeVar("T")

_LARGEST_SETTLE = 1000
# A claim for this many jobs is worth making while another is on its way; then the server need not wait for us.
_WORTHWHILE_CLAIM = 50
_MOST_CLAIMS = 3
# Beyond this many runs whose outcome is not written yet, no new ones are started.
_MOST_UNSETTLED = 5000
# How long handlers that were cancelled get to clean up.
_CLEAN_UP = 5.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
# What became due while the question about what lies ahead was on its way, in seconds, is to be among the answers.
_OVERLAP = 1.0
# Jobs that a transaction of a dead process has locked are tried again after so long.
_UNLOCKED_AFTER = timedelta(seconds=2)
# A database that has not answered for this long is not there.
_PATIENCE = 5.0


class _Run(Scope):
    """A handler at work.

    Attributes:
        token: The token of the claim.
        worker: The worker, as it was when the run began.
        task: What runs the handler.
        has_begun: Whether the task has taken its first step.
        is_settled: Whether its outcome was decided without waiting for its end.
        is_settling: Whether its outcome is being written, in the transaction that the handler was part of.
        committed: What is written in the transaction that the handler is part of, once that is committed.
        timers: Go off when it has taken too long.
    """

    __slots__ = ("committed", "has_begun", "is_settled", "is_settling", "task", "timers", "token", "worker")

    def __init__(self, job: Job[Any], token: str, worker: AnyWorker, journal: Journal | None = None) -> None:
        super().__init__(job, journal, worker.keep_logs)
        self.token = token
        self.worker = worker
        self.task: asyncio.Task[None] | None = None
        self.has_begun = self.is_settled = self.is_settling = False
        self.committed: Finished | None = None
        self.timers: list[asyncio.TimerHandle] = []

    def end(self, ending: BaseException | None = None) -> None:
        """Tell the handler to end. A task that is cancelled before its first step would never free its slot."""
        self.should_stop = True
        self.ending = ending or self.ending
        if self.task is not None and self.has_begun:
            self.task.cancel()


class Engine:
    """One instance at work, from `run()` until `stop()`."""

    def __init__(  # noqa: PLR0913  one place that puts all of it together
        self,
        flow: Flow,
        workers: Workers,
        executor: Executor,
        options: Options,
        *,
        events: ev.Events,
        clock: ServerClock,
        instance: str,
    ) -> None:
        self._flow = flow
        self._workers = workers
        self._options = options
        self._retention = options.retention or None
        self._executor = executor
        self._events = events
        self._clock = clock
        self._instance = instance
        self._lease = seconds(options.lease.timeout)
        self._agenda = Agenda(workers, options.concurrency)
        self._spread = Spread()
        self._times = Timetable(clock)
        self._wakeup = Wakeup(flow, workers.names, events, self._hinted)
        self._settles: Batcher[Finished] = Batcher(self._settle, largest=_LARGEST_SETTLE)
        self._running: set[_Run] = set()
        # Claims on their way, and what they are for; the slots are taken already.
        self._claims: dict[asyncio.Task[None], list[Candidate]] = {}
        # Tokens by job id, from the claim until the outcome is written.
        self._held: dict[ObjectId, str] = {}
        # Jobs whose leases are left alone: their documents are being changed in a transaction.
        self._unrenewed: set[ObjectId] = set()
        self._journal = Journal(self._remark, self._report, clock, held_back=self._unrenewed)
        self._keeper = LeaseKeeper(
            flow.collection,
            self._held,
            self._unrenewed,
            Reports(lost=self._lost, trouble=self._report, culprit=self._current_job),
            instance=instance,
            interval=options.lease.heartbeat_interval,
        )
        self._signal = asyncio.Event()
        self._hurry = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._stopped = self._give_up_at = float("inf")
        self._ticked = time.monotonic()
        self._asked: dict[object, float] = {}
        self._pause = _FIRST_PAUSE

    # --- from start to stop -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop()`, then end in order: running handlers finish, what they came to is written."""
        async with self._keeper.keeping(), self._hearing_of_cancellations():
            async with self._wakeup.listening():
                while not self.is_stopping:
                    await self._work()
            while self._claims:
                await asyncio.wait(self._claims)
            await self._finish_running()
            await self._end_processes()
            await self._settles.flush()
            await self._journal.close()

    @asynccontextmanager
    async def _hearing_of_cancellations(self) -> AsyncGenerator[None]:
        self._events.on("job:cancelled", self._cancelled)
        self._events.on("jobs:cancelled", self._cancelled)
        try:
            yield
        finally:
            self._events.off("job:cancelled", self._cancelled)
            self._events.off("jobs:cancelled", self._cancelled)

    def _cancelled(self, event: ev.JobCancelledEvent | ev.JobsCancelledEvent) -> None:
        """Jobs were cancelled here. Should they be at work here, too, the next beat finds out: have it soon."""
        if isinstance(event, ev.JobsCancelledEvent) or event.job.id in self._held:
            self._keeper.hasten()

    def stop(self, *, hurry: bool = False) -> None:
        """Start nothing more; with `hurry`, cancel what is running instead of waiting for it."""
        if not self.is_stopping:
            self._stopping.set()
            self._stopped = time.monotonic()
            self._give_up_at = self._stopped + seconds(self._options.shutdown_timeout) + _CLEAN_UP
        if hurry:
            self._hurry.set()
        self._signal.set()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop()` was called."""
        return self._stopping.is_set()

    def is_running_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether `task` runs one of the handlers."""
        return any(run.task is task for run in self._running)

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
        """There may be jobs of these names (None: of any), due at these times, says somebody here."""
        for name, due in jobs:
            if name is None or name in self._workers:
                self._expect(name, due, self._clock.now())
                # Should the reckoning be ahead, the job is not due yet, and only a change stream would say when.
                self._times.unknown = self._times.unknown or not self._wakeup.streaming
        self._signal.set()

    def listen_anew(self) -> None:
        """There is another worker: look for its jobs, and listen for them. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._listen_anew)

    def _listen_anew(self) -> None:
        self._wakeup.restart()
        self.look_anew()

    def look_anew(self) -> None:
        """Anything may have changed: look for jobs, and for leases that ran out, at once."""
        self._hinted(None)

    def is_idle(self) -> bool:
        """Whether it has nothing in hand, and has looked for all there may be to do by now."""
        in_hand = self._claims or self._running or self._held or self._asked
        return not in_hand and not self._times.unknown and self._times.left() > 0 and not self._agenda.wanted()[1]

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Do one thing, the most pressing one; wait if there is none."""
        if self._times.is_time_to_look(self._poll_interval()):
            self._agenda.open(self._workers.names())
        wanted, limit = self._agenda.wanted()
        try:
            if self._times.is_lease_due():
                await self._survey()
            elif self._may_claim(limit):
                await self._look(wanted, limit)
            elif self._times.unknown:
                await self._survey()
            else:
                await self._wait()
        except Exception as error:  # noqa: BLE001  nothing ends an instance but `stop()`
            # Whatever it was doing is not done.
            self._agenda.open(wanted)
            self._times.unknown = True
            self._pause = await self._pause_after(error, self._pause)
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
        elif hint.cancelled is not None:
            if hint.cancelled in self._held:
                self._keeper.hasten()
        else:
            self._expect(hint.name, hint.due or hint.at, hint.at)
            self._wakeup.want(bool(self._agenda.closed()))
        self._signal.set()

    def _expect(self, name: str | None, due: datetime, now: datetime) -> None:
        """Look for jobs of this name (None: of any), now or when they are due."""
        if due > now:
            self._times.expect(due)
        else:
            self._agenda.open(self._workers.names() if name is None else [name])

    async def _ask(self, question: Awaitable[T]) -> T:
        """Await the database, but not for ever: a connection that says nothing is as good as cut."""
        asked = object()
        self._asked[asked] = time.monotonic()
        try:
            with pymongo.timeout(self._lease):
                return await question
        finally:
            del self._asked[asked]

    async def _pause_after(self, error: BaseException, pause: float) -> float:
        """Report, and wait, but not beyond the beginning of the stop. Returns how long to wait the next time."""
        self._report(error)
        await happens_within(self._stopping, pause)
        return min(pause * 2, _LONGEST_PAUSE)

    def _report(self, error: BaseException) -> None:
        self._events.emit(ev.JobErrorEvent, error)

    # --- claiming ---------------------------------------------------------------------------------------------------

    def _may_claim(self, limit: int) -> bool:
        """Whether to look for jobs; a second claim beside one on its way has to be worth it."""
        if not limit or len(self._settles) >= _MOST_UNSETTLED:
            return False
        return not self._claims or (len(self._claims) < _MOST_CLAIMS and limit >= _WORTHWHILE_CLAIM)

    def _largest_claim(self) -> int:
        """A part of what there is room for: while one is claimed, others run and are settled."""
        return max(self._agenda.capacity() // _MOST_CLAIMS, _WORTHWHILE_CLAIM)

    async def _look(self, wanted: dict[str, int], limit: int) -> None:
        if not self._keeper.is_healthy():
            raise MonqueError("leases cannot be renewed; no jobs are claimed until they can")
        self._agenda.close(wanted)
        claiming = [candidate.id for chosen in self._claims.values() for candidate in chosen]
        at_once = self._largest_claim()
        look = partial(self._flow.look, wanted, limit, at_once=at_once, besides=claiming)
        skip = self._spread.start(min(limit, at_once))
        sighting = await self._ask(look(skip=skip))
        if skip and sighting.exhausted:
            # There are not that many: what was left to others is all there is.
            self._spread = Spread()
            sighting = await self._ask(look())
        chosen = self._agenda.choose(wanted, limit, sighting)
        closed = self._agenda.closed()
        self._times.taken(closed)
        self._wakeup.want(bool(closed))
        if chosen and not self.is_stopping:
            slots = Counter(candidate.name for candidate in chosen)
            for name, number in slots.items():
                self._agenda.occupy(name, number)
            claim = self._loop.create_task(self._claim(chosen, slots))
            self._claims[claim] = chosen
            claim.add_done_callback(self._claimed)

    async def _claim(self, chosen: list[Candidate], slots: Counter[str]) -> None:
        """Claim what was chosen, start what was got, and free the slots of the rest."""
        token = secrets.token_hex(12)
        try:
            claimed = await self._take(chosen, token)
            if claimed is not None:
                self._spread.learn(len(chosen), len(claimed.jobs) + len(claimed.unreadable) + len(claimed.refused))
                await self._begin(claimed, token, slots)
        except Exception as error:  # noqa: BLE001  whatever it is, others of these names may be claimed
            await self._pause_after(error, _LONGEST_PAUSE)
            claimed = None
        for name, number in slots.items():
            self._agenda.vacate(name, number)
        if claimed is None:
            self._agenda.open(slots)

    def _claimed(self, claim: asyncio.Task[None]) -> None:
        del self._claims[claim]
        self._signal.set()

    async def _take(self, chosen: list[Candidate], token: str) -> Claimed | None:
        """Claim, until it is known what came of it: an error may hide that the claim was made. None if it never is."""
        deadline = time.monotonic() + self._lease
        pause = _FIRST_PAUSE
        while time.monotonic() < min(deadline, self._give_up_at):
            try:
                return await self._ask(
                    self._flow.claim(
                        [candidate.id for candidate in chosen],
                        token=token,
                        instance=self._instance,
                        heartbeat_interval=self._options.lease.heartbeat_interval,
                        due=due_by(chosen),
                    )
                )
            except PyMongoError as error:
                pause = await self._pause_after(error, pause)
        return None

    async def _begin(self, claimed: Claimed, token: str, slots: Counter[str]) -> None:
        """Start the jobs in the slots that were taken for them; what is left of `slots` is free again."""
        self._lost({job.id: self._held[job.id] for job in claimed.jobs if job.id in self._held})
        self._held.update((job.id, token) for job in claimed.jobs)
        if self.is_stopping:
            for job in claimed.jobs:
                self._settles.add(Finished(job, token, RELEASED))
        else:
            for job in claimed.jobs:
                self._start(_Run(job, token, self._workers[job.name], self._journal))
            slots.subtract(job.name for job in claimed.jobs)
        if claimed.unreadable:
            changes = [transitions.reject(job, token, reason=str(error)) for job, error in claimed.unreadable.items()]
            await self._persist(lambda: self._flow.settle(changes))
        for error in (*claimed.unreadable.values(), *claimed.refused.values()):
            self._report(error)

    # --- running ----------------------------------------------------------------------------------------------------

    def _start(self, run: _Run) -> None:
        self._running.add(run)
        run.task = self._loop.create_task(self._perform(run))

    async def _perform(self, run: _Run) -> None:
        job = run.job
        run.has_begun = True
        try:
            finished = Finished(job, run.token, RELEASED) if run.should_stop else await self._execute(run)
            if finished.outcome is COMMITTED and run.committed is not None:
                self._let_go(run)
                self._announce(run.committed)
            elif self._held.get(job.id) == run.token and not run.is_settled:
                self._settles.add(self._decide(finished))
        except Exception as error:  # noqa: BLE001  whatever it is, the lease must not be renewed for ever
            self._abandon(run, error)
        finally:
            # The slot is held by this task and by nothing else, so however the run ends it is free again.
            self._running.discard(run)
            self._agenda.vacate(job.name)
            self._signal.set()

    async def _execute(self, run: _Run) -> Finished:
        self._events.emit(ev.JobStartEvent, run.job)
        worker, started = run.worker, time.perf_counter()
        timeout = worker.timeout if run.job.timeout is None else Timeout(run.job.timeout)
        if timeout is not None:
            self._limit(run, timeout)
        if worker.transaction:
            outcome = await self._transact(run)
        else:
            outcome = await self._executor.execute(worker, run)
        for timer in run.timers:
            timer.cancel()
        if outcome is RELEASED and not self.is_stopping:
            # Nobody but a stop gives jobs back: the handler has cancelled itself.
            outcome = Failed(asyncio.CancelledError())
        return self._finished(run, outcome, time.perf_counter() - started)

    def _finished(self, run: _Run, outcome: Outcome, duration: float) -> Finished:
        retention = self._retention if run.worker.retention is None else run.worker.retention
        return Finished(run.job, run.token, outcome, duration, retention=retention)

    async def _transact(self, run: _Run) -> Outcome:
        """Run the handler and settle the job in one transaction. Renewing its lease meanwhile would get in the way."""
        job, token = run.job.id, run.token
        steps = Steps(
            execute=partial(self._executor.execute, run.worker, run),
            settle=partial(self._settle_in, run, time.perf_counter()),
            is_settled=partial(self._flow.is_settled, job, token),
            is_held=partial(self._is_still_held, run),
            persist=self._persist,
        )
        self._limit(run, Timeout(self._lease / 2))
        self._unrenewed.add(job)
        try:
            return await transact(self._flow.collection.database.client, run, steps)
        except InDoubtError as error:
            self._abandon(run, error)
            return RELEASED
        except BaseException as error:  # noqa: BLE001  cancelled between two attempts, or the database is not there
            return ended_with(error, run)
        finally:
            self._unrenewed.discard(job)

    async def _settle_in(self, run: _Run, began: float, session: AsyncClientSession, outcome: Completed) -> bool:
        """Write a completion as part of a transaction; False if it is not for this run to write one."""
        if run.is_settled or self._held.get(run.job.id) != run.token:
            return False  # it was given up, and that was told
        run.is_settling = True
        finished = self._finished(run, outcome, time.perf_counter() - began)
        remark = self._journal.tear_out((run.job.id, run.token))
        if await self._write_in(session, run, finished, remark):
            return True
        # The claim is gone, or the job was given a schedule or a follow-up meanwhile.
        job = await self._ask(self._flow.reread(run.job.id, run.token, session))
        if job is not None and await self._write_in(session, run, replace(finished, job=job), remark):
            return True
        self._lose(run)
        return False

    async def _write_in(
        self, session: AsyncClientSession, run: _Run, finished: Finished, remark: Transition | None
    ) -> bool:
        run.committed = self._decide(finished)
        (change,) = plan([run.committed], now=self._clock.now())
        if remark is not None:
            change = transitions.with_remark(change, remark)
        return await self._ask(self._flow.settle_in(session, change))

    async def _is_still_held(self, run: _Run) -> bool:
        """Whether to run a handler again whose transaction came to nothing: its claim may be why."""
        run.is_settling = False
        if await self._persist(lambda: self._flow.reread(run.job.id, run.token)) is not None:
            return True
        self._lose(run)
        return False

    def _lose(self, run: _Run) -> None:
        if self._held.get(run.job.id) == run.token:
            del self._held[run.job.id]
            self._events.emit(ev.JobLostEvent, run.job)

    def _limit(self, run: _Run, timeout: Timeout) -> None:
        """Tell the handler to end when its time is up, and wait no longer some time after that."""
        ending = JobTimeoutError(run.job.id, seconds(timeout.soft))
        run.timers += [
            self._loop.call_later(seconds(timeout.soft), run.end, ending),
            self._loop.call_later(timeout.hard_after, self._overdue, run, timeout.hard_after),
        ]

    def _overdue(self, run: _Run, duration: float) -> None:
        """The handler was told to end, and has not: a process is killed, others can only be named."""
        if run.is_settling:
            return  # it has ended; what came of it is about to be known
        run.is_overdue = True
        run.end()
        if run.worker.run_in != "process":
            self._events.emit(ev.JobErrorEvent, StuckHandlerError(run.job, duration), run.job)
            if run.ending is not None and self._held.get(run.job.id) == run.token:
                run.is_settled = True
                self._settles.add(self._decide(self._finished(run, Failed(run.ending), duration)))

    def _decide(self, finished: Finished) -> Finished:
        """What follows from an outcome; for most, nothing does."""
        job = finished.job
        if finished.outcome is COMPLETED and job.repeat_interval is None and job.follow_up is None:
            return finished
        return finish(finished, retry=self._retry(job), now=self._clock.now())

    def _retry(self, job: Job[Any]) -> Retry:
        return policy(self._usual_retry(job.name), job.retry)

    def _max_attempts(self, lease: Mapping[str, Any]) -> int:
        return policy_of_document(self._usual_retry(lease.get("name")), lease).max_retries

    def _usual_retry(self, name: object) -> Retry:
        worker = self._workers.get(name) if isinstance(name, str) else None
        return (worker and worker.retry) or self._options.retry

    def _current_job(self) -> Job[Any] | None:
        """The job whose handler has the event loop at this moment; asked from another thread."""
        task = asyncio.current_task(self._loop)
        return next((run.job for run in self._running.copy() if run.task is task), None)

    def _lost(self, lost: Mapping[ObjectId, str]) -> None:
        """Give up runs whose claim is gone. Those that have ended are found out when they are settled."""
        for run in [run for run in self._running if lost.get(run.job.id) == run.token] if lost else ():
            # Of one that is being committed it is known in a moment: what looks like a loss may be its completion.
            if self._held.get(run.job.id) == run.token and not run.is_settling:
                self._lose(run)
                run.is_lost = True
                run.end()
                run.timers.append(self._loop.call_later(_CLEAN_UP, self._overdue, run, _CLEAN_UP))

    # --- settling ---------------------------------------------------------------------------------------------------

    async def _remark(self, changes: list[Transition]) -> None:
        refused = await self._persist(lambda: self._flow.remark(changes))
        for error in refused.values() if refused else ():
            self._report(error)

    async def _settle(self, finished: list[Finished]) -> None:
        if not self._journal.is_blank:
            # Once they are settled, what they said last could not be written any more.
            await self._journal.flush((run.job.id, run.token) for run in finished)
        held = [run for run in finished if self._is_held(run)]
        try:
            settled = (
                await self._persist(lambda: self._flow.settle(plan(held, now=self._clock.now()))) if held else None
            )
        except Exception as error:  # noqa: BLE001  of ours or of a document's, and not to be cured by repeating it
            await self._settle_apart(held, error)
        else:
            if settled is not None:
                for run in held:
                    if not (settled.lost and await self._is_resettled(run, settled)):
                        self._close(run, settled)
        self._signal.set()

    async def _settle_apart(self, held: list[Finished], error: Exception) -> None:
        """An outcome that cannot be written must not drag others along: its lease is to run out, and only its."""
        if len(held) == 1:
            self._abandon(held[0], error)
        else:
            for run in held:
                await self._settle([run])

    def _abandon(self, run: Finished | _Run, error: Exception) -> None:
        """Hold a job no longer without having written what came of it: it will be recovered."""
        self._let_go(run)
        self._events.emit(ev.JobErrorEvent, error, run.job)

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
        """Settle again what was not written because the job was given a schedule or a follow-up meanwhile."""
        if run.job.id not in settled.lost:
            return False
        try:
            job = await self._persist(lambda: self._flow.reread(run.job.id, run.token))
        except Exception as error:  # noqa: BLE001  it became unreadable; the others of its group have to be settled
            self._abandon(run, error)
            return True
        if job is None:
            return False
        self._settles.add(self._decide(replace(run, job=job, repeat_at=None)))
        return True

    def _let_go(self, run: Finished | _Run) -> None:
        if self._held.get(run.job.id) == run.token:
            del self._held[run.job.id]

    def _close(self, run: Finished, settled: Settled) -> None:
        """The outcome is written, or never will be: say so."""
        job = run.job
        if settled.refused and job.id in settled.refused and _has_result(run.outcome):
            # The job as a whole may have become too large with it. What its handler did has happened, with or without.
            self._settles.add(replace(run, outcome=without_result(settled.refused[job.id])))
            return
        self._let_go(run)
        if settled.lost and job.id in settled.lost:
            self._events.emit(ev.JobLostEvent, job)
        elif settled.refused and job.id in settled.refused:
            self._events.emit(ev.JobErrorEvent, settled.refused[job.id], job)
        else:
            self._announce(run)

    def _announce(self, run: Finished) -> None:
        if isinstance(run.outcome, Completed):
            self._events.emit(ev.JobCompleteEvent, run.job, run.duration)
            if run.outcome.problem is not None:
                self._events.emit(ev.JobErrorEvent, ResultError(run.job.id, run.outcome.problem), run.job)
        elif isinstance(run.outcome, Failed):
            self._events.emit(ev.JobFailEvent, run.job, run.outcome.error, run.retry_at is not None)
        if run.next_run_at is not None:
            self.notice([(run.job.name, run.next_run_at)])

    # --- looking ahead ----------------------------------------------------------------------------------------------

    async def _survey(self) -> None:
        """Find out when there will be something to do, and take back jobs whose leases ran out."""
        # A name that is open will be looked for anyway, and what is due of it now would call for a look at once.
        names = self._agenda.closed()
        asked = time.monotonic()
        survey = await self._ask(self._flow.survey(sorted(names), self._times.age() + _OVERLAP))
        if survey.now is not None:
            self._clock.correct(survey.now, asked=asked, arrived=time.monotonic())
        if not self._options.recover:
            self._times.surveyed(names, survey.next_due, None)
            return
        recovery = plan_recovery(
            [lease for lease in survey.leases if lease["_id"] not in self._held],
            now=survey.now or self._clock.now(),
            timeout=self._lease,
            max_attempts=self._max_attempts,
        )
        next_expiry = recovery.next_expiry
        if await self._recover(recovery) < len(recovery.requeue) + len(recovery.fail):
            # Others were quicker, or it is locked.
            soon = self._clock.now() + _UNLOCKED_AFTER
            next_expiry = min(next_expiry or soon, soon)
        # Only now: should the recovery fail, it is tried again at once and not at the next poll.
        self._times.surveyed(names, survey.next_due, next_expiry)
        if (recovery.requeue or recovery.fail) and len(survey.leases) == OLDEST_LEASES:
            self._times.unknown = True

    async def _recover(self, recovery: Recovery) -> int:
        count = 0
        if recovery.requeue:
            count += await self._ask(self._flow.recover(recovery.requeue))
        for change, error in recovery.fail:
            job = await self._ask(self._flow.give_up(change))
            if job is not None:
                count += 1
                self._events.emit(ev.JobFailEvent, job, error, False)
        if count:
            self._events.emit(ev.StaleRecoveredEvent, count)
            self._agenda.open(self._workers.names())
        return count

    # --- ending -----------------------------------------------------------------------------------------------------

    async def _finish_running(self) -> None:
        """Let running handlers finish; cancel and release those that take too long."""
        timeout = seconds(self._options.shutdown_timeout)
        await self._wait_for_running(timeout, self._hurry)
        if self._running:
            late = [run.job for run in self._running]
            for run in self._running:
                run.end()
            self._report(ShutdownTimeoutError(time.monotonic() - self._stopped, late))
            await self._wait_for_running(_CLEAN_UP, asyncio.Event())

    async def _end_processes(self) -> None:
        """End the processes; handlers at work in them end with them, and their jobs are given back."""
        await self._executor.close()
        ending = [run.task for run in self._running if run.task is not None and run.worker.run_in == "process"]
        if ending:
            await asyncio.wait(ending, timeout=_CLEAN_UP)

    async def _wait_for_running(self, timeout: float, cut_short: asyncio.Event) -> None:
        deadline = time.monotonic() + timeout
        cut = asyncio.ensure_future(cut_short.wait())
        while self._running and not cut.done() and (left := deadline - time.monotonic()) > 0:
            tasks = [run.task for run in self._running if run.task is not None]
            await asyncio.wait([*tasks, cut], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()


def _has_result(outcome: Outcome) -> bool:
    return isinstance(outcome, Completed) and outcome.result is not None
