"""Workers with `transaction=True`: effects and completion happen together, once, whatever goes wrong in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.errors import OperationFailure, PyMongoError

from monque import (
    Cancel,
    Fail,
    Job,
    JobCompleteEvent,
    JobErrorEvent,
    JobFailEvent,
    JobLostEvent,
    JobTimeoutError,
    Lease,
    MonqueError,
    Retry,
    RetryIn,
    Snooze,
    StaleRecoveredEvent,
    StuckHandlerError,
    Timeout,
    TransactionsUnavailableError,
)
from monque._engine import Engine
from monque._shutdown import Shutdown
from monque._transaction import InDoubtError
from monque.testing import eventually

from .support import NO_POLLS, Bench, Gate, Proxy, Record, working
from .test_lessons import standalone

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from monque import Monque

    from .support import Lab

    Handler = Callable[[Job[Any]], Awaitable[Any]]

__all__ = ["standalone"]

TRANSIENT = ["TransientTransactionError"]
SOON = Retry(max_retries=3, base=0.01)


class Payments:
    """Handlers that leave an effect, and how often they were called."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.effects = bench.database.effects
        self.calls: Counter[Any] = Counter()
        bench.database.create_collection("effects")

    async def pay(self, job: Job[Any]) -> None:
        self.calls[job.id] += 1
        await self.note(job)

    async def note(self, job: Job[Any]) -> None:
        effects = job.session.client[self.bench.database_name].effects
        await effects.insert_one({"job": job.id, "data": job.data}, session=job.session)

    def declare(self, monque: Monque, handler: Handler | None = None, **options: Any) -> Record:
        monque.worker("pay", handler or self.pay, transaction=True, **options)
        return Record(monque)

    def count(self) -> int:
        return self.effects.count_documents({})


@pytest.fixture
def payments(bench: Bench) -> Payments:
    return Payments(bench)


@pytest.fixture
def broken(lab: Lab) -> Payments:
    """The same on a server that fails."""
    return Payments(lab)


@asynccontextmanager
async def once(payments: Payments, monque: Monque, record: Record, kind: type[Any]) -> AsyncGenerator[Job[Any]]:
    """One job at work, from its beginning until there was an event of this kind."""
    async with working(monque):
        job = await monque.enqueue("pay")
        await eventually(record.has(kind), timeout=20)
        yield job


# --- committed or not -----------------------------------------------------------------------------------------------


async def test_effects_and_completion_become_visible_together(payments: Payments, bench: Bench) -> None:
    gate = Gate()

    async def pay(job: Job[Any]) -> None:
        await payments.note(job)
        await gate(job)

    monque = bench.monque()
    record = payments.declare(monque, pay)
    async with working(monque):
        job = await monque.enqueue("pay")
        await gate.reached()
        assert (payments.count(), bench.find(job)["status"]) == (0, "processing")
        gate.open()
        await eventually(record.has(JobCompleteEvent))
        assert (payments.count(), bench.find(job)["status"]) == (1, "completed")
    assert len(record.of(JobCompleteEvent)) == 1
    assert not {"claimToken", "claimedBy", "lockedAt"} & bench.find(job).keys()


async def test_a_failure_leaves_no_effect_and_is_retried(payments: Payments, bench: Bench) -> None:
    async def pay(job: Job[Any]) -> None:
        await payments.pay(job)
        if not job.fail_count:
            raise ValueError("once")

    monque = bench.monque(retry=SOON)
    record = payments.declare(monque, pay)
    async with once(payments, monque, record, JobCompleteEvent) as job:
        assert (payments.calls[job.id], payments.count()) == (2, 1)
    assert [str(event.error) for event in record.of(JobFailEvent)] == ["once"]


