"""Where a run of the demo keeps its jobs."""

from __future__ import annotations

import os
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from monque._connection import open_database
from monque._store.errors import driver_errors

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from pathlib import Path

    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

RESULTS = "_results"
KEPT = timedelta(days=1)

_TIME = "%Y%m%dT%H%M%S"
_NAME = re.compile(r"demo_(?P<time>\d{8}T\d{6})\d*_\d+(_results|_fleet)?")


@dataclass(frozen=True, slots=True)
class Place:
    """The two collections of one run, which no other run uses.

    Attributes:
        database: Their database.
        collection: The name of that of the jobs.
        directory: The data directory of the embedded server, if it is there.
    """

    database: AsyncDatabase[dict[str, Any]]
    collection: str
    directory: Path | None = None

    @property
    def jobs(self) -> AsyncCollection[dict[str, Any]]:
        """The jobs."""
        return self.database[self.collection]

    @property
    def results(self) -> AsyncCollection[dict[str, Any]]:
        """What the jobs found out, by job id."""
        return self.database[self.collection + RESULTS]

    @property
    def server(self) -> str:
        """Which server that is, in words; no more of its URI, which may hold secrets."""
        if self.directory is not None:
            return f"the embedded MongoDB in {self.directory}"
        return ", ".join(f"{host}:{port}" for host, port in sorted(self.database.client.nodes))


@asynccontextmanager
async def open_place(uri: str | None, say: Callable[[str], None]) -> AsyncGenerator[Place]:
    """Connect to `uri`, or else to the embedded MongoDB; clear away what runs of long ago have left there.

    Args:
        uri: A MongoDB URI, or nothing.
        say: Called with a line of text when something takes a while.

    Raises:
        ConnectionError: The database cannot be reached or refuses.
        EmbeddedError: The embedded MongoDB cannot be started.
    """
    if uri:
        async with open_database(uri) as database:
            yield await _prepared(database)
        return
    from monque.embedded import EmbeddedMongoDB

    async with EmbeddedMongoDB(progress=say) as server, open_database(server.uri) as database:
        yield await _prepared(database, server.data_directory)


async def _prepared(database: AsyncDatabase[Any], directory: Path | None = None) -> Place:
    now = datetime.now(UTC)
    with driver_errors("use the database"):
        await drop_old(database, now)
    return Place(database, collection_name(now), directory)


def collection_name(now: datetime) -> str:
    """A name for the jobs of a run that begins `now` in this process."""
    return f"demo_{now.strftime(_TIME)}{now.microsecond:06}_{os.getpid()}"


def is_old(name: str, now: datetime) -> bool:
    """Whether `name` is that of a collection of a run that began more than a day ago."""
    match = _NAME.fullmatch(name)
    return match is not None and datetime.strptime(match["time"], _TIME).replace(tzinfo=UTC) < now - KEPT


async def drop_old(database: AsyncDatabase[Any], now: datetime) -> None:
    """Drop the collections of runs that began more than a day before `now`."""
    for name in await database.list_collection_names(filter={"name": {"$regex": "^demo_"}}):
        if is_old(name, now):
            await database.drop_collection(name)
