"""Reading jobs in an order, from any place on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from bson import DatetimeMS

from monque._store import indexes
from monque._store.filters import JobFilter, job_names
from monque._store.plans import scans, walks, wants_names
from monque.errors import JobDocumentError
from monque.job import Job, from_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bson import ObjectId
    from pymongo.asynchronous.collection import AsyncCollection

    from monque._store.errors import Deadline
    from monque._store.filters import Document
    from monque._store.paging import Order, Place
    from monque._store.plans import Scan

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Row(NamedTuple):
    """A document that was found, and its place in the order.

    Attributes:
        time: The time it is sorted by, in milliseconds since 1970.
        id: Its id.
        document: The document.
    """

    time: int
    id: ObjectId
    document: Document


class Reader:
    """Reads jobs of a collection.

    Documents whose id is no ObjectId, or that have no date where the order needs one, have no place in it: they are
    not among what is read.
    """

    def __init__(self, jobs: AsyncCollection[Document]) -> None:
        self._jobs = jobs

    async def rows(
        self,
        filter: JobFilter,  # noqa: A002  what it is
        order: Order,
        place: Place | None,
        limit: int,
        deadline: Deadline,
    ) -> list[Row]:
        """The first `limit` documents from a place on, in that order."""
        names: Sequence[object] = job_names(filter) or []
        if wants_names(filter, order.time):
            names = await self.names(deadline)
        found: dict[ObjectId, Row] = {}
        # One after the other, in the order of a job's life: one that moves on meanwhile is seen later, or twice.
        for scan in walks(filter, order.time, names):
            found.update((row.id, row) for row in await self._scan(scan, order, place, limit, deadline))
        return sorted(found.values(), key=lambda row: row[:2], reverse=order.descending)[:limit]

    async def names(self, deadline: Deadline) -> list[object]:
        """All names that jobs have."""
        cursor = await self._jobs.aggregate(
            [{"$group": {"_id": "$name"}}], hint=indexes.CREATED, maxTimeMS=deadline.left()
        )
        return [row["_id"] for row in await cursor.to_list()]

    async def count(self, filter: JobFilter, deadline: Deadline) -> int:  # noqa: A002  what it is
        """How many there are."""
        if filter == JobFilter():
            return await self._jobs.estimated_document_count(maxTimeMS=deadline.left())
        counts = [self.count_in(scan, deadline) for scan in scans(filter)]
        return sum(await asyncio.gather(*counts))

    async def count_in(self, scan: Scan, deadline: Deadline) -> int:
        """How many there are in a scan."""
        command = {"count": self._jobs.name, "query": scan.query, "hint": scan.index, "maxTimeMS": deadline.left()}
        answer = await self._jobs.database.command(command, codec_options=self._jobs.codec_options)
        return int(answer["n"])

    async def _scan(self, scan: Scan, order: Order, place: Place | None, limit: int, deadline: Deadline) -> list[Row]:
        sort = [(field, -1 if order.descending else 1) for field in (order.field, "_id")]
        rows: list[Row] = []
        for part in _beyond(scan, order, place):
            missing = limit - len(rows)
            cursor = self._jobs.find(part.query, hint=part.index, sort=sort, limit=missing, batch_size=missing + 1)
            documents = await cursor.max_time_ms(deadline.left()).to_list()
            rows += [Row(_milliseconds(document[order.field]), document["_id"], document) for document in documents]
            if len(rows) == limit:
                break
        return rows


def read(rows: Iterable[Row]) -> tuple[list[Job[Any]], dict[ObjectId, JobDocumentError]]:
    """The jobs, and what cannot be read as one."""
    jobs: list[Job[Any]] = []
    unreadable: dict[ObjectId, JobDocumentError] = {}
    for row in rows:
        try:
            jobs.append(from_document(row.document))
        except JobDocumentError as error:
            unreadable[row.id] = error
    return jobs, unreadable


def _beyond(scan: Scan, order: Order, place: Place | None) -> list[Scan]:
    """What of a scan comes after a place: the jobs of the same time, and then the others."""
    field = order.field
    usual = {"_id": {"$type": "objectId"}}
    if place is None:
        return [scan.also({field: {"$type": "date"}}, usual)]
    after = "$lt" if order.descending else "$gt"
    time = DatetimeMS(place.time)
    at_once = {"_id": {after + "e" * place.inclusive: place.job}}
    return [scan.also({field: time}, usual, at_once), scan.also({field: {after: time}}, usual)]


def _milliseconds(moment: datetime | DatetimeMS) -> int:
    if isinstance(moment, DatetimeMS):
        return int(moment)
    return (moment - _EPOCH) // timedelta(milliseconds=1)
