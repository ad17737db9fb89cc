"""Settling: what runs came to is decided, written in groups, and said."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from monque import events as ev
from monque._batching import Batcher
from monque._journal import Journal
from monque._retry import policy, policy_of_document
from monque._settlement import Finished, finish, plan, without_result
from monque.errors import ResultError
from monque.outcome import COMPLETED, Completed, Failed

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from bson import ObjectId

    from monque._questions import Questions
    from monque._setup import Setup
    from monque._store.flow import Settled
    from monque._transitions import Transition
    from monque.job import Job
    from monque.options import Retry
    from monque.outcome import Outcome

_LARGEST_SETTLE = 1000


class Settler:
    """Writes outcomes of the jobs that are held.

    Attributes:
        last: When it last wrote outcomes, on the monotonic clock.
        held: Tokens by job id, from the claim until the outcome is written.
        unrenewed: Jobs whose leases are left alone: their documents are being changed in a transaction.
        batch: Outcomes that are decided, on their way into the database.
        journal: What handlers say while they run.
    """

    def __init__(
        self,
        setup: Setup,
        questions: Questions,
        signal: asyncio.Event,
        notice: Callable[[Iterable[tuple[str | None, datetime]]], None],
    ) -> None:
        """Make one that has nothing to do yet.

        Args:
            setup: What the instance works with.
            questions: Asks the database.
            signal: Set whenever something was written.
            notice: Told of jobs that are to run again, and when.
        """
        self._flow = setup.flow
        self._workers = setup.workers
        self._usual = setup.options.retry
        self._events = setup.events
        self._clock = setup.clock
        self._questions = questions
        self._signal = signal
        self._notice = notice
        self.held: dict[ObjectId, str] = {}
        self.last: float | None = None
        self.unrenewed: set[ObjectId] = set()
        self.batch: Batcher[Finished] = Batcher(self._settle, largest=_LARGEST_SETTLE)
        self.journal = Journal(self._remark, self._report, setup.clock, held_back=self.unrenewed)

    # --- deciding ---------------------------------------------------------------------------------------------------

    def decide(self, finished: Finished) -> Finished:
        """What follows from an outcome; for most, nothing does."""
        job = finished.job
        if finished.outcome is COMPLETED and job.repeat_interval is None and job.follow_up is None:
            return finished
        return finish(finished, retry=policy(self._usual_retry(job.name), job.retry), now=self._clock.now())

    def max_attempts(self, lease: Mapping[str, Any]) -> int:
        """How often a job may run of which there are a few fields only."""
        return policy_of_document(self._usual_retry(lease.get("name")), lease).max_retries

    def _usual_retry(self, name: object) -> Retry:
        worker = self._workers.get(name) if isinstance(name, str) else None
        return (worker and worker.retry) or self._usual

    # --- holding ----------------------------------------------------------------------------------------------------

    def let_go(self, job: ObjectId, token: str) -> bool:
        """Hold a job no longer; whether it was held under this token."""
        if self.held.get(job) != token:
            return False
        del self.held[job]
        return True

    def lose(self, job: Job[Any], token: str) -> None:
        """The claim is gone; whoever has been told so already is not told again."""
        if self.let_go(job.id, token):
            self._events.emit(ev.JobLostEvent, job)

    def abandon(self, job: Job[Any], token: str, error: Exception) -> None:
        """Hold a job no longer without having written what came of it: it will be recovered."""
        self.let_go(job.id, token)
        self._events.emit(ev.JobErrorEvent, error, job)

    # --- writing ----------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Wait until everything is written that came so far, and meanwhile."""
        await self.batch.flush()
        await self.journal.close()

    async def _remark(self, changes: list[Transition]) -> None:
        refused = await self._questions.persist(lambda: self._flow.remark(changes))
        for error in refused.values() if refused else ():
            self._report(error)

    async def _settle(self, finished: list[Finished]) -> None:
        if not self.journal.is_blank:
            # Once they are settled, what they said last could not be written any more.
            await self.journal.flush((run.job.id, run.token) for run in finished)
        held: list[Finished] = []
        for run in finished:
            if self.held.get(run.job.id) == run.token:
                held.append(run)
            else:
                # It was claimed again, here, while the outcome waited to be written.
                self._events.emit(ev.JobLostEvent, run.job)
        try:
            settled = await self._write(held) if held else None
        except Exception as error:  # noqa: BLE001  of ours or of a document's, and not to be cured by repeating it
            await self._settle_apart(held, error)
        else:
            if settled is not None:
                self.last = time.monotonic()
                for run in held:
                    if not (settled.lost or settled.refused):
                        self.let_go(run.job.id, run.token)
                        self.announce(run)
                    elif not await self._is_resettled(run, settled):
                        self._close(run, settled)
        self._signal.set()

    async def _write(self, held: list[Finished]) -> Settled | None:
        return await self._questions.persist(lambda: self._flow.settle(plan(held, now=self._clock.now())))

    async def _settle_apart(self, held: list[Finished], error: Exception) -> None:
        """An outcome that cannot be written must not drag others along: its lease is to run out, and only its."""
        if len(held) == 1:
            self.abandon(held[0].job, held[0].token, error)
        else:
            for run in held:
                await self._settle([run])

    async def _is_resettled(self, run: Finished, settled: Settled) -> bool:
        """Settle again what was not written because the job was given a schedule or a follow-up meanwhile."""
        if run.job.id not in settled.lost:
            return False
        try:
            job = await self._questions.persist(lambda: self._flow.reread(run.job.id, run.token))
        except Exception as error:  # noqa: BLE001  it became unreadable; the others of its group have to be settled
            self.abandon(run.job, run.token, error)
            return True
        if job is None:
            return False
        self.batch.add(self.decide(replace(run, job=job, repeat_at=None)))
        return True

    # --- saying -----------------------------------------------------------------------------------------------------

    def _close(self, run: Finished, settled: Settled) -> None:
        """The outcome is written, or never will be: say so."""
        job = run.job
        if job.id in settled.refused and _has_result(run.outcome):
            # The job as a whole may have become too large with it. What its handler did has happened, with or without.
            self.batch.add(replace(run, outcome=without_result(settled.refused[job.id])))
            return
        self.let_go(job.id, run.token)
        if job.id in settled.lost:
            self._events.emit(ev.JobLostEvent, job)
        elif job.id in settled.refused:
            self._events.emit(ev.JobErrorEvent, settled.refused[job.id], job)
        else:
            self.announce(run)

    def announce(self, run: Finished) -> None:
        """The outcome is written: say so."""
        if isinstance(run.outcome, Completed):
            self._events.emit(ev.JobCompleteEvent, run.job, run.duration)
            if run.outcome.problem is not None:
                self._events.emit(ev.JobErrorEvent, ResultError(run.job.id, run.outcome.problem), run.job)
        elif isinstance(run.outcome, Failed):
            self._events.emit(ev.JobFailEvent, run.job, run.outcome.error, run.retry_at is not None)
        if run.next_run_at is not None:
            self._notice([(run.job.name, run.next_run_at)])

    def _report(self, error: BaseException) -> None:
        self._events.emit(ev.JobErrorEvent, error)


def _has_result(outcome: Outcome) -> bool:
    return isinstance(outcome, Completed) and outcome.result is not None
