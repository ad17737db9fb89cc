"""Looking ahead: when there will be something to do, and whose lease ran out."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from monque import events as ev
from monque._recovery import Recovery, plan_recovery
from monque._store.driver import call_off
from monque._store.flow import OLDEST_LEASES
from monque._store.orders import Orders
from monque.options import seconds

if TYPE_CHECKING:
    from monque._agenda import Agenda
    from monque._questions import Questions
    from monque._settler import Settler
    from monque._setup import Setup
    from monque._timetable import Timetable

# What became due while the question about what lies ahead was on its way, in seconds, is to be among the answers.
_OVERLAP = 1.0
# An instance that waits looks ahead a moment after each poll, and that moment is not always as long.
_LATE = 1.1
# Jobs that a transaction of a dead process has locked are tried again after so long.
_UNLOCKED_AFTER = timedelta(seconds=2)


class Lookout:
    """Finds out what lies ahead, and takes back jobs whose leases ran out.

    Args:
        setup: What the instance works with.
        settler: Knows the jobs that are held here, and how often others may run.
        questions: Asks the database.
        agenda: Knows which names will be looked for anyway, and is told of jobs that were taken back.
        times: Takes down what lies ahead.
        signal: Set whenever it has learned something while other things went on.
    """

    def __init__(
        self,
        setup: Setup,
        settler: Settler,
        questions: Questions,
        agenda: Agenda,
        times: Timetable,
        signal: asyncio.Event,
    ) -> None:
        self._flow = setup.flow
        self._instance = setup.instance
        self._workers = setup.workers
        self._events = setup.events
        self._clock = setup.clock
        self._recovers = setup.options.recover
        self._lease = seconds(setup.options.lease.timeout)
        self._settler = settler
        self._questions = questions
        self._agenda = agenda
        self._times = times
        self._signal = signal
        self._orders = Orders()
        self._asked = 0.0
        self._has_news = True
        self._hearing: asyncio.Task[None] | None = None

    def hasten(self) -> None:
        """The instance may have been told something."""
        self._has_news = True

    async def hear(self, interval: float) -> None:
        """Find out what the instance was told: before anything is claimed, and then every `interval` seconds.

        An instance that waits learns it that often by looking ahead; one that is busy would not, and is not kept from
        its work by asking.
        """
        if self._has_news:
            await self._hear()
        elif self._hearing is None and time.monotonic() - self._asked > interval * _LATE:
            self._hearing = asyncio.create_task(self._hear())
            self._hearing.add_done_callback(self._heard)

    def _heard(self, hearing: asyncio.Task[None]) -> None:
        self._hearing = None
        # If there was an error, the question is put once more, and then everything else waits for the answer.
        if not hearing.cancelled():
            hearing.exception()
        self._signal.set()

    async def _hear(self) -> None:
        asked = self._asked = time.monotonic()
        self._has_news = False
        try:
            orders = await self._questions.ask(self._flow.orders(self._instance))
        except BaseException:
            self._has_news = True
            raise
        # Another answer may have overtaken this one, which is an old one then.
        if asked == self._asked:
            self._orders = orders
            self.heed()

    async def finish(self) -> None:
        """Ask no more."""
        if self._hearing is not None:
            await call_off(self._hearing, self._flow.client)

    def heed(self) -> None:
        """Do as the instance was told, as far as that still holds."""
        now = self._clock.now()
        paused = {name: until for name, until in self._orders.paused.items() if until is None or until > now}
        self._agenda.heed(paused.keys(), draining=self._orders.draining)
        self._times.resume(min((until for until in paused.values() if until is not None), default=None))

    async def survey(self) -> None:
        """Find out when there will be something to do, and take back jobs whose leases ran out."""
        # A name that is open will be looked for anyway, and what is due of it now would call for a look at once.
        names = self._agenda.closed()
        asked = time.monotonic()
        survey = await self._questions.ask(
            self._flow.survey(sorted(names), self._times.age() + _OVERLAP, self._instance)
        )
        if survey.now is not None:
            self._clock.correct(survey.now, asked=asked, arrived=time.monotonic())
        self._asked, self._orders = asked, survey.orders
        self.heed()
        if not self._recovers:
            self._times.surveyed(names, survey.next_due, None)
            return
        recovery = plan_recovery(
            [lease for lease in survey.leases if lease["_id"] not in self._settler.held],
            now=survey.now or self._clock.now(),
            timeout=self._lease,
            max_attempts=self._settler.max_attempts,
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
            count += await self._questions.ask(self._flow.recover(recovery.requeue))
        for change, error in recovery.fail:
            job = await self._questions.ask(self._flow.give_up(change))
            if job is not None:
                count += 1
                self._events.emit(ev.JobFailEvent, job, error, False)
        if count:
            self._events.emit(ev.StaleRecoveredEvent, count)
            self._agenda.open(self._workers.names())
        return count
