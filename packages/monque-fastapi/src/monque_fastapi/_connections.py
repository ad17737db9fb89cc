"""From whatever the application has to a source that Monque takes."""

from __future__ import annotations

import inspect
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from monque import ConfigurationError
from monque.sync import open_twin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

Native = AsyncDatabase[Any] | AsyncMongoClient[Any] | str

EXPECTED = (
    "a mongodb:// URI; an AsyncDatabase or AsyncMongoClient; a Database or MongoClient; a client or database of Motor; "
    "a document class of Beanie or MongoEngine; an engine of ODMantic"
)
_PYMONGO = (str, AsyncDatabase, AsyncMongoClient, Database, MongoClient)
# As `monque` calls it where nobody else does.
_DEFAULT_DATABASE = "monque"


async def made_by(factory: Callable[[], object]) -> object:
    """What a factory makes, plain or async."""
    made = factory()
    return await made if inspect.isawaitable(made) else made


@asynccontextmanager
async def open_native(connection: object) -> AsyncGenerator[Native]:
    """The database behind a connection of any kind.

    Where it is not one of PyMongo's asynchronous ones, a client with the same settings is opened, and closed again.
    """
    native = _native(connection)
    if isinstance(native, Database):
        async with open_twin(native) as twin:
            yield twin
    else:
        yield native


def check_connection(connection: Any) -> None:  # noqa: ANN401  of many libraries
    """Refuse what no database can be found behind, as far as that can be said before it is used."""
    known = {"beanie", "mongoengine"} if isinstance(connection, type) else {"motor", "odmantic"}
    if not isinstance(connection, _PYMONGO) and not known & _libraries(connection):
        raise ConfigurationError("connection", connection, EXPECTED)


def _native(connection: Any) -> Native | Database[Any]:  # noqa: ANN401  of many libraries
    check_connection(connection)
    libraries = _libraries(connection)
    if "beanie" in libraries:
        return _of_beanie(connection)
    if "mongoengine" in libraries:
        return _of_mongoengine(connection)
    if "odmantic" in libraries:
        return _native(connection.database)
    if "motor" in libraries:
        return _native(connection.delegate)
    if isinstance(cast("object", connection), MongoClient):
        connection = connection.get_default_database(_DEFAULT_DATABASE)
    return cast("Native | Database[Any]", connection)


def _libraries(connection: object) -> set[str]:
    """The packages that a class, or the class of a value, and its bases come from; none of them is imported here."""
    kind = connection if isinstance(connection, type) else type(connection)
    return {base.__module__.partition(".")[0] for base in kind.__mro__}


def _of_beanie(document: Any) -> AsyncDatabase[Any]:  # noqa: ANN401  a class of Beanie's
    from beanie.exceptions import CollectionWasNotInitialized

    try:
        database: AsyncDatabase[Any] = document.get_pymongo_collection().database
    except CollectionWasNotInitialized:
        expected = "a document class that Beanie knows; await init_beanie(…) in a lifespan that begins before Monque's"
        raise ConfigurationError("connection", document, expected) from None
    return database


def _of_mongoengine(document: Any) -> Database[Any]:  # noqa: ANN401  a class of MongoEngine's
    from mongoengine.connection import ConnectionFailure  # type: ignore[import-untyped]

    try:
        database: Database[Any] = document._get_db()  # noqa: SLF001  there is no other way to it
    except ConnectionFailure:
        expected = "a document class whose database is connected; call mongoengine.connect(…) before"
        raise ConfigurationError("connection", document, expected) from None
    return database
