"""What waits and what runs, by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from monque import Backlog, ConnectionError, Monque
from monque._store.backlog import backlog

from .support import FUTURE, explain, statements, stored

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.database import Database

    from .support import Commands, Document


async def test_nothing_waits_in_an_empty_collection(collection: AsyncCollection[Document]) -> None:
    assert await backlog(collection) == []


async def test_jobs_are_counted_by_name(collection: AsyncCollection[Document], monque: Monque) -> None:
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    await collection.insert_many(
        [
            *(stored(name="b", nextRunAt=an_hour_ago + timedelta(minutes=number)) for number in range(3)),
            stored(name="b", nextRunAt=FUTURE, priority=3),
            stored("processing", name="b"),
            stored("processing", name="c"),
            stored(name="a", nextRunAt=FUTURE),
            *(stored(status, name="d") for status in ("completed", "failed", "cancelled")),
        ]
    )
    a, b, c = await monque.jobs.backlog()
    assert a == Backlog("a", pending=1)
    assert (b.name, b.pending, b.due, b.processing) == ("b", 4, 3, 1)
    assert timedelta(minutes=59) < b.lag < timedelta(minutes=61)
    assert c == Backlog("c", processing=1)


@pytest.mark.parametrize("odd", [{"name": 3}, {"nextRunAt": "soon"}, {"nextRunAt": None}, {"name": None}], ids=repr)
async def test_documents_that_are_no_jobs_are_counted_too(collection: AsyncCollection[Document], odd: Document) -> None:
    await collection.insert_many([stored(name="a", nextRunAt=FUTURE), stored(**odd)])
    assert sum(one.pending for one in await backlog(collection)) == 2


async def test_only_what_waits_and_runs_is_read(
    collection: AsyncCollection[Document], monque_database: Database[Document], commands: Commands
) -> None:
    await collection.insert_many(stored("completed") for _ in range(200))
    await collection.insert_many([stored(), stored(), stored("processing")])
    commands.sent.clear()
    await backlog(collection)
    plans = [
        explain(monque_database, statement)
        for command in commands.named("aggregate")
        for statement in statements(command)
    ]
    assert len(plans) == 2
    assert sum(plan.documents for plan in plans) == 3
    assert not any("COLLSCAN" in plan.stages for plan in plans)


async def test_a_server_that_does_not_answer_is_ours_to_report(monque: Monque) -> None:
    await monque.close()
    async with monque:
        await monque.jobs._jobs.drop_indexes()
        with pytest.raises(ConnectionError, match="cannot count the jobs: "):
            await monque.jobs.backlog()
