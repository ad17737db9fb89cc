"""Where a run of the bench works: in collections of its own, which it drops."""

from __future__ import annotations

import itertools
import re
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.errors import CollectionInvalid

from monque import Options
from monque._connection import open_database
from monque._store.errors import driver_errors
from monque._store.orders import fleet_name
from monque.cli._errors import UsageError
from monque.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from pymongo.asynchronous.database import AsyncDatabase

DATABASE = "monque_bench"
# For dropping what was made, also from a server that does not answer any more.
_CLEARING = 10.0


class Place:
    """A database, and the collections a run has made in it.

    Args:
        uri: How to reach the server.
        database: The database.
        name: What to call the first collection; the others get a number.

    Attributes:
        uri: How to reach the server.
        database: The database.
    """

    def __init__(self, uri: str, database: AsyncDatabase[dict[str, Any]], name: str) -> None:
        self.uri = uri
        self.database = database
        self._names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
        self._made: set[str] = set()

    @asynccontextmanager
    async def collection(self) -> AsyncGenerator[str]:
        """The name of a new collection, which lasts as long as the block.

        Raises:
            UsageError: There is such a collection already.
        """
        name = next(self._names)
        self._made.add(name)
        try:
            await self.database.create_collection(name)
        except CollectionInvalid as error:  # somebody was quicker, and it is theirs
            self._made.discard(name)
            raise UsageError(f"there is a collection {name!r} already") from error
        try:
            yield name
        finally:
            with pymongo.timeout(_CLEARING):
                await self._drop(name)

    async def clear(self) -> None:
        """Drop what is left: a write that was under way when a run was interrupted can bring a collection back."""
        with pymongo.timeout(_CLEARING):
            existing = {*await self.database.list_collection_names()}
            for name in self._made:
                if existing & {name, fleet_name(name)}:
                    await self._drop(name)

    async def _drop(self, name: str) -> None:
        """Drop a collection, and what instances that worked on it have said of themselves."""
        await self.database.drop_collection(name)
        await self.database.drop_collection(fleet_name(name))


@asynccontextmanager
async def open_place(uri: str | None, collection: str | None, say: Callable[[str], None]) -> AsyncGenerator[Place]:
    """Connect to `uri`, or else to an embedded MongoDB that is thrown away afterwards.

    Args:
        uri: A MongoDB URI, or nothing.
        collection: What to call the collections; by default there is a new name for each run.
        say: Called with a line of text when something takes a while.

    Raises:
        UsageError: There is such a collection already, or there cannot be one.
        ConnectionError: The database cannot be reached or refuses.
        EmbeddedError: The embedded MongoDB cannot be started.
    """
    if uri:
        async with _connected(uri, collection) as place:
            yield place
        return
    from monque.embedded import EmbeddedMongoDB

    async with EmbeddedMongoDB(ephemeral=True, progress=say) as server, _connected(server.uri, collection) as place:
        yield place


@asynccontextmanager
async def _connected(uri: str, collection: str | None) -> AsyncGenerator[Place]:
    async with open_database(uri) as given:
        database = given.client.get_default_database(DATABASE)
        name = collection or f"monque_bench_{uuid.uuid4().hex[:12]}"
        with driver_errors("run the bench"):
            _refuse_taken(name, await database.list_collection_names())
            place = Place(uri, database, name)
            try:
                yield place
            finally:
                await place.clear()


def _refuse_taken(name: str, existing: list[str]) -> None:
    try:
        Options(collection=name)
    except ConfigurationError as error:
        raise UsageError(f"--collection: {error}") from error
    taken = [each for each in existing if re.fullmatch(rf"{re.escape(name)}(_\d+)?", each)]
    if taken:
        raise UsageError(f"--collection: there is a collection {taken[0]!r} already; expected a name that is free")
