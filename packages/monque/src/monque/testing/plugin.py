"""The pytest plugin; see `monque.testing`."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient
from pymongo.uri_parser import parse_uri

from monque._connection import URI_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Generator

    from pymongo.database import Database

TEST_URI_VARIABLE = "MONQUE_TEST_URI"


@pytest.fixture(scope="session")
def monque_server() -> Generator[str]:
    """The URI of a MongoDB for the whole run: `$MONQUE_TEST_URI`, or an embedded one that leaves nothing behind."""
    uri = os.environ.get(TEST_URI_VARIABLE)
    if uri:
        yield uri
        return
    from monque.embedded import EmbeddedMongoDB

    with EmbeddedMongoDB(ephemeral=True, parameters={"enableTestCommands": "1"}) as server:
        yield server.uri


@pytest.fixture(scope="session")
def monque_client(monque_server: str) -> Generator[MongoClient[dict[str, Any]]]:
    """A synchronous client of that server, for setting up and looking into databases."""
    with MongoClient[dict[str, Any]](monque_server, tz_aware=True) as client:
        yield client


@pytest.fixture
def monque_database(monque_client: MongoClient[dict[str, Any]]) -> Generator[Database[dict[str, Any]]]:
    """A database of this test's own, through the synchronous driver; dropped afterwards."""
    name = f"monque_test_{uuid.uuid4().hex[:12]}"
    database = monque_client[name]
    yield database
    drop(database)


@pytest.fixture
def monque_uri(monque_server: str, monque_database: Database[dict[str, Any]]) -> str:
    """The URI of that database, to give to `Monque`."""
    return with_database(monque_server, monque_database.name)


@pytest.fixture
def monque_environment(monque_uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """`Monque()` uses this test's own database, here and in processes started from here."""
    monkeypatch.setenv(URI_VARIABLE, monque_uri)
    return monque_uri


def drop(database: Database[dict[str, Any]]) -> None:
    """Leave nothing of `database`; without collections there is none."""
    # Dropping it as a whole lets the server pause for a tenth of a second.
    for name in database.list_collection_names(filter={"name": {"$not": {"$regex": r"^system\."}}}):
        database.drop_collection(name)
    # Views leave a collection behind that only goes with its database.
    if database.list_collection_names():
        database.client.drop_database(database)


def with_database(uri: str, name: str) -> str:
    """`uri` with `name` as its default database."""
    scheme, rest = uri.split("://", 1)
    hosts, _, tail = rest.partition("/")
    _, _, query = tail.partition("?")
    if "authsource" not in query.lower() and parse_uri(uri, warn=False)["username"]:
        # Users live in the database of the URI unless it says otherwise, and that is being replaced.
        query = "&".join(filter(None, [query, f"authSource={parse_uri(uri)['database'] or 'admin'}"]))
    return f"{scheme}://{hosts}/{name}" + (f"?{query}" if query else "")
