"""Change streams as hints need them: from now on, until they break."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from monque._store.driver import reached, undisturbed, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.command_cursor import AsyncCommandCursor

Document = dict[str, Any]

# Seconds that a server has to confirm the end of a stream; one that does not will forget it by itself.
_CLOSING = 1.0


class Stream:
    """What happens in a collection.

    The driver's own change streams go on by themselves when they break, and for that they wait for a server: a read
    that does could not be cancelled at any moment, see `monque._store.driver`. This one breaks.
    """

    def __init__(self, cursor: AsyncCommandCursor[Document], client: AsyncMongoClient[Any]) -> None:
        self._cursor = cursor
        self._client = client

    @property
    def alive(self) -> bool:
        """Whether there may be more."""
        return self._cursor.alive

    async def next(self, limit: float) -> Document | None:
        """What happened next; None if it was nothing for a while. It takes at most `limit` seconds.

        Raises:
            PyMongoError: The stream is broken, or the server out of reach.
        """
        await reached(self._client, 0)
        return await undisturbed(within(limit, self._cursor.try_next()), None)

    async def close(self) -> None:
        """Have no more of it."""
        with suppress(PyMongoError):
            await within(_CLOSING, self._cursor.close())


async def open_stream(
    collection: AsyncCollection[Document], wanted: Sequence[Document], fields: Document, *, max_await: float
) -> Stream:
    """A stream of the `fields` of changes that are `wanted`, any of these; a read lasts at most `max_await` seconds."""
    confirmed = collection.with_options(read_concern=ReadConcern("majority"))
    pipeline: list[Document] = [{"$changeStream": {}}, {"$match": {"$or": list(wanted)}}, {"$project": fields}]
    cursor = await confirmed.aggregate(pipeline, maxAwaitTimeMS=round(max_await * 1000))
    return Stream(cursor, collection.database.client)
