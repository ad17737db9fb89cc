"""Runs: each claimed job with its handler at work, its time limits, and the transaction it may be part of."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from monque import _transitions as transitions
from monque import events as ev
from monque._execution import ended_with
from monque._scope import Scope
from monque._settlement import Finished, plan
from monque._transaction import InDoubtError, Steps, transact
from monque.errors import JobTimeoutError, ShutdownTimeoutError, StuckHandlerError
from monque.options import Timeout, seconds
from monque.outcome import COMMITTED, RELEASED, Completed, Failed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Mapping

    from bson import ObjectId
    from pymongo.asynchronous.client_session import AsyncClientSession

    from monque._agenda import Agenda
    from monque._execution import Executor
    from monque._journal import Journal
    from monque._questions import Questions
    from monque._settler import Settler
    from monque._setup import Setup
    from monque._transitions import Transition
    from monque.job import Job
    from monque.outcome import Outcome
    from monque.worker import AnyWorker


class Run(Scope):
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
        self.timers: tuple[asyncio.TimerHandle, ...] = ()

    def end(self, ending: BaseException | None = None) -> None:
        """Tell the handler to end. A task that is cancelled before its first step would never free its slot."""
        self.should_stop = True
        self.ending = ending or self.ending
        if self.task is not None and self.has_begun:
            self.task.cancel()


class Runs:
    """The handlers at work in an instance."""

    def __init__(
        self,
        setup: Setup,
        executor: Executor,
        settler: Settler,
        questions: Questions,
        agenda: Agenda,
        signal: asyncio.Event,
    ) -> None:
        """Make one without any.

        Args:
            setup: What the instance works with.
            executor: Runs handlers.
            settler: Gets what they come to.
            questions: Asks the database.
            agenda: Counts their slots.
            signal: Set whenever one has ended.
        """
        self._flow = setup.flow
        self._workers = setup.workers
        self._events = setup.events
        self._clock = setup.clock
        self._retention = setup.options.retention or None
        self._shutdown_timeout = seconds(setup.options.shutdown_timeout)
        self._longest_transaction = Timeout(seconds(setup.options.lease.timeout) / 2)
        self._executor = executor
        self._settler = settler
        self._held = settler.held
        self._settles = settler.batch
        self._questions = questions
        self._shutdown = questions.shutdown
        self._stopping = questions.shutdown.begun
        self._agenda = agenda
        self._signal = signal
        self._loop = asyncio.get_running_loop()
        self.running: set[Run] = set()

    # --- from start to end ------------------------------------------------------------------------------------------

    def begin(self, jobs: Iterable[Job[Any]], token: str) -> None:
        """Let the handlers of these jobs begin; all of them were claimed under this token."""
        for job in jobs:
            run = Run(job, token, self._workers[job.name], self._settler.journal)
            self.running.add(run)
            run.task = self._loop.create_task(self._perform(run))

    async def _perform(self, run: Run) -> None:
        job = run.job
        run.has_begun = True
        try:
            if run.should_stop:
                finished = Finished(job, run.token, RELEASED)
            else:
                execution, started = self._execution(run), time.perf_counter()
                finished = self._ended(run, await execution, time.perf_counter() - started)
            if finished.outcome is COMMITTED and run.committed is not None:
                self._settler.let_go(job.id, run.token)
                self._settler.announce(run.committed)
            elif self._held.get(job.id) == run.token and not run.is_settled:
                self._settles.add(self._settler.decide(finished))
        except Exception as error:  # noqa: BLE001  whatever it is, the lease must not be renewed for ever
            self._settler.abandon(job, run.token, error)
        finally:
            # The slot is held by this task and by nothing else, so however the run ends it is free again.
            self.running.discard(run)
            # What the task ran in knows the run; the two would stay until Python looks for cycles.
            run.task = None
            self._agenda.vacate(job.name)
            self._signal.set()

    def _execution(self, run: Run) -> Awaitable[Outcome]:
        """What is to be awaited. Each run is made of as few coroutines as can be, since there are so many runs."""
        self._events.emit(ev.JobStartEvent, run.job)
        worker = run.worker
        timeout = worker.timeout if run.job.timeout is None else Timeout(run.job.timeout)
        if timeout is not None:
            self._limit(run, timeout)
        return self._transact(run) if worker.transaction else self._executor.execute(worker, run)

    def _ended(self, run: Run, outcome: Outcome, duration: float) -> Finished:
        for timer in run.timers:
            timer.cancel()
        if outcome is RELEASED and not self._stopping.is_set():
            # Nobody but a stop gives jobs back: the handler has cancelled itself.
            outcome = Failed(asyncio.CancelledError())
        return self._finished(run, outcome, duration)

    def _finished(self, run: Run, outcome: Outcome, duration: float) -> Finished:
        retention = self._retention if run.worker.retention is None else run.worker.retention
        return Finished(run.job, run.token, outcome, duration, retention=retention)

    # --- in a transaction -------------------------------------------------------------------------------------------

    async def _transact(self, run: Run) -> Outcome:
        """Run the handler and settle the job in one transaction. Renewing its lease meanwhile would get in the way."""
        job, token = run.job.id, run.token
        steps = Steps(
            execute=partial(self._executor.execute, run.worker, run),
            settle=partial(self._settle_in, run, time.perf_counter()),
            is_settled=partial(self._flow.is_settled, job, token),
            is_held=partial(self._is_still_held, run),
            persist=self._questions.persist,
        )
        self._limit(run, self._longest_transaction)
        self._settler.unrenewed.add(job)
        try:
            return await transact(self._flow.collection.database.client, run, steps)
        except InDoubtError as error:
            self._settler.abandon(run.job, token, error)
            return RELEASED
        except BaseException as error:  # noqa: BLE001  cancelled between two attempts, or the database is not there
            return ended_with(error, run)
        finally:
            self._settler.unrenewed.discard(job)

    async def _settle_in(self, run: Run, began: float, session: AsyncClientSession, outcome: Completed) -> bool:
        """Write a completion as part of a transaction; False if it is not for this run to write one."""
        if run.is_settled or self._held.get(run.job.id) != run.token:
            return False  # it was given up, and that was told
        run.is_settling = True
        finished = self._finished(run, outcome, time.perf_counter() - began)
        remark = self._settler.journal.tear_out((run.job.id, run.token))
        if await self._write_in(session, run, finished, remark):
            return True
        # The claim is gone, or the job was given a schedule or a follow-up meanwhile.
        job = await self._questions.ask(self._flow.reread(run.job.id, run.token, session))
        if job is not None and await self._write_in(session, run, replace(finished, job=job), remark):
            return True
        self._settler.lose(run.job, run.token)
        return False

    async def _write_in(
        self, session: AsyncClientSession, run: Run, finished: Finished, remark: Transition | None
    ) -> bool:
        run.committed = self._settler.decide(finished)
        (change,) = plan([run.committed], now=self._clock.now())
        if remark is not None:
            change = transitions.with_remark(change, remark)
        return await self._questions.ask(self._flow.settle_in(session, change))

    async def _is_still_held(self, run: Run) -> bool:
        """Whether to run a handler again whose transaction came to nothing: its claim may be why."""
        run.is_settling = False
        if await self._questions.persist(lambda: self._flow.reread(run.job.id, run.token)) is not None:
            return True
        self._settler.lose(run.job, run.token)
        return False

    # --- ended from outside -----------------------------------------------------------------------------------------

    def _limit(self, run: Run, timeout: Timeout) -> None:
        """Tell the handler to end when its time is up, and wait no longer some time after that."""
        ending = JobTimeoutError(run.job.id, seconds(timeout.soft))
        run.timers += (
            self._loop.call_later(seconds(timeout.soft), run.end, ending),
            self._loop.call_later(timeout.hard_after, self._overdue, run, timeout.hard_after),
        )

    def _overdue(self, run: Run, duration: float) -> None:
        """The handler was told to end, and has not: a process is killed, others can only be named."""
        if run.is_settling:
            return  # it has ended; what came of it is about to be known
        run.is_overdue = True
        run.end()
        if run.worker.run_in != "process":
            self._events.emit(ev.JobErrorEvent, StuckHandlerError(run.job, duration), run.job)
            if run.ending is not None and self._held.get(run.job.id) == run.token:
                run.is_settled = True
                self._settles.add(self._settler.decide(self._finished(run, Failed(run.ending), duration)))

    def lose(self, lost: Mapping[ObjectId, str]) -> None:
        """Give up runs whose claim is gone. Those that have ended are found out when they are settled."""
        grace = self._shutdown.clean_up
        for run in [run for run in self.running if lost.get(run.job.id) == run.token] if lost else ():
            # Of one that is being committed it is known in a moment: what looks like a loss may be its completion.
            if self._held.get(run.job.id) == run.token and not run.is_settling:
                self._settler.lose(run.job, run.token)
                run.is_lost = True
                run.end()
                run.timers += (self._loop.call_later(grace, self._overdue, run, grace),)

    # --- looked at --------------------------------------------------------------------------------------------------

    def includes(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether `task` runs one of the handlers."""
        return any(run.task is task for run in self.running)

    def current(self) -> Job[Any] | None:
        """The job whose handler has the event loop at this moment; asked from another thread."""
        task = asyncio.current_task(self._loop)
        return next((run.job for run in self.running.copy() if run.task is task), None)

    # --- the end of all ---------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Let running handlers finish; cancel and release those that take too long."""
        await self._wait_for_running(self._shutdown_timeout, self._shutdown.hurry)
        if self.running:
            late = [run.job for run in self.running]
            for run in self.running:
                run.end()
            self._events.emit(ev.JobErrorEvent, ShutdownTimeoutError(time.monotonic() - self._shutdown.since, late))
            await self._wait_for_running(self._shutdown.clean_up, asyncio.Event())

    async def end_processes(self) -> None:
        """End the processes; handlers at work in them end with them, and their jobs are given back."""
        await self._executor.close()
        ending = [run.task for run in self.running if run.task is not None and run.worker.run_in == "process"]
        if ending:
            await asyncio.wait(ending, timeout=self._shutdown.clean_up)

    async def _wait_for_running(self, timeout: float, cut_short: asyncio.Event) -> None:
        deadline = time.monotonic() + timeout
        cut = asyncio.ensure_future(cut_short.wait())
        while self.running and not cut.done() and (left := deadline - time.monotonic()) > 0:
            tasks = [run.task for run in self.running if run.task is not None]
            await asyncio.wait([*tasks, cut], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