@pytest.mark.parametrize("raises", [False, True], ids=["returned", "raised"])
@pytest.mark.parametrize(
    ("verdict", "status"),
    [(Snooze(60), "pending"), (RetryIn(60), "pending"), (Cancel("no"), "cancelled"), (Fail("no"), "failed")],
    ids=["snooze", "retry in", "cancel", "fail"],
)
async def test_a_verdict_leaves_no_effect_and_is_settled_as_ever(
    payments: Payments, bench: Bench, verdict: Any, status: str, raises: bool
) -> None:
    async def pay(job: Job[Any]) -> Any:
        await payments.pay(job)
        if raises:
            raise verdict
        return verdict

    monque = bench.monque()
    payments.declare(monque, pay)
    async with working(monque):
        job = await monque.enqueue("pay")
        await eventually(lambda: "settledBy" in bench.find(job))
    assert (bench.find(job)["status"], payments.calls[job.id], payments.count()) == (status, 1, 0)


async def test_the_result_is_stored_with_the_completion(payments: Payments, bench: Bench) -> None:
    async def pay(job: Job[Any]) -> int:
        await payments.note(job)
        return 42

    monque = bench.monque()
    record = payments.declare(monque, pay, store_result=True)
    async with once(payments, monque, record, JobCompleteEvent) as job:
        assert (bench.find(job)["result"], payments.count()) == (42, 1)


