"""From what the user has to the database the jobs live in."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database
from pymongo.errors import AutoReconnect, InvalidURI

from monque._store.driver import within
from monque._store.errors import driver_errors
from monque.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

_Open = AsyncDatabase[Any] | AsyncMongoClient[Any] | str
Source = _Open | Callable[[], AbstractAsyncContextManager[_Open]] | None
SyncSource = Database[Any] | MongoClient[Any] | str | None

DEFAULT_DATABASE = "monque"
URI_VARIABLE = "MONQUE_URI"
# For saying goodbye to a server that may not be there any more.
_CLOSING = 2.0


def check_source(source: object) -> None:
    """Refuse what no database can be reached through."""
    if isinstance(source, str):
        if not source.startswith(("mongodb://", "mongodb+srv://")):
            # Mistyped as it is, everything before the last @ may be a password.
            shown = "***@" + source.rpartition("@")[2] if "@" in source else source
            raise ConfigurationError("source", shown, "a URI that begins with mongodb:// or mongodb+srv://")
    elif source is not None and not isinstance(source, AsyncDatabase | AsyncMongoClient) and not _is_opener(source):
        expected = "an AsyncDatabase, an AsyncMongoClient, a mongodb:// URI, a function that opens one of them, or None"
        raise ConfigurationError("source", source, expected)


def _is_opener(source: object) -> bool:
    return callable(source) and not isinstance(source, type)


def check_sync_source(source: object) -> None:
    """The same for `monque.sync`."""
    if isinstance(source, AsyncDatabase | AsyncMongoClient):
        expected = "a Database or a MongoClient; what is asynchronous is for monque.Monque"
        raise ConfigurationError("source", cast("object", source), expected)
    database = own_database(source)
    if database is not None:
        _settings_of(database.client)
    elif source is None or isinstance(source, str):
        check_source(source)
    else:
        raise ConfigurationError("source", source, "a Database, a MongoClient, a mongodb:// URI, or None")


def own_database(source: object) -> Database[Any] | None:
    """The database of a synchronous client, through that client; None if there is no such client."""
    found: Any = source
    if isinstance(source, MongoClient):
        found = found.get_default_database(DEFAULT_DATABASE)
    return _as_it_is(found) if isinstance(found, Database) else None


def _as_it_is(database: Any) -> Database[Any]:  # noqa: ANN401  for the type checkers, who differ on what `isinstance` says
    return cast("Database[Any]", database)


@asynccontextmanager
async def open_twin(database: Database[Any]) -> AsyncGenerator[AsyncDatabase[Any]]:
    """The same database through an asynchronous client with the same settings, for `async with`.

    Args:
        database: A database of the synchronous driver.

    Returns:
        An async context manager of the database; its client is closed when it is left.

    Raises:
        ConfigurationError: The settings of the client cannot be read.

    Example:
        >>> import asyncio, os
        >>> from pymongo import MongoClient
        >>> async def main() -> None:
        ...     with MongoClient(os.environ["MONQUE_URI"]) as client:
        ...         async with open_twin(client["app"]) as database:
        ...             print(type(database).__name__, database.name)
        >>> asyncio.run(main())
        AsyncDatabase app
    """
    settings: dict[str, Any] = {**_settings_of(database.client), "connect": False}
    try:
        client: AsyncMongoClient[Any] = AsyncMongoClient(**settings)
    except Exception as error:
        raise _no_twin(database.client) from error
    async with _closing(client):
        yield client.get_database(database.name, codec_options=database.codec_options)


def _settings_of(client: MongoClient[Any]) -> Mapping[str, Any]:
    settings: object = getattr(client, "_init_kwargs", None)  # there is no public way
    if not isinstance(settings, dict):
        raise _no_twin(client)
    return cast("dict[str, Any]", settings)


def _no_twin(client: MongoClient[Any]) -> ConfigurationError:
    return ConfigurationError("source", type(client), "a client whose settings can be read; pass the URI instead")


@asynccontextmanager
async def open_database(source: Source) -> AsyncGenerator[AsyncDatabase[Any]]:
    """The database of `source`; what is opened for it is closed again, what the user opened is not."""
    if isinstance(source, AsyncDatabase):
        yield source
    elif isinstance(source, AsyncMongoClient):
        yield source.get_default_database(DEFAULT_DATABASE)
    elif callable(source):
        async with source() as opened:
            _check_opened(opened)
            async with open_database(opened) as database:
                yield database
    elif uri := source or os.environ.get(URI_VARIABLE):
        async with _client(uri) as client:
            yield client.get_default_database(DEFAULT_DATABASE)
    else:
        from monque.embedded import EmbeddedMongoDB

        async with EmbeddedMongoDB() as server, _client(server.uri) as client:
            yield client[DEFAULT_DATABASE]


def _check_opened(opened: object) -> None:
    if opened is None or _is_opener(opened):
        expected = "a function that opens an AsyncDatabase, an AsyncMongoClient or a mongodb:// URI"
        raise ConfigurationError("source", opened, expected)
    check_source(opened)


@asynccontextmanager
async def _client(uri: str) -> AsyncGenerator[AsyncMongoClient[dict[str, Any]]]:
    check_source(uri)
    with driver_errors("use this URI"):
        try:
            client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri, **_settings(uri))
        except ValueError as error:  # the driver's parser raises some of its own, some of Python's
            raise InvalidURI(str(error)) from error
    async with _closing(client):
        yield client


@asynccontextmanager
async def _closing(client: AsyncMongoClient[Any]) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        with suppress(AutoReconnect):
            await within(_CLOSING, client.close())


# A newcomer with a wrong port should not wait for the driver's 30 s.
_SETTINGS = {"appname": "monque", "serverSelectionTimeoutMS": 10_000}


def _settings(uri: str) -> dict[str, Any]:
    """What Monque asks of the driver unless the URI has a word of its own about it."""
    return {name: value for name, value in _SETTINGS.items() if f"{name}=".lower() not in uri.lower()}
