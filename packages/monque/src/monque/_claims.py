"""Claiming: looks for due jobs as slots are free, takes what was seen, and lets it run."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from pymongo.errors import PyMongoError

from monque import _transitions as transitions
from monque import events as ev
from monque._agenda import Spread
from monque._questions import FIRST_PAUSE, LONGEST_PAUSE
from monque._settlement import Finished
from monque._store.search import due_by
from monque.options import seconds
from monque.outcome import RELEASED

if TYPE_CHECKING:
    from monque._agenda import Agenda
    from monque._questions import Questions
    from monque._runs import Runs
    from monque._settler import Settler
    from monque._setup import Setup
    from monque._store.flow import Claimed
    from monque._store.search import Candidate

# A claim for this many jobs is worth making while another is on its way; then the server need not wait for us.
_WORTHWHILE_CLAIM = 50
_MOST_CLAIMS = 3
# Beyond this many runs whose outcome is not written yet, no new ones are started.
_MOST_UNSETTLED = 5000


class Claims:
    """Claims on their way.

    Attributes:
        last: When one last brought a job, on the monotonic clock.
    """

    def __init__(
        self,
        setup: Setup,
        runs: Runs,
        settler: Settler,
        questions: Questions,
        agenda: Agenda,
        signal: asyncio.Event,
    ) -> None:
        """Make one without any.

        Args:
            setup: What the instance works with.
            runs: Gets the jobs that were claimed.
            settler: Holds them, and gets those that cannot run.
            questions: Asks the database.
            agenda: Says what is wanted.
            signal: Set whenever a claim has ended.
        """
        self._flow = setup.flow
        self._options = setup.options
        self._events = setup.events
        self._instance = setup.instance
        self._lease = seconds(setup.options.lease.timeout)
        self._runs = runs
        self._settler = settler
        self._questions = questions
        self._shutdown = questions.shutdown
        self._agenda = agenda
        self._signal = signal
        self._loop = asyncio.get_running_loop()
        self._spread = Spread()
        self.last: float | None = None
        # What they are for; the slots are taken already.
        self._claims: dict[asyncio.Task[None], list[Candidate]] = {}

    @property
    def are_on_their_way(self) -> bool:
        """Whether there is one that has not come to its end."""
        return bool(self._claims)

    def may_look(self, limit: int) -> bool:
        """Whether to look for jobs; a second claim beside one on its way has to be worth it."""
        if not limit or len(self._settler.batch) >= _MOST_UNSETTLED:
            return False
        return not self._claims or (len(self._claims) < _MOST_CLAIMS and limit >= _WORTHWHILE_CLAIM)

    async def look(self, wanted: dict[str, int], limit: int) -> None:
        """Look for due jobs of the wanted names, and begin to claim them."""
        self._agenda.close(wanted)
        claiming = [candidate.id for chosen in self._claims.values() for candidate in chosen]
        at_once = self._largest_claim()
        look = partial(self._flow.look, wanted, limit, at_once=at_once, besides=claiming)
        skip = self._spread.start(min(limit, at_once))
        sighting = await self._questions.ask(look(skip=skip))
        if skip and sighting.exhausted:
            # There are not that many: what was left to others is all there is.
            self._spread = Spread()
            sighting = await self._questions.ask(look())
        chosen = self._agenda.choose(wanted, limit, sighting)
        if chosen and not self._shutdown.begun.is_set():
            slots = Counter(candidate.name for candidate in chosen)
            for name, number in slots.items():
                self._agenda.occupy(name, number)
            claim = self._loop.create_task(self._claim(chosen, slots))
            self._claims[claim] = chosen
            claim.add_done_callback(self._claimed)

    async def finish(self) -> None:
        """Wait for those on their way."""
        while self._claims:
            await asyncio.wait(self._claims)

    def _largest_claim(self) -> int:
        """A part of what there is room for: while one is claimed, others run and are settled."""
        return max(self._agenda.capacity() // _MOST_CLAIMS, _WORTHWHILE_CLAIM)

    async def _claim(self, chosen: list[Candidate], slots: Counter[str]) -> None:
        """Claim what was chosen, start what was got, and free the slots of the rest."""
        token = secrets.token_hex(12)
        try:
            claimed = await self._take(chosen, token)
            if claimed is not None:
                self.last = time.monotonic() if claimed.jobs else self.last
                self._spread.learn(len(chosen), len(claimed.jobs) + len(claimed.unreadable) + len(claimed.refused))
                await self._begin(claimed, token, slots)
        except Exception as error:  # noqa: BLE001  whatever it is, others of these names may be claimed
            await self._questions.pause_after(error, LONGEST_PAUSE)
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
        pause = FIRST_PAUSE
        while time.monotonic() < min(deadline, self._shutdown.give_up_at):
            try:
                return await self._questions.ask(
                    self._flow.claim(
                        [candidate.id for candidate in chosen],
                        token=token,
                        instance=self._instance,
                        heartbeat_interval=self._options.lease.heartbeat_interval,
                        due=due_by(chosen),
                    )
                )
            except PyMongoError as error:
                pause = await self._questions.pause_after(error, pause)
        return None

    async def _begin(self, claimed: Claimed, token: str, slots: Counter[str]) -> None:
        """Start the jobs in the slots that were taken for them; what is left of `slots` is free again."""
        held = self._settler.held
        self._runs.lose({job.id: held[job.id] for job in claimed.jobs if job.id in held})
        held.update((job.id, token) for job in claimed.jobs)
        if self._shutdown.begun.is_set():
            for job in claimed.jobs:
                self._settler.batch.add(Finished(job, token, RELEASED))
        else:
            self._runs.begin(claimed.jobs, token)
            slots.subtract(job.name for job in claimed.jobs)
        if claimed.unreadable:
            changes = [transitions.reject(job, token, reason=str(error)) for job, error in claimed.unreadable.items()]
            await self._questions.persist(lambda: self._flow.settle(changes))
        for error in (*claimed.unreadable.values(), *claimed.refused.values()):
            self._events.emit(ev.JobErrorEvent, error)
