from __future__ import annotations

import json
from asyncio import to_thread
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from monque import Monque
from monque._store import indexes
from monque.cli._app import run as app

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

Document = dict[str, Any]


@pytest.fixture
def doctor(monque_uri: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run it here; the exit code, and what it said."""

    def run(*arguments: str) -> tuple[int, str]:
        code = app(["doctor", *arguments, "--uri", monque_uri])
        return code, capsys.readouterr().out

    return run


async def test_a_queue_in_good_health(run: Callable[..., Any], monque_uri: str) -> None:
    async with Monque(monque_uri) as monque:
        await monque.enqueue("work", delay=60)
    done = run("doctor")
    assert (done.code, done.err) == (0, "")
    *lines, last = done.out.splitlines()
    assert all(line.startswith("✓ ") for line in lines)
    assert last == f"{len(lines)} ok"


def test_it_changes_nothing_unless_it_is_told_to(
    doctor: Callable[..., tuple[int, str]], monque_database: Database[Document]
) -> None:
    jobs = monque_database["monque_jobs"]
    jobs.create_index([("name", 1)], name="monque_claim")
    code, said = doctor()
    assert code == 1
    assert "✗ index.monque_unique " in said
    assert "→ run `monque doctor --fix-indexes`, or start an instance with create_indexes=True" in said
    assert jobs.index_information().keys() == {"_id_", "monque_claim"}

    code, said = doctor("--fix-indexes")
    assert code == 0
    assert said.startswith(
        f"Indexes: created: {', '.join(map(indexes.name_of, indexes.models()))}; dropped: monque_claim\n✓ "
    )
    code, said = doctor("--drop-old-indexes")
    assert (code, said.splitlines()[0]) == (0, "Indexes: nothing to do")


def test_what_cannot_be_fixed_is_said(
    doctor: Callable[..., tuple[int, str]], monque_database: Database[Document]
) -> None:
    now = datetime.now(UTC)
    job: Document = {"name": "work", "uniqueKey": "k", "status": "pending", "data": {}, "failCount": 0}
    monque_database["monque_jobs"].insert_many(
        [{**job, "nextRunAt": now, "createdAt": now, "updatedAt": now} for _ in range(2)]
    )
    code, said = doctor("--fix-indexes")
    assert code == 1
    assert "still to do: index 'monque_unique': it cannot be created: " in said

    code, said = doctor("--fix-indexes", "--json")
    found = json.loads(said)
    assert (code, found["severity"]) == (1, "error")
    assert (found["fixed"]["created"], found["fixed"]["dropped"]) == ([], [])
    assert "dup key" in found["fixed"]["problems"][0]


async def test_warnings_fail_only_if_they_are_to(
    doctor: Callable[..., tuple[int, str]], monque_uri: str, monque_database: Database[Document]
) -> None:
    async with Monque(monque_uri) as monque:
        await monque.enqueue("work", delay=60)
    monque_database["monque_jobs"].update_one({}, {"$set": {"status": "done"}})
    # In a thread, since there is an event loop here already.
    code, said = await to_thread(doctor, "--json")
    found = json.loads(said)
    assert (code, found["severity"], "fixed" in found) == (0, "warning", False)
    (odd,) = [finding for finding in found["findings"] if finding["severity"] != "ok"]
    assert odd["check"] == "jobs.documents"
    assert "'status': expected one of pending" in odd["seen"]
    assert (await to_thread(doctor, "--strict"))[0] == 1


def test_another_collection(doctor: Callable[..., tuple[int, str]]) -> None:
    code, said = doctor("--collection", "jobs")
    assert code == 0
    assert ".jobs is not there yet" in said


def test_a_server_that_is_not_there(run: Callable[..., Any]) -> None:
    done = run("doctor", "--uri", "mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=100")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("monque: cannot connect to MongoDB")
    assert "secret" not in done.err
    assert "Topology" not in done.err
