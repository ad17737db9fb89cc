"""Claiming and running: which jobs, in which order, by whom, how often."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from monque import Concurrency, Job, JobCompleteEvent, JobErrorEvent, JobFailEvent, JobStatus, Retry
from monque.testing import eventually

from .support import NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    from .support import Bench, Lab


async def test_an_enqueued_job_is_run_and_completed(bench: Bench) -> None:
    monque = bench.monque()
    record = Record(monque)
    seen: list[Job[Any]] = []

    @monque.worker("greet")
    async def greet(job: Job[dict[str, str]]) -> None:
        seen.append(job)

    async with working(monque):
        job = await monque.enqueue("greet", {"name": "Ada"})
        await eventually(record.has(JobCompleteEvent))
    (claimed,) = seen
    assert (claimed.id, claimed.data, claimed.status, claimed.attempts) == (
        job.id,
        {"name": "Ada"},
        JobStatus.PROCESSING,
        1,
    )
    assert claimed.claimed_by == monque.instance_id
    document = bench.find(job)
    assert document["status"] == "completed"
    assert not {"lockedAt", "claimedBy", "lastHeartbeat", "claimToken", "heartbeatInterval", "failReason"} & set(
        document
    )


async def test_a_handler_runs_on_the_event_loop_that_the_instance_was_started_on(bench: Bench) -> None:
    monque = bench.monque()
    loops: list[asyncio.AbstractEventLoop] = []

    @monque.worker("greet")
    async def greet(job: Job[Any]) -> None:
        loops.append(asyncio.get_running_loop())

    async with working(monque):
        await monque.enqueue("greet")
        await eventually(lambda: loops)
    assert loops == [asyncio.get_running_loop()]


async def test_while_it_runs_a_job_says_who_holds_it(bench: Bench) -> None:
    monque = bench.monque()
    runs = Gate()
    monque.worker("slow", runs)
    async with working(monque):
        job = await monque.enqueue("slow")
        await runs.reached()
        document = bench.find(job)
        runs.open()
    assert (document["status"], document["claimedBy"], document["heartbeatInterval"]) == (
        "processing",
        monque.instance_id,
        10_000,
    )
    assert document["claimToken"] == runs.started[0].claim_token
    assert document["lockedAt"] <= document["lastHeartbeat"]


async def test_jobs_start_in_the_order_of_their_priorities_and_then_of_their_times(bench: Bench) -> None:
    past = bench.now() - timedelta(hours=1)
    wanted: list[dict[str, Any]] = [
        {"priority": 5, "nextRunAt": past + timedelta(minutes=3)},
        {"nextRunAt": past},
        {"nextRunAt": past + timedelta(minutes=1)},
        {"nextRunAt": past + timedelta(minutes=2), "priority": 0},
        {"priority": -5, "nextRunAt": past},
    ]
    expected = bench.insert_many([{"name": "greet", **fields} for fields in wanted])
    monque = bench.monque(polling=NO_POLLS)
    order: list[Any] = []

    @monque.worker("greet", concurrency=1)
    async def greet(job: Job[Any]) -> None:
        order.append(job.id)

    async with working(monque):
        await eventually(lambda: len(order) == 5)
    # The normal priority, absent or 0, is one priority.
    assert order == expected


async def test_only_pending_and_due_jobs_of_its_names_are_claimed(bench: Bench) -> None:
    tomorrow = bench.now() + timedelta(days=1)
    bench.insert_many(
        [
            {"name": "greet", "status": "completed"},
            {"name": "greet", "status": "failed"},
            {"name": "greet", "status": "cancelled"},
            {"name": "greet", "nextRunAt": tomorrow},
            {"name": "foreign"},
        ]
    )
    due = bench.insert("greet")
    monque = bench.monque()
    runs = Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        await runs.reached()
        await monque.enqueue("greet")
        await runs.reached(2)
    assert runs.started[0].id == due
    assert bench.statuses() == {"completed": 3, "failed": 1, "cancelled": 1, "pending": 2}


async def test_a_past_time_is_due_at_once(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    runs = Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        await monque.enqueue("greet", run_at=bench.now() - timedelta(days=400))
        await runs.reached()


async def test_an_instance_claims_no_more_than_it_can_start(bench: Bench) -> None:
    bench.insert_many([{"name": "slow"} for _ in range(20)])
    monque = bench.monque(concurrency=Concurrency(per_worker=3))
    runs = Gate()
    monque.worker("slow", runs)
    async with working(monque):
        await runs.reached(3)
        assert bench.count(status="processing") == 3
        runs.open()


async def test_several_instances_that_see_the_same_jobs_run_every_one_once(lab: Lab) -> None:
    lab.insert_many([{"name": "greet"} for _ in range(300)])
    monques = [lab.monque(concurrency=Concurrency(per_worker=10)) for _ in range(3)]
    ran: Counter[Any] = Counter()

    async def greet(job: Job[Any]) -> None:
        ran[job.id] += 1
        await asyncio.sleep(0)

    for monque in monques:
        monque.worker("greet", greet)
    # The first claims take a while, so that all have seen the same jobs before one has them.
    with lab.failing("update", times=6, blockConnection=True, blockTimeMS=300):
        async with working(*monques):
            await eventually(lambda: lab.count(status="completed") == 300, timeout=30)
    assert set(ran.values()) == {1}
    assert len(ran) == 300


@pytest.mark.parametrize(("per_worker", "per_instance"), [(7, None), (7, 4), (50, 9)])
async def test_the_limits_are_never_exceeded(bench: Bench, per_worker: int, per_instance: int | None) -> None:
    bench.insert_many([{"name": name} for name in ("a", "b", "own") for _ in range(70)])
    monque = bench.monque(concurrency=Concurrency(per_worker=per_worker, per_instance=per_instance))
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()

    async def work(job: Job[Any]) -> None:
        now[job.name] += 1
        for name, number in (job.name, now[job.name]), ("all", now.total()):
            most[name] = max(most[name], number)
        await asyncio.sleep(0.001)
        now[job.name] -= 1

    for name in ("a", "b"):
        monque.worker(name, work)
    monque.worker("own", work, concurrency=2)
    async with working(monque):
        await eventually(lambda: bench.count(status="completed") == 210, timeout=60)
    assert 1 < max(most["a"], most["b"]) <= per_worker
    assert most["own"] <= 2
    assert most["all"] <= (per_instance or 3 * per_worker)


async def test_a_replaced_worker_takes_its_own_limit_along(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    wide, narrow = Gate(), Gate()
    monque.worker("greet", wide, concurrency=3)
    async with working(monque):
        await monque.enqueue_many([("greet", None)] * 3)
        await wide.reached(3)
        monque.worker("greet", narrow, concurrency=1, replace=True)
        await monque.enqueue_many([("greet", None)] * 3)
        wide.open()
        await narrow.reached(1)
        narrow.open()
        await narrow.reached(3)
    assert narrow.most == 1


@pytest.mark.parametrize("waits", [True, False])
async def test_a_handler_that_cancels_itself_has_failed(bench: Bench, waits: bool) -> None:
    monque = bench.monque(retry=Retry(max_retries=2, base=0.01))
    record = Record(monque)

    @monque.worker("odd")
    async def odd(job: Job[Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if waits:
            await asyncio.sleep(0)
        raise ValueError

    async with working(monque):
        job = await monque.enqueue("odd")
        await eventually(lambda: len(record.of(JobFailEvent)) == 2)
    document = bench.find(job)
    assert (document["status"], document["attempts"], document["failCount"]) == ("failed", 2, 2)
    assert document["failReason"] == "CancelledError"


async def test_an_exit_in_a_handler_is_a_failure_and_ends_nothing(bench: Bench) -> None:
    monque = bench.monque(retry=Retry(max_retries=1))
    record = Record(monque)

    @monque.worker("exits")
    async def exits(job: Job[Any]) -> None:
        raise SystemExit(3)

    async with working(monque):
        await monque.enqueue("exits")
        await monque.enqueue("exits")
        await eventually(lambda: len(record.of(JobFailEvent)) == 2)
    assert bench.statuses() == {"failed": 2}


async def test_names_take_turns_under_an_instance_limit_however_many_there_are(bench: Bench) -> None:
    names = [f"name-{index}" for index in range(6)]
    bench.insert_many([{"name": name} for name in names for _ in range(5)])
    monque = bench.monque(polling=NO_POLLS, concurrency=Concurrency(per_instance=3))
    order: list[str] = []

    async def note(job: Job[Any]) -> None:
        order.append(job.name)

    for name in names:
        monque.worker(name, note)
    async with working(monque):
        await eventually(lambda: len(order) == 30)
    assert set(order[:9]) == set(names)


async def test_an_instance_that_left_the_first_jobs_to_others_takes_them_if_there_are_no_more(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    runs = Gate()
    runs.open()
    monque.worker("greet", runs)
    async with working(monque):
        assert monque._connected is not None
        assert monque._connected.engine is not None
        for number in range(1, 21):
            monque._connected.engine._claims._spread.learn(10, 0)
            await monque.enqueue("greet")
            await runs.reached(number)


async def test_several_claims_are_on_their_way_at_once_where_there_is_room(lab: Lab) -> None:
    lab.insert_many([{"name": "greet"} for _ in range(1000)])
    monque = lab.monque(polling=NO_POLLS)
    record, runs = Record(monque), Gate()
    monque.worker("greet", runs, concurrency=600)
    async with working(monque):
        await runs.reached(600)
        runs.open()
        await eventually(lambda: lab.statuses() == {"completed": 1000}, timeout=30)
    assert runs.most == 600
    assert len(runs.started) == len({job.id for job in runs.started}) == 1000
    assert len({job.claim_token for job in runs.started}) > 2
    assert not record.of(JobErrorEvent)
