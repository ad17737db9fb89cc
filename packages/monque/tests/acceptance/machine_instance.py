"""One instance of Monque taken apart, so that a test decides what it does next, and when the other one does."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from monque import Concurrency, Options, Retry
from monque import Lease as LeaseOption
from monque._agenda import Agenda
from monque._clock import ServerClock
from monque._lease import _renew
from monque._producer import Producer
from monque._recovery import Recovery, plan_recovery
from monque._settlement import Finished, finish, plan
from monque._store.flow import Claimed, Flow, Settled, Survey
from monque._store.search import Candidate, due_by
from monque.worker import Worker, Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bson import ObjectId
    from pymongo.collection import Collection

    from monque.job import Job
    from monque.outcome import Outcome

NAMES = ("a", "b")
LEASE = 600.0
MAX_RETRIES = 2
OPTIONS = Options(
    retry=Retry(max_retries=MAX_RETRIES, base=3600),
    lease=LeaseOption(timeout=LEASE),
    concurrency=Concurrency(per_worker=2, per_instance=3),
)


async def _unused(job: Job[Any]) -> None:
    raise AssertionError("the machine decides what a run comes to")


@dataclass(frozen=True)
class Time:
    """What the server's clock said once, and when; right clocks go by it."""

    said: datetime
    arrived: float

    @classmethod
    def of(cls, said: datetime) -> Time:
        return cls(said.replace(tzinfo=UTC), time.monotonic())


@dataclass(frozen=True)
class Look:
    wanted: dict[str, int]
    limit: int
    chosen: list[Candidate]
    still_open: set[str]


@dataclass
class Instance:
    """What `monque._engine` does, step by step, and without its fences in memory: the database has to hold alone."""

    identity: str
    flow: Flow
    jobs: Collection[dict[str, Any]]
    right_time: Time
    hours_off: int = 0
    runs: list[Finished] = field(default_factory=list[Finished])
    finished: list[Finished] = field(default_factory=list[Finished])
    written: list[Finished] = field(default_factory=list[Finished])
    held: dict[ObjectId, str] = field(default_factory=dict["ObjectId", str])
    chosen: list[Candidate] | None = None
    recovery: Recovery | None = None

    def __post_init__(self) -> None:
        self.clock = ServerClock()
        self.set_clock(self.hours_off)
        workers = Workers()
        for name in NAMES:
            workers.add(Worker(name, _unused), replace=False)
        self.agenda = Agenda(workers, OPTIONS.concurrency)
        self.producer = Producer(self.flow, self.clock, OPTIONS, workers)
        self._tokens = 0

    def set_clock(self, hours_off: int) -> None:
        self.hours_off = hours_off
        self.clock.observe((self.right_time.said + timedelta(hours=hours_off), self.right_time.arrived))

    async def look(self) -> Look:
        self.agenda.open(NAMES)
        wanted, limit = self.agenda.wanted()
        self.chosen = []
        if limit:
            self.agenda.close(wanted)
            self.chosen = self.agenda.choose(wanted, limit, await self.flow.look(wanted, limit))
        return Look(wanted, limit, self.chosen, self.agenda._open.copy())

    async def claim(self, *, times: int) -> tuple[str, Claimed]:
        """Claim what was chosen, as often as answers are lost."""
        self._tokens += 1
        token = f"{self.identity}/{self._tokens}"
        jobs, due = [candidate.id for candidate in self.chosen or ()], due_by(self.chosen or ())
        self.chosen = None
        claimed = Claimed([], {}, {})
        for _ in range(times if jobs else 0):
            claimed = await self.flow.claim(
                jobs,
                token=token,
                instance=self.identity,
                heartbeat_interval=OPTIONS.lease.heartbeat_interval,
                due=due,
            )
        for job in claimed.jobs:
            self.runs.append(Finished(job, token, outcome=_NOT_YET))
            self.held[job.id] = token
            self.agenda.occupy(job.name)
        return token, claimed

    def finish(self, run: Finished, outcome: Outcome) -> Finished:
        self.runs.remove(run)
        self.agenda.vacate(run.job.name)
        finished = finish(replace(run, outcome=outcome), retry=OPTIONS.retry, now=self.clock.now())
        self.finished.append(finished)
        return finished

    async def settle(self, runs: Sequence[Finished], *, times: int = 1) -> Settled:
        settled = Settled(set(), {})
        for _ in range(times):
            settled = await self.flow.settle(plan(runs, now=self.clock.now()))
        self.written = list(runs)
        return settled

    def close(self, run: Finished) -> None:
        if self.held.get(run.job.id) == run.token:
            del self.held[run.job.id]

    async def resettle(self, run: Finished) -> bool:
        """What the engine does about an occurrence whose schedule was changed while it ran."""
        job = await self.flow.reread(run.job.id, run.token)
        if job is not None:
            again = replace(run, job=job, repeat_at=None)
            self.finished.append(finish(again, retry=OPTIONS.retry, now=self.clock.now()))
        return job is not None

    def renew(self) -> set[ObjectId]:
        """Renew what is believed to be held; what turns out not to be is returned, and held no longer."""
        lost = _renew(self.jobs, self.held, self.identity)
        for job in lost:
            del self.held[job]
        return set(lost)

    async def survey(self) -> tuple[Survey, Recovery]:
        survey = await self.flow.survey(NAMES, 0)
        self.recovery = plan_recovery(
            [lease for lease in survey.leases if lease["_id"] not in self.held],
            now=survey.now or self.clock.now(),
            timeout=LEASE,
            max_attempts=lambda _: MAX_RETRIES,
        )
        return survey, self.recovery

    async def recover(self, recovery: Recovery) -> int:
        count = await self.flow.recover(recovery.requeue) if recovery.requeue else 0
        for change, _ in recovery.fail:
            count += await self.flow.apply(change) is not None
        return count


_NOT_YET: Any = None
