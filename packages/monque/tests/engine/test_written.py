"""Documents as earlier versions wrote them, and as @monque/core 1.10 does: none is ever left behind.

Each file of `written/` is what lay in a collection when instances of that version had worked there, one of them killed
in the middle of a run; `node.json` is what `@monque/core` stores. A change of the document gets a new file; those that
are there stay as they are.
"""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bson import json_util
from bson.json_util import JSONOptions

from monque import JobFilter, JobStatus, Polling, Severity
from monque.testing import eventually

if TYPE_CHECKING:
    from monque import Job

    from .support import Bench

FILES = sorted((Path(__file__).parent / "written").glob("*.json"))
AWARE = JSONOptions(tz_aware=True, tzinfo=UTC)
ATTRIBUTES = {
    "_id": "id",
    "name": "name",
    "data": "data",
    "status": "status",
    "nextRunAt": "next_run_at",
    "failCount": "fail_count",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
    "uniqueKey": "unique_key",
    "repeatInterval": "repeat_interval",
    "timezone": "timezone",
    "failReason": "fail_reason",
    "lockedAt": "locked_at",
    "claimedBy": "claimed_by",
    "claimToken": "claim_token",
    "lastHeartbeat": "last_heartbeat",
    "heartbeatInterval": "heartbeat_interval",
    "attempts": "attempts",
    "result": "result",
}


def documents(file: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json_util.loads(file.read_text("utf-8"), json_options=AWARE)
    return found


def test_there_are_documents_of_every_kind() -> None:
    everything = [document for file in FILES for document in documents(file)]
    assert {file.stem for file in FILES} == {"first", "schedules", "follow_ups", "results", "node"}
    assert {document["status"] for document in everything} == {status.value for status in JobStatus}
    more = {"priority", "settledBy", "timeout", "retry", "errors", "progress", "logs", "followUp", "expireAt"}
    assert {field for document in everything for field in document} == ATTRIBUTES.keys() | more


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_each_is_read_for_what_it_says(bench: Bench, file: Path) -> None:
    written = documents(file)
    bench.jobs.insert_many(written)
    async with bench.monque() as monque:
        for document in written:
            job = await monque.jobs.get(document["_id"])
            assert job is not None
            said = {field: value for field, value in document.items() if field in ATTRIBUTES}
            assert {field: getattr(job, ATTRIBUTES[field]) for field in said} == said
            assert job.priority == document.get("priority", 0)
            assert len(job.errors) == len(document.get("errors", ()))
            assert [line.message for line in job.logs] == [line["message"] for line in document.get("logs", ())]
            assert (job.timeout, job.retry is None) == (
                document["timeout"] / 1000 if "timeout" in document else None,
                "retry" not in document,
            )
            assert (job.progress_report is None) is ("progress" not in document)
            assert (job.follow_up is None) is ("followUp" not in document)
        found = {finding.check: finding for finding in (await monque.diagnose()).findings}
    assert found["jobs.documents"].severity is Severity.OK


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
async def test_each_is_claimed_run_and_settled(bench: Bench, file: Path) -> None:
    written = documents(file)
    bench.jobs.insert_many(written)
    monque = bench.monque(polling=Polling(interval=0.2, safety=0.2))
    ran: list[tuple[Any, Any]] = []

    async def run(job: Job[Any]) -> None:
        ran.append((job.id, job.data))

    for name in {document["name"] for document in written}:
        monque.worker(name, run)
    async with monque:
        for document in written:
            if document["status"] == "pending":
                # A schedule's next time may lie ahead.
                await monque.jobs.reschedule(document["_id"], document["createdAt"])
            elif document["status"] in {"failed", "cancelled"}:
                await monque.jobs.retry(document["_id"])
        await monque.start()
        expected = [(document["_id"], document["data"]) for document in written if document["status"] != "completed"]
        expected += [(document["_id"], document["followUp"]["data"]) for document in written if "followUp" in document]

        def is_over() -> bool:
            pending = [document for document in bench.jobs.find({"status": "pending"}) if "repeatInterval" in document]
            recurring = sum("repeatInterval" in document for document in written)
            return len(pending) == recurring and bench.count(status="completed") == len(written) - recurring

        await eventually(is_over, timeout=30)
        assert sorted(ran, key=str) == sorted(expected, key=str)
        for document in bench.jobs.find():
            assert "claimToken" not in document
            assert "lockedAt" not in document or document["lockedAt"] is None
        deleted = await monque.jobs.delete_many(JobFilter(status=JobStatus.COMPLETED))
        assert deleted.count == len(written) - sum("repeatInterval" in document for document in written)