async def test_a_recurring_job_goes_on(payments: Payments, bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    record = payments.declare(monque)
    job = bench.insert("pay", repeatInterval="* * * * * *")
    async with working(monque):
        await eventually(lambda: len(record.of(JobCompleteEvent)) >= 2, timeout=20)
    assert payments.count() == payments.calls[job] >= 2
    assert bench.find(job)["status"] == "pending"


@pytest.mark.parametrize("touches", ["before", "after"])
async def test_a_follow_up_that_comes_during_the_run_is_run(payments: Payments, bench: Bench, touches: str) -> None:
    monque = bench.monque()

    async def follow(job: Job[Any]) -> None:
        if payments.calls[job.id] == 1:
            await monque.enqueue("pay", "second", unique_key="one", on_conflict="run_after")

    async def pay(job: Job[Any]) -> None:
        payments.calls[job.id] += 1
        if touches == "before":
            await follow(job)
        await payments.note(job)
        if touches == "after":
            await follow(job)

    record = payments.declare(monque, pay)
    async with working(monque):
        job = await monque.enqueue("pay", "first", unique_key="one")
        await eventually(lambda: len(record.of(JobCompleteEvent)) == 2, timeout=20)
    assert bench.find(job)["status"] == "completed"
    assert [effect["data"] for effect in payments.effects.find().sort("_id")] == ["first", "second"]
    # Where it was there before the transaction began, the completion took it into account.
    assert payments.calls[job.id] == {"before": 2, "after": 3}[touches]


async def test_a_schedule_that_is_given_during_the_run_is_followed(payments: Payments, bench: Bench) -> None:
    async def pay(job: Job[Any]) -> None:
        bench.jobs.update_one({"_id": job.id}, {"$set": {"repeatInterval": "0 0 1 1 *"}})
        await payments.pay(job)

    monque = bench.monque()
    record = payments.declare(monque, pay)
    async with once(payments, monque, record, JobCompleteEvent) as job:
        document = bench.find(job)
    assert (document["status"], payments.calls[job.id], payments.count()) == ("pending", 1, 1)
    assert document["nextRunAt"] > bench.now()


async def test_whoever_writes_the_same_document_waits_for_another_turn(payments: Payments, bench: Bench) -> None:
    async def pay(job: Job[Any]) -> None:
        counter = job.session.client[bench.database_name].counter
        await payments.pay(job)
        await counter.update_one({"_id": 1}, {"$inc": {"value": 1}}, session=job.session)

    bench.database.counter.insert_one({"_id": 1, "value": 0})
    monque = bench.monque()
    record = payments.declare(monque, pay)
    async with working(monque):
        await monque.enqueue_many([("pay", None)] * 20)
        await eventually(lambda: len(record.of(JobCompleteEvent)) == 20, timeout=20)
    assert bench.database.counter.find_one() == {"_id": 1, "value": 20}
    assert payments.count() == 20
    assert {job["attempts"] for job in bench.jobs.find()} == {1}


# --- the session ----------------------------------------------------------------------------------------------------


async def test_outside_of_a_transaction_there_is_no_session(payments: Payments, bench: Bench) -> None:
    monque = bench.monque(retry=Retry(max_retries=1))
    monque.worker("pay", payments.pay)
    record = Record(monque)
    async with once(payments, monque, record, JobFailEvent) as job:
        with pytest.raises(MonqueError, match="declare the worker with transaction=True"):
            _ = job.session
    assert "declare the worker with transaction=True" in str(record.of(JobFailEvent)[0].error)


@pytest.mark.parametrize("how", ["commit", "abort", "commit, then snooze"])
async def test_a_handler_must_not_end_the_transaction(payments: Payments, bench: Bench, how: str) -> None:
    async def pay(job: Job[Any]) -> Any:
        await payments.note(job)
        await (job.session.abort_transaction() if how == "abort" else job.session.commit_transaction())
        return Snooze(60) if "snooze" in how else None

    monque = bench.monque()
    record = payments.declare(monque, pay)
    async with working(monque):
        job = await monque.enqueue("pay")
        await eventually(lambda: "settledBy" in bench.find(job))
    assert bench.find(job)["status"] == ("pending" if "snooze" in how else "failed")
    errors = [str(event.error) for event in record.of(JobFailEvent)]
    assert ["leave it to Monque to commit it" in error for error in errors] == ([] if "snooze" in how else [True])


async def test_the_read_preference_of_the_client_does_not_matter(payments: Payments, bench: Bench) -> None:
    monque = bench.monque(f"{bench.uri}&readPreference=secondaryPreferred&w=1")
    record = payments.declare(monque)
    async with once(payments, monque, record, JobCompleteEvent):
        assert payments.count() == 1


async def test_what_is_enqueued_in_the_session_exists_if_the_run_completes(payments: Payments, bench: Bench) -> None:
    monque = bench.monque(retry=SOON)

    async def pay(job: Job[Any]) -> None:
        await monque.enqueue("later", job.fail_count, session=job.session)
        if not job.fail_count:
            raise ValueError

    record = payments.declare(monque, pay)
    async with once(payments, monque, record, JobCompleteEvent):
        assert [job["data"] for job in bench.jobs.find({"name": "later"})] == [1]


async def test_a_standalone_server_is_refused_before_the_handler_is_called(standalone: str) -> None:
    bench = Bench(standalone)
    payments = Payments(bench)
    try:
        monque = bench.monque(retry=Retry(max_retries=1))
        record = payments.declare(monque)
        async with once(payments, monque, record, JobFailEvent) as job:
            assert (payments.calls, bench.find(job)["status"]) == ({}, "failed")
    finally:
        bench.close()
    (event,) = record.of(JobFailEvent)
    assert isinstance(event.error, TransactionsUnavailableError)
    assert "make it a replica set" in str(event.error)


# --- the server fails -----------------------------------------------------------------------------------------------

BREAKDOWNS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "a write, transiently": ("insert", 2, {"errorCode": 112, "errorLabels": TRANSIENT}),
    "a write, by the connection": ("insert", 1, {"closeConnection": True}),
    "the settle, transiently": ("update", 2, {"errorCode": 112, "errorLabels": TRANSIENT}),
    "the settle, by the connection": ("update", 1, {"closeConnection": True}),
    "the commit, transiently": ("commitTransaction", 2, {"errorCode": 251, "errorLabels": TRANSIENT}),
}


def breaking(broken: Payments, lab: Lab, command: str, times: int, how: dict[str, Any]) -> Handler:
    """A handler in whose first run the server starts to fail: commands before that go well."""

    async def pay(job: Job[Any]) -> None:
        if not broken.calls[job.id]:
            lab.fail(command, times=times, **how)
        await broken.pay(job)

    return pay


@pytest.mark.parametrize("what", BREAKDOWNS)
async def test_what_fails_transiently_is_run_again_at_once_in_another_transaction(
    broken: Payments, lab: Lab, what: str
) -> None:
    command, times, how = BREAKDOWNS[what]
    monque = lab.monque()
    record = broken.declare(monque, breaking(broken, lab, command, times, how))
    async with once(broken, monque, record, JobCompleteEvent) as job:
        pass
    assert (broken.calls[job.id], broken.count()) == (1 + times, 1)
    assert not record.of(JobFailEvent)
    assert lab.find(job)["attempts"] == 1


