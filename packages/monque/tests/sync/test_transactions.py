"""Jobs in the transactions of the synchronous driver."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError, OperationFailure

from monque import BlockingCallError, InvalidArgumentError, NewJob
from monque.embedded import EmbeddedMongoDB
from monque.sync import Monque
from monque.testing.plugin import with_database

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

Data = dict[str, Any]


@pytest.fixture
def monque(monque_database: Database[Data]) -> Generator[Monque]:
    with Monque(monque_database) as monque:
        yield monque


@pytest.fixture
def session(monque_client: MongoClient[Data]) -> Generator[ClientSession]:
    with monque_client.start_session() as session:
        yield session


@pytest.fixture
def stored(monque_database: Database[Data]) -> Collection[Data]:
    return monque_database["monque_jobs"]


def enqueue_all(monque: Monque, session: ClientSession) -> list[str]:
    jobs = [
        monque.enqueue("a", {"n": 1}, delay=60, session=session),
        monque.enqueue(NewJob(name="b", unique_key="k"), session=session),
        *monque.enqueue_many([("c", 1), NewJob(name="d", unique_key="k")], session=session),
        *monque.enqueue_many(iter([("e", 1)]), session=session),
        *(job for jobs in monque.enqueue_stream([("f", 1)], session=session) for job in jobs),
    ]
    return [job.name for job in jobs]


def test_jobs_exist_once_the_transaction_commits(
    monque: Monque, session: ClientSession, stored: Collection[Data]
) -> None:
    with session.start_transaction():
        assert enqueue_all(monque, session) == ["a", "b", "c", "d", "e", "f"]
        assert stored.count_documents({}) == 0
    assert sorted(row["name"] for row in stored.find()) == ["a", "b", "c", "d", "e", "f"]


def test_an_aborted_transaction_leaves_nothing(
    monque: Monque, session: ClientSession, stored: Collection[Data]
) -> None:
    session.start_transaction()
    enqueue_all(monque, session)
    session.abort_transaction()
    assert stored.count_documents({}) == 0


def test_a_job_in_a_transaction_is_like_any_other_and_is_run(monque: Monque, session: ClientSession) -> None:
    with session.start_transaction():
        inside = monque.enqueue("work", {"n": 1}, priority=2, unique_key="k", session=session)
        # The own write is seen.
        assert monque.enqueue("work", unique_key="k", session=session) == inside
    assert monque.jobs.get(inside.id) == inside
    assert monque.enqueue("work", unique_key="k") == inside


def test_one_that_has_the_key_is_given_and_nothing_is_written(
    monque: Monque, session: ClientSession, stored: Collection[Data]
) -> None:
    first = monque.enqueue("work", 1, unique_key="k")
    with session.start_transaction():
        assert monque.enqueue("work", 2, unique_key="k", session=session) == first
    assert monque.enqueue("work", 3, unique_key="k", session=session) == first
    assert stored.count_documents({}) == 1


def test_a_client_as_source_takes_its_own_sessions(monque_uri: str) -> None:
    with MongoClient[Data](monque_uri) as client, Monque(client) as monque, client.start_session() as session:
        with session.start_transaction():
            job = monque.enqueue("work", session=session)
        assert monque.jobs.get(job.id) == job


CALLS: dict[str, Callable[[Monque, Any], object]] = {
    "enqueue": lambda monque, session: monque.enqueue("work", session=session),
    "enqueue_many": lambda monque, session: monque.enqueue_many([("work", 1)], session=session),
    "generator": lambda monque, session: monque.enqueue_many(iter([("work", 1)]), session=session),
    "enqueue_stream": lambda monque, session: monque.enqueue_stream([("work", 1)], session=session),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@EVERY_CALL
def test_a_session_of_another_client_is_refused(
    monque: Monque, monque_uri: str, stored: Collection[Data], call: Callable[[Monque, object], object]
) -> None:
    with MongoClient[Data](monque_uri) as other, other.start_session() as session:
        for wrong in (session, "session"):
            with pytest.raises(InvalidArgumentError, match="session: expected a session of the MongoClient that was"):
                call(monque, wrong)
    assert stored.count_documents({}) == 0


@EVERY_CALL
def test_without_a_client_there_are_no_sessions(
    session: ClientSession, monque_uri: str, call: Callable[[Monque, object], object]
) -> None:
    monque = Monque(monque_uri)
    with pytest.raises(InvalidArgumentError, match="pass the MongoClient of the session as source"):
        call(monque, session)
    assert monque._link.here() is None


def test_what_is_wrong_is_told_before_anything_is_written(
    monque: Monque, session: ClientSession, stored: Collection[Data]
) -> None:
    with session.start_transaction():
        with pytest.raises(InvalidArgumentError, match=r"jobs\[1\]"):
            monque.enqueue_many([("a", 1), ("bad name", 1)], session=session)
        monque.enqueue("c", session=session)
    assert [row["name"] for row in stored.find()] == ["c"]


def test_what_becomes_of_the_holder_of_a_key_cannot_be_said_beside_a_session(
    monque: Monque, session: ClientSession, stored: Collection[Data]
) -> None:
    job = NewJob(name="work", unique_key="k", on_conflict="replace")
    with pytest.raises(InvalidArgumentError, match="on_conflict: expected 'return' beside a session"):
        monque.enqueue(job, session=session)
    with pytest.raises(InvalidArgumentError, match="on_conflict: expected 'return' beside a session"):
        monque.enqueue_many([job], session=session)
    assert stored.count_documents({}) == 0


async def test_on_an_event_loop_it_is_refused(monque_uri: str) -> None:
    with (
        MongoClient[Data](monque_uri) as client,
        client.start_session() as session,
        pytest.raises(BlockingCallError),
    ):
        Monque(client).enqueue("work", session=session)


def test_errors_of_the_driver_stay_what_they_are(
    monque: Monque, session: ClientSession, monque_database: Database[Data]
) -> None:
    monque_database.command("collMod", "monque_jobs", validator={"data": {"$ne": 1}})
    with pytest.raises(OperationFailure, match="failed validation"):
        monque.enqueue("work", 1, session=session)


@pytest.mark.parametrize("transaction", [True, False])
def test_a_unique_index_of_somebody_else_refuses_a_job(
    monque: Monque, session: ClientSession, stored: Collection[Data], transaction: bool
) -> None:
    stored.create_index("data.order", unique=True)
    monque.enqueue("work", {"order": 1})
    if transaction:
        session.start_transaction()
    with pytest.raises(DuplicateKeyError, match=r"data\.order"):
        monque.enqueue("work", {"order": 1}, unique_key="k", session=session)


@pytest.fixture(scope="session")
def private_server(request: pytest.FixtureRequest) -> Generator[str]:
    """A server that only this run uses: one from outside may be used by others, whom failures would hit."""
    if not os.environ.get("MONQUE_TEST_URI"):
        yield request.getfixturevalue("monque_server")
        return
    with EmbeddedMongoDB(ephemeral=True, parameters={"enableTestCommands": "1"}) as server:
        yield server.uri


def test_a_call_that_came_too_late_gets_the_job_that_was_quicker(private_server: str) -> None:
    # What the server says when another call stored its job between the look for one and the insert.
    taken = {"keyPattern": {"name": 1, "uniqueKey": 1}, "keyValue": {"name": "work", "uniqueKey": "k"}}
    app = f"app-{uuid.uuid4().hex[:12]}"
    data = {"failCommands": ["findAndModify"], "appName": app, "errorCode": 11000, "errorExtraInfo": taken}
    uri = with_database(private_server, app)
    with MongoClient[Data](uri, appname=app) as client, Monque(client) as monque, client.start_session() as session:
        quicker = monque.enqueue("work", unique_key="k")
        client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": data})
        assert monque.enqueue("work", unique_key="k", session=session) == quicker
        assert client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})["count"] > 0
        client.drop_database(app)
