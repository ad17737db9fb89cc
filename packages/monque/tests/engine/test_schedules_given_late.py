from __future__ import annotations

import asyncio
from typing import Any

import pytest

from monque import Job, Monque, Options, Retry
from monque.testing import eventually


@pytest.mark.parametrize("error", [None, ValueError("no")])
async def test_a_job_that_is_given_a_schedule_while_it_runs_goes_on_with_it(
    error: Exception | None, monque_uri: str, monque_database: Any
) -> None:
    monque = Monque(monque_uri, Options(retry=Retry(max_retries=1)))
    entered, leave = asyncio.Event(), asyncio.Event()

    @monque.worker("report")
    async def report(job: Job[Any]) -> None:
        entered.set()
        await leave.wait()
        if error is not None:
            raise error

    async with monque:
        plain = await monque.enqueue("report", unique_key="one")
        await monque.start()
        await entered.wait()
        recurring = await monque.schedule("0 0 1 1 *", "report", unique_key="one")
        leave.set()
        jobs = monque_database.monque_jobs
        document = await eventually(lambda: jobs.find_one({"status": {"$ne": "processing"}}))

    assert recurring.id == plain.id
    assert (document["status"], document["repeatInterval"]) == ("pending", "0 0 1 1 *")
    assert (document["nextRunAt"].month, document["nextRunAt"].day) == (1, 1)
    assert ("failReason" in document) == (error is not None)