UNKNOWN: dict[str, dict[str, Any]] = {
    "lost answers": {"closeConnection": True},
    "a primary that stepped down": {"errorCode": 189, "errorLabels": ["RetryableWriteError"]},
    "a write concern that timed out": {
        "writeConcernError": {"code": 64, "errmsg": "waiting", "errInfo": {"wtimeout": True}}
    },
}


@pytest.mark.parametrize("what", UNKNOWN)
async def test_a_commit_is_repeated_until_its_outcome_is_known(broken: Payments, lab: Lab, what: str) -> None:
    monque = lab.monque(lease=Lease(3))
    record = broken.declare(monque)
    async with working(monque):
        job = await monque.enqueue("pay", delay=0.5)
        with lab.failing("commitTransaction", times=3, **UNKNOWN[what]):
            await eventually(record.has(JobCompleteEvent), timeout=20)
    assert (broken.calls[job.id], broken.count(), len(record.of(JobCompleteEvent))) == (1, 1, 1)
    assert not record.of(JobFailEvent)


async def test_a_commit_that_took_place_although_the_server_complained_is_a_completion(
    broken: Payments, lab: Lab
) -> None:
    monque = lab.monque()
    record = broken.declare(monque)
    complaint = {"writeConcernError": {"code": 100, "errmsg": "not enough members"}}
    async with working(monque):
        job = await monque.enqueue("pay", delay=0.5)
        with lab.failing("commitTransaction", times=1, **complaint):
            await eventually(record.has(JobCompleteEvent), timeout=20)
    assert (broken.calls[job.id], broken.count()) == (1, 1)
    assert not record.of(JobFailEvent)


@pytest.mark.parametrize("command", ["update", "commitTransaction"])
async def test_a_write_that_is_refused_is_a_failure_and_leaves_no_effect(
    broken: Payments, lab: Lab, command: str
) -> None:
    monque = lab.monque(retry=SOON)
    record = broken.declare(monque, breaking(broken, lab, command, 1, {"errorCode": 20}))
    async with once(broken, monque, record, JobCompleteEvent) as job:
        pass
    assert [type(event.error) for event in record.of(JobFailEvent)] == [OperationFailure]
    assert (broken.calls[job.id], broken.count(), lab.find(job)["failCount"]) == (2, 1, 1)


async def test_a_cut_network_does_not_double_an_effect(payments: Payments, bench: Bench, monque_server: str) -> None:
    async with Proxy(monque_server).serving() as proxy:

        async def pay(job: Job[Any]) -> None:
            await payments.pay(job)
            if payments.calls[job.id] == 1:
                proxy.cut()

        monque = bench.monque(proxy.uri(bench))
        record = payments.declare(monque, pay)
        async with working(monque):
            job = await monque.enqueue("pay")
            await eventually(record.has(JobCompleteEvent), timeout=30)
        assert (payments.count(), payments.calls[job.id]) == (1, 2)


async def test_what_stays_unknown_until_the_stop_is_left_to_recovery(
    broken: Payments, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shutdown, "clean_up", 0.5)
    monque = lab.monque(shutdown_timeout=0.5, lease=Lease(3))
    record = broken.declare(monque)

    def errors(kind: type[Exception]) -> list[JobErrorEvent]:
        return [event for event in record.of(JobErrorEvent) if isinstance(event.error, kind)]

    async with monque:
        await monque.start()
        job = await monque.enqueue("pay", delay=0.5)
        with lab.failing("commitTransaction", closeConnection=True):
            await eventually(lambda: errors(PyMongoError), timeout=20)
            await monque.stop()
            await eventually(lambda: errors(InDoubtError), timeout=20)
    assert not record.of(JobFailEvent)
    assert not record.of(JobCompleteEvent)
    document = lab.find(job)
    assert (document["status"], document["failCount"], broken.count()) == ("processing", 0, 0)
    lab.end_transactions()


