"""The engine: orchestrates what finds jobs, claims them, runs them and settles what comes back."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from heapq import nsmallest
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from monque import events as ev
from monque._agenda import Agenda
from monque._claims import Claims
from monque._lease import LeaseKeeper, Reports
from monque._lookout import Lookout
from monque._questions import FIRST_PAUSE, Questions
from monque._runs import Runs
from monque._settler import Settler
from monque._shutdown import Shutdown
from monque._store.orders import MOST_RUNNING, running_facts
from monque._timetable import Timetable
from monque._wakeup import Hint, Wakeup
from monque.errors import MonqueError
from monque.fleet import Health
from monque.options import seconds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Mapping

    from monque._execution import Executor
    from monque._setup import Setup
    from monque.job import Job

# A database that has not answered for this long is not there.
_PATIENCE = 5.0
# A pause is to be obeyed by all within a second: seconds.
_LONGEST_DEAFNESS = 0.5


class Engine:
    """One instance at work, from `run()` until `stop()`."""

    def __init__(self, setup: Setup, executor: Executor) -> None:
        options = setup.options
        self._workers = setup.workers
        self._options = options
        self._events = setup.events
        self._clock = setup.clock
        self._loop = asyncio.get_running_loop()
        self._signal = asyncio.Event()
        self._shutdown = Shutdown()
        self._agenda = Agenda(setup.workers, options.concurrency)
        self._times = Timetable(setup.clock)
        self._wakeup = Wakeup(setup, self._hinted)
        self._questions = Questions(seconds(options.lease.timeout), self._report, self._shutdown)
        self._settler = Settler(setup, self._questions, self._signal, self.notice)
        self._runs = Runs(setup, executor, self._settler, self._questions, self._agenda, self._signal)
        self._claims = Claims(setup, self._runs, self._settler, self._questions, self._agenda, self._signal)
        self._lookout = Lookout(setup, self._settler, self._questions, self._agenda, self._times, self._signal)
        self._held = self._settler.held
        self._keeper = LeaseKeeper(
            setup.flow.collection,
            self._held,
            self._settler.unrenewed,
            Reports(
                lost=self._runs.lose,
                trouble=self._report,
                culprit=self._runs.current,
                hears=lambda: self._wakeup.is_listening,
                facts=self._facts,
            ),
            instance=setup.instance,
            interval=options.lease.heartbeat_interval,
        )
        self._ticked = time.monotonic()
        self._pause = FIRST_PAUSE

    # --- from start to stop -----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until `stop()`, then end in order: running handlers finish, what they came to is written."""
        async with self._keeper.keeping(), self._hearing_of_cancellations():
            async with self._wakeup.listening():
                while not self.is_stopping:
                    await self._work()
            await self._claims.finish()
            await self._lookout.finish()
            await self._runs.finish()
            await self._runs.end_processes()
            await self._settler.finish()

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
        self._shutdown.begin(seconds(self._options.shutdown_timeout))
        if hurry:
            self._shutdown.hurry.set()
        self._keeper.tell()
        self._signal.set()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop()` was called."""
        return self._shutdown.begun.is_set()

    def is_running_in(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether `task` runs one of the handlers."""
        return self._runs.includes(task)

    def health(self) -> Health:
        """How it is doing, as far as it knows."""
        reasons = tuple(self._complaints())
        return Health(
            healthy=not reasons,
            connected=True,
            working=True,
            last_claim=self._when(self._claims.last),
            last_settle=self._when(self._settler.last),
            loop_lag=self._keeper.lag(),
            lease_age=self._keeper.age(),
            running=len(self._runs.running),
            reasons=reasons,
        )

    def _complaints(self) -> Generator[str]:
        """What is wrong: it has not come round lately, gets no answers, or the leases it holds are not renewed."""
        silence, lag, age = time.monotonic() - self._ticked, self._keeper.lag(), self._keeper.age()
        if silence >= self._poll_interval() + _PATIENCE:
            yield f"no look for jobs has succeeded for {silence:.0f} s"
        if self._questions.oldest() >= _PATIENCE:
            yield f"the database has not answered a question for {self._questions.oldest():.0f} s"
        if lag >= _PATIENCE:
            yield f"the event loop is blocked: it took {lag:.0f} s to answer, or has not answered for so long"
        if not self._keeper.is_healthy():
            yield (
                "the thread that renews leases has ended"
                if age is None
                else f"leases are not being renewed: the last time was {age:.0f} s ago"
            )

    def _when(self, moment: float | None) -> datetime | None:
        """A time of the monotonic clock by the server's."""
        return None if moment is None else self._clock.now() - timedelta(seconds=time.monotonic() - moment)

    def _facts(self) -> Mapping[str, object]:
        """What there is to say about the instance; asked from another thread."""
        runs = [run.job for run in self._runs.running.copy()]
        return {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("monque"),
            "workers": [{"name": name, "concurrency": slots} for name, slots in self._agenda.slots().items()],
            "running": running_facts(nsmallest(MOST_RUNNING, runs, key=_claimed_at)),
            "runningCount": len(runs),
            "stopping": self.is_stopping,
        }

    def notice(self, jobs: Iterable[tuple[str | None, datetime]]) -> None:
        """There may be jobs of these names (None: of any), due at these times, says somebody here."""
        for name, due in jobs:
            if name is None or name in self._workers:
                self._expect(name, due, self._clock.now())
                # Should the reckoning be ahead, the job is not due yet, and only a change stream would say when.
                self._times.unknown = self._times.unknown or not self._wakeup.streaming
        self._signal.set()

    def obey(self) -> None:
        """The instance may have been told something, says somebody here."""
        self._lookout.hasten()
        self._signal.set()

    def listen_anew(self) -> None:
        """There is another worker: look for its jobs, and listen for them. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._listen_anew)

    def _listen_anew(self) -> None:
        self._wakeup.restart()
        self._keeper.tell()
        self.look_anew()

    def look_anew(self) -> None:
        """Anything may have changed: look for jobs, and for leases that ran out, at once."""
        self._hinted(None)

    def is_idle(self) -> bool:
        """Whether it has nothing in hand, and has looked for all there may be to do by now."""
        in_hand = self._claims.are_on_their_way or self._runs.running or self._held or self._questions.are_open
        return not in_hand and not self._times.unknown and self._times.left() > 0 and not self._agenda.wanted()[1]

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Do one thing, the most pressing one; wait if there is none."""
        if self._times.is_time_to_look(self._poll_interval()):
            self._agenda.open(self._workers.names())
        if self._times.is_time_to_resume():
            self._lookout.heed()
        wanted: dict[str, int] = {}
        try:
            await self._lookout.hear(self._hearing_interval())
            wanted, limit = self._agenda.wanted()
            if self._times.is_lease_due():
                await self._lookout.survey()
            elif self._claims.may_look(limit):
                await self._look(wanted, limit)
            elif self._times.unknown:
                await self._lookout.survey()
            else:
                await self._wait()
        except Exception as error:  # noqa: BLE001  nothing ends an instance but `stop()`
            # Whatever it was doing is not done.
            self._agenda.open(wanted)
            self._times.unknown = True
            self._pause = await self._questions.pause_after(error, self._pause)
        else:
            self._pause = FIRST_PAUSE
            self._ticked = time.monotonic()

    async def _look(self, wanted: dict[str, int], limit: int) -> None:
        if not self._keeper.is_healthy():
            raise MonqueError("leases cannot be renewed; no jobs are claimed until they can")
        await self._claims.look(wanted, limit)
        closed = self._agenda.closed()
        self._times.taken(closed)
        self._wakeup.want(bool(closed))

    def _poll_interval(self) -> float:
        polling = self._options.polling
        return seconds(polling.safety if self._wakeup.streaming else polling.interval)

    def _hearing_interval(self) -> float:
        """How long it may go without asking what it was told; one that is busy does not read what would say so."""
        is_deaf = self._wakeup.streaming and not self._wakeup.is_listening
        return _LONGEST_DEAFNESS if is_deaf else self._poll_interval()

    async def _wait(self) -> None:
        timer = self._loop.call_later(self._times.left(), self._signal.set)
        await self._signal.wait()
        timer.cancel()
        self._signal.clear()

    def _hinted(self, hint: Hint | None) -> None:
        if hint is None:
            self._times.hasten()
        elif hint.order:
            self._lookout.hasten()
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

    def _report(self, error: BaseException) -> None:
        self._events.emit(ev.JobErrorEvent, error)


def _claimed_at(job: Job[Any]) -> datetime:
    return job.locked_at or datetime.max.replace(tzinfo=UTC)
