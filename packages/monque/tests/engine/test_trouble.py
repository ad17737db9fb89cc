"""Trouble: lost databases and odd documents hurt nobody but themselves."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import bson
import pytest
from bson import DatetimeMS
from bson.raw_bson import RawBSONDocument

from monque import Job, JobCompleteEvent, JobErrorEvent, JobLostEvent, Lease, Monque, Options, Polling
from monque import _claims as claims_module
from monque import _monque as monque_module
from monque import _settlement as settlement_module
from monque import _settler as settler_module
from monque._store import search as search_module
from monque.testing import eventually

from .support import NO_POLLS, Gate, Proxy, Record, our_tasks, working

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

    from monque import JobStartEvent
    from monque._engine import Engine
    from monque._settlement import Finished
    from monque._store.search import Candidate
    from monque._transitions import Transition

    from .support import Bench, Lab


def _open_gate() -> Gate:
    gate = Gate()
    gate.open()
    return gate


@pytest.mark.parametrize("kind", ["cut", "silent"])
async def test_an_instance_goes_on_by_itself_after_an_outage(lab: Lab, kind: str) -> None:
    async with Proxy(lab.uri).serving() as proxy, lab.monque() as producer:
        monque = lab.monque(
            proxy.uri(lab, serverSelectionTimeoutMS=1000, connectTimeoutMS=1000),
            lease=Lease(timeout=1.5),
            polling=Polling(interval=0.2, safety=0.2),
        )
        runs = _open_gate()
        monque.worker("greet", runs)
        async with working(monque):
            await producer.enqueue("greet")
            await runs.reached(1)
            proxy.fall_silent()
            if kind == "cut":
                proxy.cut()
            await producer.enqueue("greet")
            await asyncio.sleep(2)
            proxy.speak()
            proxy.cut()
            await runs.reached(2)
            await eventually(lambda: lab.statuses() == {"completed": 2}, timeout=30)


async def test_a_look_that_fails_is_reported_and_repeated(lab: Lab) -> None:
    job = lab.insert("greet")
    monque = lab.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    with lab.failing("find", times=2, errorCode=2):
        async with working(monque):
            await runs.reached(1)
    assert runs.started[0].id == job
    assert len(record.of(JobErrorEvent)) == 2


@pytest.mark.parametrize(
    "how",
    [
        {"errorCode": 2},
        {"closeConnection": True},
        # Claimed, but the answer is an error.
        {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    ],
    ids=["refused", "cut", "answer lost"],
)
async def test_a_claim_whose_answer_is_lost_is_not_lost(lab: Lab, how: dict[str, Any]) -> None:
    job = lab.insert("greet")
    monque = lab.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    with lab.failing("update", times=1, **how):
        async with working(monque):
            await eventually(record.has(JobCompleteEvent))
    assert (len(runs.started), runs.started[0].attempts, lab.find(job)["status"]) == (1, 1, "completed")


async def test_a_claim_that_fails_for_the_length_of_a_lease_is_given_up_and_tried_again(lab: Lab) -> None:
    lab.insert("greet")
    monque = lab.monque(polling=NO_POLLS, lease=Lease(timeout=0.5))
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        with lab.failing("update", errorCode=2):
            await eventually(lambda: len(record.of(JobErrorEvent)) >= 6, timeout=20)
        await runs.reached(1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nextRunAt", "soon"),
        ("nextRunAt", None),
        ("nextRunAt", 5),
        ("failCount", "many"),
        ("createdAt", 17),
        ("attempts", "several"),
        ("priority", "high"),
        ("createdAt", DatetimeMS(10**15)),
        ("repeatInterval", 5),
        ("name", ["greet"]),
    ],
)
async def test_a_job_that_cannot_be_read_fails_alone_with_a_reason(bench: Bench, field: str, value: Any) -> None:
    odd = bench.insert("greet", **{field: value})
    good = bench.insert("greet")
    monque = bench.monque(polling=NO_POLLS)
    runs = _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await eventually(lambda: bench.statuses() == {"completed": 1, "failed": 1})
    assert field in bench.glance(odd)["failReason"]
    assert [run.id for run in runs.started] == [good]


async def test_a_job_without_a_time_fails_alone_with_a_reason(bench: Bench) -> None:
    odd, good = bench.insert_many([{"name": "greet"}, {"name": "greet"}])
    bench.jobs.update_one({"_id": odd}, {"$unset": {"nextRunAt": ""}})
    monque = bench.monque(polling=NO_POLLS)
    runs = _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await eventually(lambda: bench.find(good)["status"] == "completed")
        await eventually(lambda: bench.find(odd)["status"] == "failed")
    assert "nextRunAt" in bench.find(odd)["failReason"]


async def test_text_that_cannot_be_decoded_fails_alone_with_a_reason(bench: Bench) -> None:
    bench.insert("greet", data={"text": "XXXX"})
    (document,) = bench.jobs.find()
    raw = bson.encode({**document, "_id": bson.ObjectId()}).replace(b"XXXX", b"\xff\xfe\xfd\xfc")
    bench.database.get_collection("monque_jobs").insert_one(RawBSONDocument(raw))
    monque = bench.monque(polling=NO_POLLS)
    runs = _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await runs.reached(1)
        await eventually(lambda: bench.count(status="failed") == 1 == bench.count(status="completed"))


async def test_a_recovery_that_fails_half_way_is_repeated(lab: Lab) -> None:
    dead = lab.insert_claimed("greet", age=31)
    monque = lab.monque(polling=NO_POLLS)
    runs = _open_gate()
    monque.worker("greet", runs)
    with lab.failing("update", times=2, errorCode=2):
        async with working(monque):
            await runs.reached(1)
    assert runs.started[0].id == dead


async def test_a_time_beyond_pythons_calendar_disturbs_nobody(bench: Bench) -> None:
    bench.insert("greet", nextRunAt=DatetimeMS(8_640_000_000_000_000))
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        dead = bench.insert_claimed("greet", age=28)
        bench.insert("greet")
        await runs.reached(2)
    assert dead in {run.id for run in runs.started}
    assert not record.of(JobErrorEvent)


async def test_closing_does_not_wait_for_a_server_that_fell_silent(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monque_module, "_CLOCK_INTERVAL", 0.1)
    async with Proxy(lab.uri).serving() as proxy:
        monque = Monque(proxy.uri(lab, serverSelectionTimeoutMS=500, connectTimeoutMS=500), Options())
        await monque.initialize()
        proxy.fall_silent()
        await asyncio.sleep(0.5)
        begun = time.monotonic()
        await monque.close()
        assert time.monotonic() - begun < 15
    assert not our_tasks()


async def test_a_clock_that_cannot_be_read_is_reported_and_read_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monque_module, "_CLOCK_INTERVAL", 0.05)
    monque = lab.monque()
    record = Record(monque)
    async with monque:
        with lab.failing("hello", errorCode=2):
            await eventually(lambda: len(record.of(JobErrorEvent)) >= 2)
        job: Job[Any] = await monque.enqueue("greet")
    assert abs((job.created_at - lab.now()).total_seconds()) < 10


async def test_an_outcome_that_cannot_be_written_is_reported_and_drags_no_other_along(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, *_ = bench.insert_many([{"name": "greet"} for _ in range(5)])

    def plan(finished: Iterable[Finished], *, now: datetime) -> list[Transition]:
        runs = list(finished)
        if any(run.job.id == bad for run in runs):
            raise RuntimeError("a defect")
        return settlement_module.plan(runs, now=now)

    monkeypatch.setattr(settler_module, "plan", plan)
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs)
    async with working(monque):
        await eventually(lambda: bench.statuses() == {"completed": 4, "processing": 1})
        await eventually(record.has(JobErrorEvent))
        (event,) = record.of(JobErrorEvent)
        assert (str(event.error), event.job and event.job.id) == ("a defect", bad)
        # Its lease is renewed no more, so that it will be recovered.
        await eventually(lambda: not _engine(monque)._held)


async def test_a_defect_after_a_run_frees_the_slot_and_lets_the_lease_run_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = bench.insert_many([{"name": "greet", "repeatInterval": "@daily"}, {"name": "greet"}])

    def finish(*_: Any, **__: Any) -> Finished:
        raise ZeroDivisionError

    monkeypatch.setattr(settler_module, "finish", finish)
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs, concurrency=1)
    async with working(monque):
        await eventually(lambda: bench.find(good)["status"] == "completed")
        (event,) = record.of(JobErrorEvent)
        assert (type(event.error), event.job and event.job.id) == (ZeroDivisionError, bad)
        await eventually(lambda: not _engine(monque)._held)


async def test_a_defect_in_a_claim_frees_its_slots_and_the_jobs_are_claimed_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "LONGEST_PAUSE", 0.1)
    bench.insert("greet")
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), _open_gate()
    monque.worker("greet", runs, concurrency=1)

    def fail_once(chosen: Collection[Candidate]) -> datetime | None:
        monkeypatch.setattr(claims_module, "due_by", search_module.due_by)
        raise ZeroDivisionError

    monkeypatch.setattr(claims_module, "due_by", fail_once)
    async with working(monque):
        await runs.reached(1)
    assert [type(event.error) for event in record.of(JobErrorEvent)] == [ZeroDivisionError]


async def test_a_run_that_is_lost_before_it_begins_frees_its_slot(bench: Bench) -> None:
    first, second = bench.insert_many([{"name": "greet"}, {"name": "greet"}])
    monque = bench.monque(polling=NO_POLLS)
    record, runs = Record(monque), Gate()

    def lose_the_other(_: JobStartEvent) -> None:
        engine = _engine(monque)
        engine._runs.lose({second: engine._held[second]})

    monque.once("job:start", lose_the_other)
    monque.worker("greet", runs, concurrency=2)
    async with working(monque):
        await eventually(record.has(JobLostEvent))
        third = await monque.enqueue("greet")
        await runs.reached(2)
        runs.open()
    assert [job.id for job in runs.started] == [first, third.id]


async def test_a_handler_that_stops_its_instance_does_not_wait_for_itself(bench: Bench) -> None:
    job = bench.insert("last")
    monque = bench.monque(polling=NO_POLLS)
    record = Record(monque)

    @monque.worker("last")
    async def last(_: Job[Any]) -> None:
        await monque.stop()

    async with working(monque):
        await eventually(record.has(JobCompleteEvent))
        await eventually(lambda: our_tasks() == ["_repeat"])
    assert bench.find(job)["status"] == "completed"
    assert not record.of(JobErrorEvent)


def _engine(monque: Monque) -> Engine:
    assert monque._connected is not None
    assert monque._connected.engine is not None
    return monque._connected.engine
