"""From what the user has to the database the jobs live in."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from monque._store.errors import driver_errors
from monque.errors import ConfigurationError, redact

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

Source = AsyncDatabase[Any] | AsyncMongoClient[Any] | str | None

DEFAULT_DATABASE = "monque"
URI_VARIABLE = "MONQUE_URI"


def check_source(source: object) -> None:
    """Refuse what no database can be reached through."""
    if isinstance(source, str):
        if not source.startswith(("mongodb://", "mongodb+srv://")):
            raise ConfigurationError("source", redact(source), "a URI that begins with mongodb:// or mongodb+srv://")
    elif source is not None and not isinstance(source, AsyncDatabase | AsyncMongoClient):
        raise ConfigurationError("source", source, "an AsyncDatabase, an AsyncMongoClient, a mongodb:// URI, or None")


@asynccontextmanager
async def open_database(source: Source) -> AsyncGenerator[AsyncDatabase[Any]]:
    """The database of `source`; what is opened for it is closed again, what the user opened is not."""
    if isinstance(source, AsyncDatabase):
        yield source
    elif isinstance(source, AsyncMongoClient):
        yield source.get_default_database(DEFAULT_DATABASE)
    elif uri := source or os.environ.get(URI_VARIABLE):
        async with _client(uri) as client:
            yield client.get_default_database(DEFAULT_DATABASE)
    else:
        from monque.embedded import EmbeddedMongoDB

        async with EmbeddedMongoDB() as server, _client(server.uri) as client:
            yield client[DEFAULT_DATABASE]


@asynccontextmanager
async def _client(uri: str) -> AsyncGenerator[AsyncMongoClient[dict[str, Any]]]:
    check_source(uri)
    with driver_errors("use this URI"):
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            uri, appname="monque", serverSelectionTimeoutMS=_selection_timeout(uri)
        )
    try:
        yield client
    finally:
        await client.close()


def _selection_timeout(uri: str) -> int | None:
    # A newcomer with a wrong port should not wait for the driver's 30 s; None leaves the URI's own word.
    return None if "serverselectiontimeoutms" in uri.lower() else 10_000