# --- meanwhile ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("began", [False, True], ids=["before it began", "after it began"])
async def test_a_transaction_whose_claim_was_taken_away_commits_nothing(
    payments: Payments, bench: Bench, began: bool
) -> None:
    async def pay(job: Job[Any]) -> None:
        if began:
            await payments.pay(job)
        bench.jobs.update_one({"_id": job.id}, {"$set": {"claimToken": "other", "claimedBy": "other"}})
        if not began:
            await payments.pay(job)

    monque = bench.monque()
    record = payments.declare(monque, pay)
    async with once(payments, monque, record, JobLostEvent) as job:
        pass
    assert (payments.calls[job.id], payments.count(), bench.find(job)["claimToken"]) == (1, 0, "other")
    assert len(record.of(JobLostEvent)) == 1
    assert not record.of(JobCompleteEvent)
    assert not record.of(JobFailEvent)


async def test_a_job_that_is_cancelled_elsewhere_ends_its_handler(payments: Payments, bench: Bench) -> None:
    gate = Gate()

    async def pay(job: Job[Any]) -> None:
        await payments.note(job)
        await gate(job)

    monque, other = bench.monque(), bench.monque()
    record = payments.declare(monque, pay)
    async with other, working(monque):
        job = await monque.enqueue("pay")
        await gate.reached()
        await other.jobs.cancel(job.id)
        await eventually(lambda: gate.cancelled)
    assert (bench.find(job)["status"], payments.count()) == ("cancelled", 0)
    assert [event.job.id for event in record.of(JobLostEvent)] == [job.id]


async def test_a_loss_is_told_once(bench: Bench) -> None:
    monque = bench.monque()
    record, runs = Record(monque), Gate()
    monque.worker("greet", runs)
    async with working(monque):
        await monque.enqueue("greet")
        await runs.reached(1)
        engine = monque._connection().engine
        assert engine is not None
        (run,) = engine._runs.running
        for _ in range(2):
            engine._settler.lose(run.job, run.token)
        runs.open()
    assert len(record.of(JobLostEvent)) == 1


async def test_leases_of_others_are_renewed_and_its_own_is_not(payments: Payments, bench: Bench) -> None:
    gates = {"pay": Gate(), "plain": Gate()}
    monque = bench.monque(lease=Lease(3))
    monque.worker("plain", gates["plain"])
    record = payments.declare(monque, gates["pay"])
    async with working(monque):
        jobs = {name: await monque.enqueue(name) for name in gates}
        for gate in gates.values():
            await gate.reached()
        claimed = {name: bench.find(job)["lastHeartbeat"] for name, job in jobs.items()}
        await eventually(lambda: bench.find(jobs["plain"])["lastHeartbeat"] > claimed["plain"])
        assert bench.find(jobs["pay"])["lastHeartbeat"] == claimed["pay"]
        for gate in gates.values():
            gate.open()
        await eventually(lambda: len(record.of(JobCompleteEvent)) == 2)


async def test_a_run_has_half_a_lease(payments: Payments, bench: Bench) -> None:
    async def pay(job: Job[Any]) -> None:
        await payments.pay(job)
        await asyncio.Event().wait()

    monque = bench.monque(lease=Lease(1), retry=Retry(max_retries=1))
    record = payments.declare(monque, pay)
    async with once(payments, monque, record, JobFailEvent) as job:
        pass
    (event,) = record.of(JobFailEvent)
    assert isinstance(event.error, JobTimeoutError)
    assert event.error.timeout == 0.5
    assert (bench.find(job)["status"], payments.count()) == ("failed", 0)


async def test_a_handler_that_outlasts_its_time_commits_nothing(payments: Payments, bench: Bench) -> None:
    gate = Gate(stubborn=True)

    async def pay(job: Job[Any]) -> None:
        await payments.note(job)
        await gate(job)

    monque = bench.monque(retry=Retry(max_retries=1))
    record = payments.declare(monque, pay, timeout=Timeout(0.1, 0.2))
    async with working(monque):
        job = await monque.enqueue("pay")
        await eventually(record.has(JobFailEvent))
        gate.open()
        await eventually(lambda: gate.ended)
    assert (bench.find(job)["status"], payments.count()) == ("failed", 0)
    assert not record.of(JobLostEvent)
    assert not record.of(JobCompleteEvent)


