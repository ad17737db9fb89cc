"""Reading jobs in an order, from any place on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from bson import DatetimeMS

from monque._store import indexes
from monque._store.filters import Document, JobFilter, job_names
from monque._store.plans import Scan, scans, walks, wants_names
from monque.errors import JobDocumentError
from monque.job import Job, from_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bson import ObjectId
    from pymongo.asynchronous.collection import AsyncCollection

    from monque._store.errors import Deadline
    from monque._store.paging import Order, Place

_EVERYTHING = Scan({}, indexes.CREATED)
_BY_NAME: list[Document] = [{"$group": {"_id": "$name"}}]
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


@dataclass(frozen=True, slots=True)
class Slice:
    """The first documents of a filter in an order, from a place on.

    Attributes:
        filter: Which jobs.
        order: Their order.
        limit: How many at most.
        place: Where it begins, if not at the beginning.
        fields: Which fields are read, if not all: a projection.
    """

    filter: JobFilter
    order: Order
    limit: int
    place: Place | None = None
    fields: Document | None = None


class Reader:
    """Reads jobs of a collection.

    Documents whose id is no ObjectId, or that have no date where the order needs one, have no place in it: they are
    not among what is read.
    """

    def __init__(self, jobs: AsyncCollection[Document]) -> None:
        self._jobs = jobs

    async def rows(self, slice: Slice, deadline: Deadline) -> list[Row]:  # noqa: A002  what it is
        """The documents of a slice, in its order."""
        time = slice.order.time
        names: Sequence[object] = job_names(slice.filter) or []
        if wants_names(slice.filter, time):
            names = [row["_id"] for row in await self.aggregate(_EVERYTHING, _BY_NAME, deadline)]
        found: dict[ObjectId, Row] = {}
        # One after the other, in the order of a job's life: one that moves on meanwhile is seen later, or twice.
        for scan in walks(slice.filter, time, names):
            found.update((row.id, row) for row in await self._scan(scan, slice, deadline))
        return sorted(found.values(), key=lambda row: row[:2], reverse=slice.order.descending)[: slice.limit]

    async def aggregate(self, scan: Scan, stages: list[Document], deadline: Deadline) -> list[Document]:
        """What the stages of a pipeline make of the jobs of a scan."""
        match = [{"$match": scan.query}] if scan.query else []
        cursor = await self._jobs.aggregate([*match, *stages], hint=scan.index, maxTimeMS=deadline.left())
        return await cursor.to_list()

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

    async def _scan(self, scan: Scan, slice: Slice, deadline: Deadline) -> list[Row]:  # noqa: A002  what it is
        order = slice.order
        rows: list[Row] = []
        for part, by in _beyond(scan, order, slice.place):
            missing = slice.limit - len(rows)
            cursor = self._jobs.find(part.query, slice.fields, hint=part.index, limit=missing, batch_size=missing + 1)
            cursor = cursor.sort([(field, -1 if order.descending else 1) for field in by])
            documents = await cursor.max_time_ms(deadline.left()).to_list()
            rows += [Row(_milliseconds(document[order.field]), document["_id"], document) for document in documents]
            if len(rows) == slice.limit:
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


def _beyond(scan: Scan, order: Order, place: Place | None) -> list[tuple[Scan, Sequence[str]]]:
    """What of a scan comes after a place, and by what it is sorted: the jobs of the same time, and then the others."""
    field = order.field
    by_time = (field, "_id")
    usual = {"_id": {"$type": "objectId"}}
    if place is None:
        return [(scan.also({field: {"$type": "date"}}, usual), by_time)]
    after = "$lt" if order.descending else "$gt"
    time = DatetimeMS(place.time)
    at_once = {"_id": {after + "e" * place.inclusive: place.job}}
    # The server would not see that it need not sort by what is the same for all.
    return [(scan.also({field: time}, usual, at_once), ("_id",)), (scan.also({field: {after: time}}, usual), by_time)]


def _milliseconds(moment: datetime | DatetimeMS) -> int:
    if isinstance(moment, DatetimeMS):
        return int(moment)
    return (moment - _EPOCH) // timedelta(milliseconds=1)
