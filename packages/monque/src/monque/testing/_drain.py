"""Running what is due, with the engine that runs it anywhere else, until nothing is."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, cast

from monque.errors import InvalidArgumentError, JobDocumentError, MonqueError
from monque.job import JobStatus
from monque.options import Duration, is_duration, seconds
from monque.testing._travel import go_by
from monque.worker import AnyWorker, Worker, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator

    from monque import events as ev
    from monque._engine import Engine
    from monque._monque import Monque
    from monque.job import Job

RunOutcome = Literal["completed", "failed", "retried", "snoozed", "cancelled", "lost"]
_POLL = 0.002


@dataclass(slots=True)
class Run:
    """One run of a job that was drained.

    Attributes:
        job: The job, as it was claimed.
        outcome: What came of it: `"completed"`, `"failed"` for good, `"retried"` (it failed, and runs again later),
            `"snoozed"`, `"cancelled"` by its handler, or `"lost"` (it was cancelled, or taken back, while it ran).
        error: What its handler raised, if it failed.
    """

    job: Job[Any]
    outcome: RunOutcome = "snoozed"
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Drained:
    """What `drain` ran.

    Attributes:
        runs: Each run, in the order in which they began.

    Example:
        >>> str(Drained(()))
        '0 runs'
    """

    runs: tuple[Run, ...]

    def __str__(self) -> str:  # type: ignore[explicit-override]  # typing.override is newer
        counts = Counter(run.outcome for run in self.runs)
        parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        return f"{len(self.runs)} {'run' if len(self.runs) == 1 else 'runs'}" + (f": {parts}" if parts else "")

    @property
    def completed(self) -> list[Job[Any]]:
        """The jobs that have completed."""
        return self._of("completed")

    @property
    def failed(self) -> list[Job[Any]]:
        """The jobs that have failed for good."""
        return self._of("failed")

    @property
    def retried(self) -> list[Job[Any]]:
        """The jobs that have failed and run again, once for each failure."""
        return self._of("retried")

    @property
    def snoozed(self) -> list[Job[Any]]:
        """The jobs whose handlers put them off, once for each time."""
        return self._of("snoozed")

    @property
    def cancelled(self) -> list[Job[Any]]:
        """The jobs whose handlers saw no point in them."""
        return self._of("cancelled")

    def _of(self, outcome: RunOutcome) -> list[Job[Any]]:
        return [run.job for run in self.runs if run.outcome == outcome]


async def drain(  # noqa: PLR0913  each is something users say
    monque: Monque,
    *,
    names: Collection[str | AnyWorker] | str | AnyWorker | None = None,
    with_retries: bool = False,
    with_scheduled: bool = False,
    raise_failures: bool = True,
    max_runs: int = 1000,
    timeout: Duration = 60,
) -> Drained:
    """Run every job that is due, those included that these jobs enqueue, until nothing is due any more.

    The engine does it that does it in production: jobs are claimed, read from the database, run in their places within
    the middleware, and settled. If the instance does not work yet, it does while this lasts; one that is at work
    already goes on afterwards.

    Args:
        monque: The connected instance; its workers run.
        names: Job names, or workers, whose jobs to run, if not those of all; others stay where they are. An instance
            that is at work already runs them all.
        with_retries: Whether to `travel` to the time of each retry, too, until there is none.
        with_scheduled: Whether to `travel` to the time of whatever else is pending, too, the earliest first. A
            recurring job is travelled to once.
        raise_failures: Whether a handler's exception ends the draining and is raised here. A failure that will be
            retried is one, too, unless `with_retries` or `with_scheduled` follows it to its end.
        max_runs: How many runs are too many, since a job may enqueue itself for ever.
        timeout: How long it may take, as a timedelta or in seconds.

    Returns:
        What ran, and what came of each run.

    Raises:
        AssertionError: There were too many runs, or it took too long. What still runs is cancelled and goes back.
        Exception: What a handler raised, whatever that is; or what kept a job from being read.
        InvalidArgumentError: `names` has one without a worker, or another argument makes no sense.
        MonqueError: There are no workers, or the instance was stopped meanwhile.
        ConnectionError: Not connected.

    Example:
        >>> import asyncio
        >>> from monque import Monque
        >>> monque = Monque()
        >>> @monque.worker("count")
        ... async def count(to: int) -> None:
        ...     if to > 1:
        ...         await count.enqueue(to - 1)
        >>> async def main() -> None:
        ...     async with monque:
        ...         await count.enqueue(3)
        ...         drained = await drain(monque)
        ...         print([job.data["to"] for job in drained.completed])
        >>> asyncio.run(main())
        [3, 2, 1]
    """
    if not is_duration(timeout):
        raise InvalidArgumentError("timeout", timeout, "a timedelta or a number of seconds")
    if isinstance(max_runs, bool) or not isinstance(max_runs, int) or max_runs < 1:
        raise InvalidArgumentError("max_runs", max_runs, "a whole number, at least 1")
    connected = monque._connection()
    draining = _Drain(
        monque,
        workers=_chosen(monque._workers, names),
        follows=(with_retries, with_scheduled),
        raise_failures=raise_failures,
        max_runs=max_runs,
        deadline=time.monotonic() + seconds(timeout),
    )
    await monque._prepare_expiry(connected)
    with draining.listening():
        return await draining.run()


def _chosen(workers: Workers, names: Collection[str | AnyWorker] | str | AnyWorker | None) -> Workers:
    if not workers.names():
        raise MonqueError("there are no workers here to run jobs: declare them, or include their router, first")
    if names is None:
        return workers
    chosen = Workers()
    for name in [names] if isinstance(names, str | Worker) else names:
        worker = workers.get(name.name if isinstance(name, Worker) else name)
        if worker is None:
            raise InvalidArgumentError("names", name, f"names that have a worker here: {', '.join(workers.names())}")
        chosen.add(worker, replace=True)
    return chosen


@dataclass(eq=False, slots=True)
class _Drain:
    """One call of `drain`."""

    monque: Monque
    workers: Workers
    follows: tuple[bool, bool]
    raise_failures: bool
    max_runs: int
    deadline: float
    runs: list[Run] = field(default_factory=list[Run])
    # Those whose end was not told yet, by job and claim.
    at_work: dict[tuple[object, str | None], Run] = field(default_factory=dict[tuple[object, "str | None"], Run])
    failure: tuple[BaseException, str] | None = None

    @contextmanager
    def listening(self) -> Generator[None]:
        """Hear what becomes of each run."""
        listeners: dict[str, Callable[[Any], None]] = {
            "job:start": self._started,
            "job:complete": self._completed,
            "job:fail": self._failed,
            "job:lost": self._lost,
            "job:error": self._error,
        }
        for event, listener in listeners.items():
            self.monque._events.on(event, listener)
        try:
            yield
        finally:
            for event, listener in listeners.items():
                self.monque._events.off(event, listener)

    async def run(self) -> Drained:
        """Drain, and leave the instance as it was."""
        connected = self.monque._connection()
        was_at_work = connected.work is not None
        work, is_over = self.monque._begin(self.workers), False
        try:
            await self._until_idle(cast("Engine", connected.engine), work)
            while await self._go_on():
                await self._until_idle(cast("Engine", connected.engine), work)
            is_over = True
        finally:
            if not was_at_work:
                # After a failure, other handlers may finish; what takes too long, or has no end, may not.
                await self.monque.stop(hurry=not is_over and self.failure is None)
        await self._tell_apart()
        return Drained(tuple(self.runs))

    async def _until_idle(self, engine: Engine, work: asyncio.Task[None]) -> None:
        """Wait until a look finds nothing that has not been run: a commit may have brought something since the last."""
        seen = -1
        while seen < len(self.runs):
            seen = len(self.runs)
            engine.look_anew()
            while not engine.is_idle():
                self._check(engine, work)
                await asyncio.sleep(_POLL)
            self._check(engine, work)

    def _check(self, engine: Engine, work: asyncio.Task[None]) -> None:
        if self.failure is not None:
            error, of = self.failure
            error.add_note(f"raised while {of} was drained; drain(…, raise_failures=False) goes on")
            raise error
        if len(self.runs) > self.max_runs:
            names = Counter(run.job.name for run in self.runs)
            counts = ", ".join(f"{count} of {name!r}" for name, count in names.most_common(5))
            raise AssertionError(
                f"drained more than {self.max_runs:,} runs: {counts}; does a job enqueue itself for ever? "
                "If there are to be so many, raise max_runs"
            )
        if time.monotonic() > self.deadline:
            running = ", ".join(_named(run.job) for run in engine._runs.running) or "none"
            raise AssertionError(
                f"the time to drain was up, after {len(self.runs)} runs; handlers at work: {running}. "
                "If it is to take so long, raise timeout"
            )
        if work.done():
            raise MonqueError("the instance was stopped while it was drained")

    async def _go_on(self) -> bool:
        """Travel to the next of what is to be followed; False if there is nothing."""
        retries, scheduled = self.follows
        if not (retries or scheduled):
            return False
        connected = self.monque._connection()
        query: dict[str, Any] = {
            "name": {"$in": self.workers.names()},
            "status": JobStatus.PENDING.value,
            "nextRunAt": {"$type": "date"},
        }
        if not scheduled:
            query["failCount"] = {"$gt": 0}
        occurred = [run.job.id for run in self.runs if run.job.is_recurring]
        query["$nor"] = [{"_id": {"$in": occurred}, "failCount": 0}]
        found = await connected.collection.find_one(query, {"nextRunAt": 1}, sort=[("nextRunAt", 1)])
        due = None if found is None else found["nextRunAt"]
        if not isinstance(due, datetime):
            return False  # there is nothing, or only what the calendar does not reach
        await go_by(self.monque, max(due - connected.clock.now(), timedelta(0)))
        return True

    async def _tell_apart(self) -> None:
        """Nobody tells of runs that were put off or withdrawn: the jobs show which they were."""
        last = {run.job.id: run for run in self.runs}
        query = {"_id": {"$in": [run.job.id for run in self.at_work.values()]}, "status": JobStatus.CANCELLED.value}
        async for row in self.monque._connection().collection.find(query, {"_id": 1}):
            last[row["_id"]].outcome = "cancelled"

    def _started(self, event: ev.JobStartEvent) -> None:
        run = Run(event.job)
        self.runs.append(run)
        self.at_work[event.job.id, event.job.claim_token] = run

    def _completed(self, event: ev.JobCompleteEvent) -> None:
        self._ended(event.job, "completed")

    def _failed(self, event: ev.JobFailEvent) -> None:
        self._ended(event.job, "retried" if event.will_retry else "failed", event.error)
        if not (event.will_retry and any(self.follows)):
            self._fail(event.error, _named(event.job))

    def _lost(self, event: ev.JobLostEvent) -> None:
        self._ended(event.job, "lost")

    def _error(self, event: ev.JobErrorEvent) -> None:
        """Something was wrong with a job; what was wrong with the instance is not the test's affair."""
        if event.job is not None or isinstance(event.error, JobDocumentError):
            self._fail(event.error, "a job" if event.job is None else _named(event.job))

    def _ended(self, job: Job[Any], outcome: RunOutcome, error: BaseException | None = None) -> None:
        run = self.at_work.pop((job.id, job.claim_token), None)
        if run is None:
            # Its lease ran out for the last time: it ended without having begun here.
            run = Run(job)
            self.runs.append(run)
        run.outcome, run.error = outcome, error

    def _fail(self, error: BaseException, of: str) -> None:
        if self.raise_failures and self.failure is None:
            self.failure = error, of


def _named(job: Job[Any]) -> str:
    return f"{job.name} {job.id}"
