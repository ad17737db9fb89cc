from __future__ import annotations

from typing import Any

from monque import Job, JobCompleteEvent, JobStatus, Monque
from monque.testing import eventually


async def test_an_enqueued_job_is_run_and_completed(monque_uri: str, monque_database: Any) -> None:
    monque = Monque(monque_uri)
    seen: list[Job[Any]] = []
    completed: list[JobCompleteEvent] = []

    @monque.worker("greet")
    async def greet(job: Job[dict[str, str]]) -> None:
        seen.append(job)

    monque.on("job:complete", completed.append)
    async with monque:
        job = await monque.enqueue("greet", {"name": "Ada"})
        await monque.start()
        await eventually(lambda: completed)

    (claimed,) = seen
    assert (claimed.id, claimed.status, claimed.attempts) == (job.id, JobStatus.PROCESSING, 1)
    document = monque_database.monque_jobs.find_one({"_id": job.id})
    assert document["status"] == "completed"
    assert not {"lockedAt", "claimedBy", "lastHeartbeat", "claimToken", "heartbeatInterval", "failReason"} & set(
        document
    )
