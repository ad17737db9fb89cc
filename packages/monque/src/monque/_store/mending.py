"""Indexes are made at the start, and again should they be gone: with the whole collection, it may be."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo.errors import OperationFailure

from monque._store import indexes
from monque._store.driver import call_off
from monque._store.errors import INDEX_MISSING, is_index_missing
from monque.diagnosis import IndexFix
from monque.errors import ConnectionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pymongo import IndexModel
    from pymongo.asynchronous.collection import AsyncCollection

    from monque.errors import IndexConflictError

Document = dict[str, Any]
T = TypeVar("T")

# Whoever needs an index waits for so many seconds while it is built, and then says what it waits for.
_PATIENCE = 5.0


class Mender:
    """Sees to the indexes of a collection.

    Args:
        collection: The collection.
        wanted: Which indexes it is to have; none if somebody else sees to them.
    """

    def __init__(self, collection: AsyncCollection[Document], wanted: Sequence[IndexModel] = ()) -> None:
        self._jobs = collection
        self._wanted = list(wanted)
        self._creating: asyncio.Task[list[IndexConflictError]] | None = None

    async def create(self) -> list[IndexConflictError]:
        """Create what is missing; what cannot be created, and why."""
        return await indexes.create(self._jobs, self._wanted)

    async def add(self, model: IndexModel) -> list[IndexConflictError]:
        """See to one more."""
        self._wanted.append(model)
        return await indexes.create(self._jobs, [model])

    async def asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask what names an index; should that be gone, all of them are made again first."""
        try:
            return await ask()
        except OperationFailure as error:
            if not is_index_missing(error):
                raise
            if not self._wanted:
                raise ConnectionError(INDEX_MISSING) from error
            await self._mend()
        return await ask()

    async def _mend(self) -> None:
        if self._creating is None:
            # Without the time limit of whoever asks: the server would give up what it has built by then.
            self._creating = asyncio.create_task(self.create(), context=Context())
        creating = self._creating
        await asyncio.wait([creating], timeout=_PATIENCE)
        if not creating.done():
            raise ConnectionError("an index was gone, and is being built again; until then no jobs are found")
        self._creating = None
        if conflicts := creating.result():
            raise conflicts[0]

    async def close(self) -> None:
        """Wait for no index any more."""
        if self._creating is not None:
            await call_off(self._creating, self._jobs.database.client)


async def fix(
    collection: AsyncCollection[Document], wanted: Sequence[IndexModel], *, drop_old: bool = False
) -> IndexFix:
    """Make the indexes of a collection what they are to be.

    Of a name of ours with another definition, ours takes the place. Those of earlier versions stay unless they are to
    go; then they do, if they are what those made. Others are left alone, also where they are in the way.
    """
    there = await indexes.existing(collection)
    dropped = [name for name in indexes.conflicts(wanted, there) if name in there]
    for name in dropped:
        await collection.drop_index(name)
    problems = await indexes.create(collection, wanted)
    now = await indexes.existing(collection)
    names = [indexes.name_of(model) for model in wanted]
    created = [name for name in names if name in now and (name not in there or name in dropped)]
    if drop_old and not problems:
        gone = indexes.old_ones(now)
        for name in gone:
            await collection.drop_index(name)
        dropped += gone
    return IndexFix(tuple(created), tuple(dropped), tuple(problems))