@pytest.mark.parametrize("ending", ["its time is up", "the instance stops", "somebody thinks it is lost"])
async def test_nothing_disturbs_a_commit(
    broken: Payments, lab: Lab, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines: list[Engine] = []
    begin = Engine.run

    def noted(engine: Engine) -> Any:
        engines.append(engine)
        return begin(engine)

    monkeypatch.setattr(Engine, "run", noted)
    monque = lab.monque(shutdown_timeout=0.1)
    record = broken.declare(monque, timeout=Timeout(0.1, 0.2) if "time" in ending else None)
    async with monque:
        await monque.start()
        job = await monque.enqueue("pay", delay=0.5)
        with lab.failing("commitTransaction", times=1, blockConnection=True, blockTimeMS=1500):
            await eventually(lambda: lab.is_doing("commitTransaction"), timeout=20)
            if "stops" in ending:
                await monque.stop()
            elif "lost" in ending:
                engines[0]._runs.lose(dict(engines[0]._held))
            await eventually(record.has(JobCompleteEvent), timeout=20)
    assert (lab.find(job)["status"], broken.count(), broken.calls[job.id]) == ("completed", 1, 1)
    assert not record.of(JobLostEvent)
    assert not record.of(JobFailEvent)
    assert not [event for event in record.of(JobErrorEvent) if isinstance(event.error, StuckHandlerError)]


async def test_a_run_that_was_told_to_end_during_its_commit_is_not_begun_again(broken: Payments, lab: Lab) -> None:
    monque = lab.monque(retry=Retry(max_retries=1))
    record = broken.declare(monque, timeout=0.3)
    how = {"blockConnection": True, "blockTimeMS": 1500, "errorCode": 251, "errorLabels": TRANSIENT}
    async with working(monque):
        job = await monque.enqueue("pay", delay=0.5)
        with lab.failing("commitTransaction", times=1, **how):
            await eventually(record.has(JobFailEvent), timeout=20)
    assert isinstance(record.of(JobFailEvent)[0].error, JobTimeoutError)
    assert (broken.calls[job.id], broken.count()) == (1, 0)


async def test_a_handler_that_says_when_is_not_run_at_once(broken: Payments, lab: Lab) -> None:
    async def pay(job: Job[Any]) -> Any:
        try:
            await broken.pay(job)
        except PyMongoError as error:
            return RetryIn(60, error)

    monque = lab.monque()
    record = broken.declare(monque, pay)
    async with working(monque):
        job = await monque.enqueue("pay", delay=0.5)
        with lab.failing("insert", times=1, errorCode=112, errorLabels=TRANSIENT):
            await eventually(record.has(JobFailEvent), timeout=20)
    assert (broken.calls[job.id], lab.find(job)["status"]) == (1, "pending")
    assert lab.find(job)["nextRunAt"] > lab.now() + timedelta(seconds=30)


# --- what dead processes leave behind -------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 10], ids=["to be run again", "to be given up"])
async def test_a_job_locked_by_a_dead_process_holds_up_no_other(bench: Bench, attempts: int) -> None:
    gate = Gate()
    gate.open()
    monque = bench.monque(polling=NO_POLLS)
    monque.worker("work", gate)
    record = Record(monque)
    async with monque:
        locked = bench.insert_claimed("work", age=100, attempts=attempts)
        others = [bench.insert_claimed("work", age=90) for _ in range(3)]
        with bench.client.start_session() as session, session.start_transaction():
            bench.jobs.update_one({"_id": locked}, {"$set": {"status": "completed"}}, session=session)
            await monque.start()
            await eventually(lambda: {job.id for job in gate.ended} == set(others), timeout=20)
            assert bench.find(locked)["status"] == "processing"
            session.abort_transaction()
        await eventually(lambda: bench.find(locked)["status"] in {"completed", "failed"}, timeout=20)
        await eventually(lambda: sum(event.count for event in record.of(StaleRecoveredEvent)) == 4)
    assert not record.of(JobErrorEvent)
