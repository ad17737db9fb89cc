from __future__ import annotations

import os
import uuid
from datetime import UTC
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from monque import Monque
from monque._clock import ServerClock
from monque._store import indexes
from monque._store.flow import Flow, job_collection
from monque.embedded import EmbeddedMongoDB
from monque.testing.plugin import drop, with_database

from .support import Commands, Lab, Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.collection import Collection
    from pymongo.database import Database

    from .support import Document


@pytest.fixture
def commands() -> Commands:
    """What `database` is sent."""
    return Commands()


@pytest.fixture
async def database(monque_uri: str, commands: Commands) -> AsyncGenerator[AsyncDatabase[Document]]:
    client = AsyncMongoClient[dict[str, Any]](monque_uri, tz_aware=True, event_listeners=[commands])
    async with client:
        yield client.get_default_database()


@pytest.fixture
async def collection(database: AsyncDatabase[Document]) -> AsyncCollection[Document]:
    collection = job_collection(database, "monque_jobs")
    await indexes.create(collection)
    return collection


@pytest.fixture
def flow(collection: AsyncCollection[Document]) -> Flow:
    return Flow(collection)


@pytest.fixture
async def monque(database: AsyncDatabase[Document]) -> AsyncGenerator[Monque]:
    async with Monque(database) as monque:
        yield monque


@pytest.fixture
def raw(monque_database: Database[Document]) -> Collection[Document]:
    """The jobs through the synchronous driver, to put there and see what is there."""
    return monque_database["monque_jobs"]


@pytest.fixture
async def clock(database: AsyncDatabase[Document]) -> ServerClock:
    """The server's clock, standing still."""
    clock = ServerClock(lambda: 0.0)
    said = (await database.client.admin.command("hello"))["localTime"]
    clock.observe((said.replace(tzinfo=UTC), 0.0))
    return clock


@pytest.fixture(scope="session")
def private_server(request: pytest.FixtureRequest) -> Generator[str]:
    """A server that only this run uses: one from outside may be used by others, whom failures would hit."""
    if not os.environ.get("MONQUE_TEST_URI"):
        yield request.getfixturevalue("monque_server")
        return
    with EmbeddedMongoDB(ephemeral=True, parameters={"enableTestCommands": "1"}) as server:
        yield server.uri


@pytest.fixture
def lab(private_server: str) -> Generator[Lab]:
    name = f"monque_test_{uuid.uuid4().hex[:12]}"
    with MongoClient[dict[str, Any]](private_server, tz_aware=True) as client:
        yield Lab(client, client[name], with_database(private_server, name))
        drop(client[name])


@pytest.fixture
async def proxy(monque_client: MongoClient[Document]) -> Proxy:
    """A way to the server of `monque_database`."""
    address = monque_client.primary or monque_client.address
    assert address is not None
    return Proxy(*address)
