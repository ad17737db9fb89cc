"""Two instances on one collection, driven at random through the real storage and rules, beside a model in Python.

Set MONQUE_MACHINE_EXAMPLES to a number for a longer run from a random seed.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import DuplicateKeyError
from typing_extensions import override

from monque import NewJob
from monque import _transitions as transitions
from monque._cron import Cron
from monque._store import indexes
from monque._store.flow import Flow, job_collection
from monque.outcome import COMPLETED, RELEASED, Completed, Failed, Outcome, Released

from .machine_instance import LEASE, MAX_RETRIES, NAMES, Instance, Time
from .machine_model import (
    ACTIVE,
    CANCELLED,
    CLAIM_FIELDS,
    DONE,
    EDGES,
    FAILED,
    PENDING,
    PROCESSING,
    Expected,
    Yearly,
    seen,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from datetime import datetime

    from bson import ObjectId

    from monque import Job
    from monque._recovery import Recovery
    from monque._settlement import Finished
    from monque._transitions import Transition

T = TypeVar("T")
Document = dict[str, Any]

EXAMPLES = int(os.environ.get("MONQUE_MACHINE_EXAMPLES", "0"))
PROFILE = settings(
    max_examples=EXAMPLES or 40,
    stateful_step_count=60 if EXAMPLES else 40,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)

WHO = st.sampled_from([0, 1])
PICK = st.integers(0, 99)
NAME = st.sampled_from(NAMES)
WRITES = st.sampled_from([0, 1, 1, 2])
RARELY = st.sampled_from([False, False, True])
TIMES = st.sampled_from([1, 1, 2])
DUE = st.sampled_from(["now", "past", "later"])
OTHER_OUTCOMES: list[Outcome] = [Failed(ValueError("no")), Failed(ValueError("never"), final=True), RELEASED]
SCHEDULES = [Yearly.in_days(days, timezone) for days, timezone in ((100, "UTC"), (100, "Asia/Kolkata"), (200, "UTC"))]
SCHEDULE = st.sampled_from(SCHEDULES)
HOUR = timedelta(hours=1)
AGE: Document = {"$set": {"lastHeartbeat": {"$subtract": ["$lastHeartbeat", 3_600_000]}}}


class TwoInstances(RuleBasedStateMachine):
    """Every rule does to the model what the documents should show afterwards; the invariants compare the two."""

    uri: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._client = MongoClient[Document](self.uri, tz_aware=True)
        self._database = self._client[f"monque_test_machine_{uuid.uuid4().hex[:12]}"]
        self._documents = self._database.monque_jobs
        self._async_client = self._do(_connect(self.uri))
        self._expected: dict[ObjectId, Expected] = {}
        self._before: dict[ObjectId, Document] = {}
        self._edges: dict[ObjectId, str] = {}
        self._surveyed: dict[int, dict[ObjectId, Document]] = {}
        self._identities = 0

    @initialize()
    def begin(self) -> None:
        jobs = job_collection(self._async_client[self._database.name], "monque_jobs")
        self._do(indexes.create(jobs))
        self._flow = Flow(jobs)
        self._right_time = Time.of(self._server_time())
        self._instances = [self._new_instance(), self._new_instance()]
        # Something to do from the first step on: a plain and a recurring job of each name under the keys that the rules
        # use, and some of them running.
        for name in NAMES:
            self.enqueue(0, name, "k", 0, "past")
            self.schedule(0, name, "r", SCHEDULES[0], 0)
            self.reschedule(0, len(self._expected) - 1, "past")
        self._edges = dict.fromkeys(self._expected, "enqueue")
        self._check_documents()
        for who in (0, 1):
            self.look(who, "")

    @override
    def teardown(self) -> None:
        self._do(self._async_client.close())
        self._runner.close()
        self._client.drop_database(self._database.name)
        self._client.close()

    # --- enqueue ----------------------------------------------------------------------------------------------------

    @rule(
        who=WHO, name=NAME, key=st.sampled_from([None, None, "k", "l"]), priority=st.sampled_from([0, -5, 7]), due=DUE
    )
    def enqueue(self, who: int, name: str, key: str | None, priority: int, due: str) -> None:
        instance = self._instances[who]
        request = NewJob(name=name, unique_key=key, priority=priority, **self._when(instance, due))
        earliest = instance.clock.now()
        job = self._do(instance.producer.enqueue(request, None))
        if due == "now" and job.id not in self._expected:
            assert earliest <= job.next_run_at <= instance.clock.now()
        self._enqueued(request, job)

    @rule(name=NAME, key=st.sampled_from([None, "k", "l"]))
    def enqueue_the_same_in_both(self, name: str, key: str | None) -> None:
        request = NewJob(name=name, unique_key=key, run_at=self._server_time() - HOUR)
        one, other = self._do(_both(*(instance.producer.enqueue(request, None) for instance in self._instances)))
        assert (one.id == other.id) == (key is not None)
        for job in sorted((one, other), key=lambda job: job.id):
            self._enqueued(request, job)

    @rule(who=WHO, name=NAME, priority=st.sampled_from([0, -5, 7]))
    def enqueue_three(self, who: int, name: str, priority: int) -> None:
        """Enough to fill a look."""
        request = NewJob(name=name, priority=priority, run_at=self._server_time() - HOUR)
        for job in self._do(self._instances[who].producer.enqueue_many([request] * 3, None)):
            self._enqueued(request, job)

    @rule(
        who=WHO, name=NAME, key=st.sampled_from(["k", "r"]), schedule=st.sampled_from(SCHEDULES), data=st.integers(0, 1)
    )
    def schedule(self, who: int, name: str, key: str, schedule: Yearly, data: int) -> None:
        instance = self._instances[who]
        first = schedule.after(instance.clock.now())
        request = NewJob(name=name, unique_key=key, data={"n": data})
        cron = Cron.parse(schedule.expression, schedule.timezone)
        holder = self._holder(name, key)
        job = self._do(instance.producer.schedule(cron, request, None))
        if holder is None:
            self._edges[job.id] = "enqueue"
            self._expected[job.id] = Expected(
                name, {"n": data}, first, key, expression=schedule.expression, timezone=schedule.wire_timezone
            )
            return
        assert job.id == holder
        expected, wanted = self._expected[holder], (schedule.expression, schedule.wire_timezone)
        moved = (expected.expression, expected.timezone) != wanted
        if moved or expected.data != {"n": data}:
            self._edges[holder] = "redefine"
        if moved and expected.status == PENDING:
            expected.next_run_at = first
        expected.expression, expected.timezone, expected.data = *wanted, {"n": data}

    def _redefine(self, job: ObjectId) -> None:
        """Give it a schedule that it does not have yet."""
        expected = self._expected[job]
        if expected.unique_key in {"k", "r"} and expected.status in ACTIVE:
            has = (expected.expression, expected.timezone)
            other = next(one for one in SCHEDULES if (one.expression, one.wire_timezone) != has)
            self.schedule(0, expected.name, str(expected.unique_key), other, 0)
        self._check_documents()

    # --- claim ------------------------------------------------------------------------------------------------------

    @rule(who=WHO, meanwhile=st.sampled_from(["", "", "reschedule", "rob", "leave it"]))
    def look(self, who: int, meanwhile: str) -> None:
        """A look, and what happens until what was chosen is claimed, at once or by another rule."""
        due_before = self._due()
        look = self._do(self._instances[who].look())
        due = self._due()
        chosen = {name: [row.id for row in look.chosen if row.name == name] for name in NAMES}
        assert len(look.chosen) <= look.limit
        for name, jobs in chosen.items():
            # Nothing is taken while something of the same name that ranks higher is left.
            assert len(jobs) <= look.wanted.get(name, 0)
            assert jobs == due[name][: len(jobs)]
            assert name in look.still_open or set(due_before[name]) <= set(jobs)
        if look.limit and not look.chosen:
            assert not any(due_before[name] for name in look.wanted)
        if meanwhile == "reschedule" and look.chosen:
            self._reschedule(look.chosen[0].id, self._server_time() + HOUR)
        elif meanwhile == "rob":
            self.look(1 - who, "")
        self._check_documents()
        if meanwhile != "leave it":
            self.claim(who, 1)

    @precondition(lambda self: self._instances[0].chosen or self._instances[1].chosen)
    @rule(who=WHO, times=TIMES)
    def claim(self, who: int, times: int) -> None:
        instance = self._instances[who]
        now = self._server_time()
        wanted = [candidate.id for candidate in instance.chosen or ()]
        possible = {job for job in wanted if self._is_pending_and_due(job, now)}
        token, claimed = self._do(instance.claim(times=times))
        assert {job.id for job in claimed.jobs} == possible
        assert not claimed.unreadable
        for job in claimed.jobs:
            self._expected[job.id].claim(token, instance.identity)
            self._edges[job.id] = "claim"
        self._check_limits(instance)

    # --- settle -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self._instances[0].runs or self._instances[1].runs)
    @rule(pick=PICK, times=WRITES, is_redefined=RARELY)
    def succeed(self, pick: int, times: int, is_redefined: bool) -> None:
        self._finish(pick, COMPLETED, times, is_redefined=is_redefined)

    @precondition(lambda self: self._instances[0].runs or self._instances[1].runs)
    @rule(pick=PICK, outcome=st.sampled_from(OTHER_OUTCOMES), times=WRITES, is_redefined=RARELY)
    def fail(self, pick: int, outcome: Outcome, times: int, is_redefined: bool) -> None:
        self._finish(pick, outcome, times, is_redefined=is_redefined)

    def _finish(self, pick: int, outcome: Outcome, times: int, *, is_redefined: bool) -> None:
        """A run ends; whether it is written down at once, later, or twice since the answer was lost, is open."""
        instance, run = _pick([(one, run) for one in self._instances for run in one.runs], pick)
        if is_redefined:
            self._redefine(run.job.id)
        earliest = instance.clock.now()
        finished = instance.finish(run, outcome)
        self._check_finished(finished, earliest, instance.clock.now())
        if times:
            instance.finished.remove(finished)
            self._settle(instance, [finished], times)

    @precondition(lambda self: self._instances[0].finished or self._instances[1].finished)
    @rule(who=WHO, times=TIMES)
    def settle(self, who: int, times: int) -> None:
        """Several outcomes at once."""
        instance = self._instances[who]
        runs = list({run.job.id: run for run in instance.finished}.values())
        instance.finished = [run for run in instance.finished if run not in runs]
        if runs:
            self._settle(instance, runs, times)

    @precondition(lambda self: self._instances[0].written or self._instances[1].written)
    @rule(who=WHO)
    def settle_again(self, who: int) -> None:
        """Whatever has happened since."""
        instance = self._instances[who]
        if instance.written:
            self._settle(instance, instance.written, 1, anew=False)

    def _settle(self, instance: Instance, runs: list[Finished], times: int, *, anew: bool = True) -> None:
        lost: set[ObjectId] = set()
        moved: list[Finished] = []
        for run in runs:
            expected = self._expected[run.job.id]
            schedule = (expected.expression, expected.timezone)
            if not expected.is_held_by(run.token):
                if expected.settled_by != run.token:
                    lost.add(run.job.id)
            elif schedule != (run.job.repeat_interval, run.job.timezone) and _depends_on_schedule(run):
                lost.add(run.job.id)
                moved.append(run)
            else:
                self._edges[run.job.id] = _apply_outcome(expected, run)
        settled = self._do(instance.settle(runs, times=times))
        assert not settled.refused
        assert settled.lost == lost
        for run in runs if anew else ():
            if run.job.id in lost and self._do(instance.resettle(run)):
                assert run in moved
            else:
                assert run not in moved
                instance.close(run)

    # --- leases -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self._in(PROCESSING))
    @rule(pick=PICK)
    def lose_lease(self, pick: int) -> None:
        """Its holder has not renewed it for an hour, nor any other job."""
        self._age(self._expected[_pick(self._in(PROCESSING), pick)].holder)

    def _age(self, holder: str | None) -> None:
        self._documents.update_many({"claimedBy": holder}, [AGE])
        self._edges.update((job, "age") for job, expected in self._expected.items() if expected.holder == holder)

    @precondition(lambda self: self._instances[0].held or self._instances[1].held)
    @rule(who=WHO)
    def renew(self, who: int) -> None:
        instance = self._instances[who]
        mine = {job for job in instance.held if self._expected[job].holder == instance.identity}
        gone = {job for job, token in instance.held.items() if not self._expected[job].is_held_by(token)}
        self._edges.update(dict.fromkeys(mine, "renew"))
        assert instance.renew() == gone

    @rule(
        who=WHO,
        is_late=st.sampled_from([True, True, False]),
        meanwhile=st.sampled_from(["", "", "renew", "redefine", "leave it"]),
    )
    def survey(self, who: int, is_late: bool, meanwhile: str) -> None:
        """A survey, and what happens until its findings are used, at once or by another rule."""
        others = [job for job in self._in(PROCESSING) if job not in self._instances[who].held]
        if is_late and others:
            self._age(self._expected[others[0]].holder)
            self._check_documents()
        instance = self._instances[who]
        survey, recovery = self._do(instance.survey())
        documents = list(self._documents.find())
        self._surveyed[who] = {one["_id"]: one for one in documents}
        now = survey.now or instance.clock.now()
        ahead = [one["nextRunAt"] for one in documents if one["status"] == PENDING and one["nextRunAt"] > now]
        assert survey.next_due == min(ahead, default=None)
        assert {one["_id"] for one in survey.leases} == set(self._in(PROCESSING))
        expired = {
            one["_id"]
            for one in documents
            if one["status"] == PROCESSING
            and one["_id"] not in instance.held
            and one["lastHeartbeat"] + timedelta(seconds=LEASE) <= now
        }
        assert {change.jobs[0] for change in _changes(recovery)} == expired
        if meanwhile == "renew":
            self.renew(1 - who)
        elif meanwhile == "redefine":
            for job in expired:
                self._redefine(job)
        self._check_documents()
        if meanwhile != "leave it":
            self.recover(who)

    @precondition(lambda self: any(_changes(one.recovery) for one in self._instances))
    @rule(who=WHO)
    def recover(self, who: int) -> None:
        """What was planned at a survey is done now; somebody may have been quicker."""
        instance = self._instances[who]
        recovery, instance.recovery = instance.recovery, None
        if recovery is None:
            return
        count = 0
        for change in _changes(recovery):
            (job,) = change.jobs
            final = change not in recovery.requeue
            if _is_as_seen(self._surveyed[who][job], self._documents.find_one({"_id": job}) or {}, final=final):
                count += 1
                self._edges[job] = "recover"
                self._recovered(job)
        assert self._do(instance.recover(recovery)) == count

    def _recovered(self, job: ObjectId) -> None:
        expected = self._expected[job]
        if expected.attempts < MAX_RETRIES:
            expected.leave(PENDING)
            return
        expected.has_reason = True
        if expected.expression is None:
            expected.leave(FAILED)
        else:
            expected.leave(PENDING)
            expected.start_over()
            expected.next_run_at = _schedule(expected.expression, expected.timezone).after(self._server_time())

    # --- by hand ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self._expected)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        job = _pick(list(self._expected), pick)
        if self._apply(transitions.cancel([job]), "cancel", possible=self._expected[job].status in ACTIVE):
            self._expected[job].leave(CANCELLED)

    @precondition(lambda self: self._in(FAILED, CANCELLED))
    @rule(who=WHO, pick=PICK)
    def revive(self, who: int, pick: int) -> None:
        job = _pick(self._in(FAILED, CANCELLED), pick)
        expected, now = self._expected[job], self._instances[who].clock.now()
        change = transitions.revive([job], now=now)
        if expected.unique_key and self._holder(expected.name, expected.unique_key):
            with pytest.raises(DuplicateKeyError):
                self._do(self._flow.apply(change))
            return
        assert self._apply(change, "revive", possible=True)
        expected.leave(PENDING)
        expected.start_over()
        expected.next_run_at, expected.has_reason = now, False

    @precondition(lambda self: self._in(*ACTIVE))
    @rule(who=WHO, pick=PICK, due=DUE)
    def reschedule(self, who: int, pick: int, due: str) -> None:
        job = _pick(self._in(*ACTIVE), pick)
        run_at = self._instances[who].clock.now() + {"now": 0, "past": -1, "later": 2}[due] * HOUR
        self._reschedule(job, run_at)

    def _reschedule(self, job: ObjectId, run_at: datetime) -> None:
        run_at = run_at.replace(microsecond=run_at.microsecond // 1000 * 1000)
        expected, change = self._expected[job], transitions.reschedule([job], run_at=run_at)
        if self._apply(change, "reschedule", possible=expected.status == PENDING):
            expected.next_run_at = run_at

    def _apply(self, change: Transition, edge: str, *, possible: bool) -> bool:
        job = self._do(self._flow.apply(change))
        assert (job is not None) == possible
        if possible:
            self._edges[change.jobs[0]] = edge
        return possible

    # --- instances --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self._instances[0].held or self._instances[1].held)
    @rule(who=WHO, gracefully=st.booleans())
    def end(self, who: int, gracefully: bool) -> None:
        """Stopped, it writes what has ended and releases what runs; killed, it leaves its leases to run out."""
        instance = self._instances[who]
        if gracefully:
            for run in list(instance.runs):
                instance.finish(run, RELEASED)
            while instance.finished:
                self.settle(who, 1)
            assert not instance.held
        self._instances[who] = self._new_instance(instance.hours_off)

    @rule(who=WHO, hours=st.sampled_from([-3, 0, 0, 3]))
    def step_clock(self, who: int, hours: int) -> None:
        instance = self._instances[who]
        instance.set_clock(hours)
        if not hours:
            # A clock that was set right is never ahead, so that nothing is early.
            assert instance.clock.now() <= self._server_time()

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def the_documents_are_as_expected(self) -> None:
        self._check_documents()

    def _check_documents(self) -> None:
        documents = {one["_id"]: one for one in self._documents.find()}
        assert documents.keys() == self._expected.keys()
        for job, document in documents.items():
            assert seen(document) == self._expected[job].described()
            _check_claim_fields(document)
            _check_bounds(document)
            self._check_edge(job, document)
        self._check_unique(documents.values())
        self._before, self._edges = documents, {}

    def _check_edge(self, job: ObjectId, document: Document) -> None:
        before = self._before.get(job)
        edge = self._edges.get(job)
        if edge is None:
            assert document == before
        else:
            assert (before and before["status"], document["status"]) in EDGES[edge]

    def _check_unique(self, documents: Iterable[Document]) -> None:
        held = [(one["name"], one["uniqueKey"]) for one in documents if "uniqueKey" in one and one["status"] in ACTIVE]
        assert len(held) == len(set(held))

    def _check_limits(self, instance: Instance) -> None:
        running = [run.job.name for run in instance.runs]
        assert len(running) <= 3
        assert all(running.count(name) <= 2 for name in NAMES)

    def _check_finished(self, run: Finished, earliest: datetime, latest: datetime) -> None:
        """When it runs again, if it does."""
        outcome, schedule = run.outcome, (run.job.repeat_interval, run.job.timezone)
        fails = run.job.fail_count + 1
        if isinstance(outcome, Failed) and not outcome.final and fails < MAX_RETRIES:
            delay = timedelta(hours=2**fails)
            assert run.retry_at is not None
            assert earliest + delay <= run.retry_at <= latest + delay
            assert run.repeat_at is None
        elif run.job.repeat_interval is not None and not isinstance(outcome, Released):
            assert run.job.locked_at is not None
            assert run.repeat_at == _schedule(*schedule).after(max(run.job.next_run_at, run.job.locked_at))
        else:
            assert run.next_run_at is None

    # --- helpers ----------------------------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def _server_time(self) -> datetime:
        said: datetime = self._client.admin.command("hello")["localTime"]
        return said.replace(tzinfo=UTC)

    def _new_instance(self, hours_off: int = 0) -> Instance:
        self._identities += 1
        return Instance(f"instance-{self._identities}", self._flow, self._documents, self._right_time, hours_off)

    def _when(self, instance: Instance, due: str) -> dict[str, Any]:
        if due == "past":
            return {"run_at": instance.clock.now() - HOUR}
        return {"delay": 7200} if due == "later" else {}

    def _enqueued(self, request: NewJob, job: Job[Any]) -> None:
        holder = request.unique_key and self._holder(request.name, request.unique_key)
        if holder:
            assert job.id == holder
            return
        assert job.id not in self._expected
        self._edges[job.id] = "enqueue"
        self._expected[job.id] = Expected(
            request.name, {}, job.next_run_at, request.unique_key, priority=request.priority or 0
        )

    def _holder(self, name: str, key: str) -> ObjectId | None:
        """Whose the key is."""
        jobs = (
            job
            for job in self._in(*ACTIVE)
            if (self._expected[job].name, self._expected[job].unique_key) == (name, key)
        )
        return next(jobs, None)

    def _in(self, *statuses: str) -> list[ObjectId]:
        return [job for job, expected in self._expected.items() if expected.status in statuses]

    def _is_pending_and_due(self, job: ObjectId, now: datetime) -> bool:
        return self._expected[job].status == PENDING and self._expected[job].next_run_at <= now

    def _due(self) -> dict[str, list[ObjectId]]:
        """The jobs that may be claimed now, in their order, by name."""
        now = self._server_time()
        due = sorted(
            (job for job in self._expected if self._is_pending_and_due(job, now)),
            key=lambda job: (self._expected[job].rank, job),
        )
        return {name: [job for job in due if self._expected[job].name == name] for name in NAMES}


def _apply_outcome(expected: Expected, run: Finished) -> str:
    """What is written when the claim still holds; which edge that is."""
    expected.settled_by, outcome = run.token, run.outcome
    if isinstance(outcome, Released):
        expected.leave(PENDING)
        expected.attempts -= 1
        return "release"
    expected.has_reason = isinstance(outcome, Failed)
    if run.repeat_at is not None:
        expected.leave(PENDING)
        expected.start_over()
        expected.next_run_at = run.repeat_at
        return "repeat"
    assert expected.expression is None or run.retry_at is not None, "a schedule came to an end"
    if isinstance(outcome, Completed):
        expected.leave(DONE)
        return "complete"
    expected.fail_count += 1
    if run.retry_at is None:
        expected.leave(FAILED)
        return "fail"
    expected.leave(PENDING)
    expected.next_run_at = run.retry_at
    return "retry"


def _depends_on_schedule(run: Finished) -> bool:
    return run.retry_at is None and not isinstance(run.outcome, Released)


def _schedule(expression: str | None, timezone: str | None) -> Yearly:
    (schedule,) = (one for one in SCHEDULES if (one.expression, one.wire_timezone) == (expression, timezone))
    return schedule


def _changes(recovery: Recovery | None) -> list[Transition]:
    return [] if recovery is None else recovery.requeue + [change for change, _ in recovery.fail]


def _is_as_seen(then: Document, now: Document, *, final: bool) -> bool:
    """Whether a lease is still the one that ran out; where a job is to fail for good, its schedule counts, too."""
    fields = ["claimToken", "lastHeartbeat", "lockedAt", *(["repeatInterval", "timezone"] if final else [])]
    return now.get("status") == PROCESSING and all(then.get(field) == now.get(field) for field in fields)


def _check_claim_fields(document: Document) -> None:
    assert CLAIM_FIELDS & document.keys() == (CLAIM_FIELDS if document["status"] == PROCESSING else set())


def _check_bounds(document: Document) -> None:
    assert 0 <= document["failCount"] <= MAX_RETRIES
    # Each claim after the first follows a failure or a lease that ran out.
    assert 0 <= document.get("attempts", 0) < 2 * MAX_RETRIES


def _pick(some: list[T], number: int) -> T:
    return some[number % len(some)]


async def _connect(uri: str) -> AsyncMongoClient[Document]:
    return AsyncMongoClient[Document](uri, tz_aware=True)


async def _both(*work: Coroutine[Any, Any, Job[Any]]) -> list[Job[Any]]:
    return await asyncio.gather(*work)


def test_two_instances_keep_to_the_state_diagram(monque_server: str) -> None:
    class Here(TwoInstances):
        uri = monque_server

    run_state_machine_as_test(Here, settings=PROFILE)
