"""Slots: whatever frees one, the next job gets it at once; no poll and no change stream is needed for that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from monque import Concurrency, Job, Lease, Retry
from monque.testing import eventually

from .support import NO_POLLS, Gate, working

if TYPE_CHECKING:
    from collections.abc import Callable

    from monque import Monque

    from .support import Bench

Ending = "Callable[[Bench, Monque, Gate, Job[Any]], Any]"


async def _return(bench: Bench, monque: Monque, first: Gate, job: Job[Any]) -> None:
    first.open()


async def _lose(bench: Bench, monque: Monque, first: Gate, job: Job[Any]) -> None:
    bench.jobs.update_one({"_id": job.id}, {"$set": {"claimToken": "other", "claimedBy": "other"}})


async def _cancel(bench: Bench, monque: Monque, first: Gate, job: Job[Any]) -> None:
    await monque.jobs.cancel(job.id)


async def _delete(bench: Bench, monque: Monque, first: Gate, job: Job[Any]) -> None:
    bench.jobs.delete_one({"_id": job.id})


ENDS = {"it returns": _return, "its lease is lost": _lose, "it is cancelled": _cancel, "its job is deleted": _delete}
LIMITS = [Concurrency(per_worker=1), Concurrency(per_worker=5, per_instance=1)]


@pytest.mark.parametrize("limits", LIMITS, ids=["of the worker", "of the instance"])
@pytest.mark.parametrize("fails", [False, True], ids=["", "and then raises"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_a_slot_is_refilled_whatever_ended_the_run(
    bench: Bench, end: Callable[[Bench, Monque, Gate, Job[Any]], Any], fails: bool, limits: Concurrency
) -> None:
    monque = bench.monque(
        polling=NO_POLLS, concurrency=limits, lease=Lease(timeout=3), retry=Retry(max_retries=1), recover=False
    )
    first, order = Gate(), list[Any]()

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        order.append(job.data)
        if job.data == 0:
            try:
                await first(job)
            finally:
                if fails:
                    raise ValueError

    jobs = bench.insert_many([{"name": "work", "data": number} for number in range(4)])
    async with working(monque):
        await first.reached()
        assert bench.count(status="pending") == 3
        await end(bench, monque, first, first.started[0])
        await eventually(lambda: bench.count(_id={"$in": jobs[1:]}, status="completed") == 3)
    assert order == [0, 1, 2, 3]
