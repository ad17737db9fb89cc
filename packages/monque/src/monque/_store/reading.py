"""Reading jobs in an order, from any place on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from bson import DatetimeMS

from monque._names import check_tags
from monque._store import indexes
from monque._store.filters import Document, JobFilter, job_names
from monque._store.paging import Place
from monque._store.plans import Scan, by_names, scans, walks
from monque.errors import JobDocumentError
from monque.job import Job, from_document

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bson import ObjectId
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.cursor import AsyncCursor

    from monque._store.errors import Deadline
    from monque._store.paging import Order

# So many jobs are read at most that may turn out not to be wanted, for one answer; that takes a server at ease 30 ms.
MOST_EXAMINED = 5000
_USUAL_ID: Document = {"_id": {"$type": "objectId"}}
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


class Stretch(NamedTuple):
    """What was found of a slice.

    Attributes:
        rows: The documents, in order.
        end: Where it ends, if there may be more: all that match up to there are among them, or as many as were wanted.
    """

    rows: list[Row]
    end: Place | None


class Reader:
    """Reads jobs of a collection.

    Documents whose id is no ObjectId, or that have no date where the order needs one, have no place in it: they are
    not among what is read.
    """

    def __init__(self, jobs: AsyncCollection[Document]) -> None:
        self._jobs = jobs

    async def stretch(self, slice: Slice, deadline: Deadline) -> Stretch:  # noqa: A002  what it is
        """The documents of a slice, in its order, as far as one look goes."""
        found = await self.plan(slice.filter, slice.order.time, deadline)
        if any(scan.needs_names for scan in found):
            names = await self._names(slice.filter, deadline)
            found = [part for scan in found for part in by_names(scan, names)]
        end = await self._end([scan for scan in found if scan.is_open], slice, deadline)
        rows: dict[ObjectId, Row] = {}
        # One after the other, in the order of a job's life: one that moves on meanwhile is seen later, or twice.
        for scan in found:
            rows.update((row.id, row) for row in await self._scan(scan, slice, end, deadline))
        first = sorted(rows.values(), key=lambda row: row[:2], reverse=slice.order.descending)[: slice.limit]
        return Stretch(first, Place(*first[-1][:2]) if len(first) == slice.limit else end)

    async def plan(self, filter: JobFilter, time: str, deadline: Deadline) -> list[Scan]:  # noqa: A002  what it is
        """How to find jobs in an order: by what serves the order, or whatever finds so few that they can be sorted."""
        filter = await self._by_rarest_tag(filter, deadline)  # noqa: A001  what it is
        walked = walks(filter, time)
        if not any(scan.is_open for scan in walked):
            return walked
        whole = scans(filter)
        return [replace(scan, is_whole=True) for scan in whole] if await self._are_few(whole, deadline) else walked

    async def aggregate(self, index: str, stages: list[Document], deadline: Deadline) -> list[Document]:
        """What a pipeline makes of the jobs in an index."""
        cursor = await self._jobs.aggregate(stages, hint=index, maxTimeMS=deadline.left())
        return await cursor.to_list()

    async def count(self, filter: JobFilter, limit: int | None, deadline: Deadline) -> int:  # noqa: A002  what it is
        """How many there are; no more than `limit`."""
        if filter == JobFilter():
            number = await self._jobs.estimated_document_count(maxTimeMS=deadline.left())
        else:
            counts = [self.count_in(scan.index, scan.query, limit, deadline) for scan in scans(filter)]
            number = sum(await asyncio.gather(*counts))
        return number if limit is None else min(number, limit)

    async def count_in(self, index: str, query: Document, limit: int | None, deadline: Deadline) -> int:
        """How many an index finds; no more than `limit`."""
        command = {"count": self._jobs.name, "query": query, "hint": index, "maxTimeMS": deadline.left()}
        if limit is not None:
            command["limit"] = limit
        answer = await self._jobs.database.command(command, codec_options=self._jobs.codec_options)
        return int(answer["n"])

    async def _are_few(self, found: Sequence[Scan], deadline: Deadline) -> bool:
        left = MOST_EXAMINED
        for scan in found:
            left -= await self.count_in(scan.index, scan.tally, left + 1, deadline)
            if left < 0:
                return False
        return True

    async def _by_rarest_tag(self, filter: JobFilter, deadline: Deadline) -> JobFilter:  # noqa: A002  what it is
        """The same filter; of several tags that fewest jobs have comes first, which is the one that is looked up."""
        tags = () if filter.tags is None else check_tags(filter.tags)
        if len(tags) <= 1:
            return filter
        counts = {tag: await self.count_in(indexes.TAGS, {"tags": tag}, MOST_EXAMINED + 1, deadline) for tag in tags}
        return replace(filter, tags=sorted(tags, key=lambda tag: counts[tag]))

    async def _names(self, filter: JobFilter, deadline: Deadline) -> Sequence[object]:  # noqa: A002  what it is
        names = job_names(filter)
        if names is not None:
            return names
        return [row["_id"] for row in await self.aggregate(indexes.CREATED, [{"$group": {"_id": "$name"}}], deadline)]

    async def _end(self, walked: Sequence[Scan], slice: Slice, deadline: Deadline) -> Place | None:  # noqa: A002
        """How far to walk, so that all of the scans together lead to about `MOST_EXAMINED` jobs; None if to the end."""
        ends = [await self._edge(scan, slice, max(MOST_EXAMINED // len(walked), 1), deadline) for scan in walked]
        nearest = max if slice.order.descending else min
        return nearest((end for end in ends if end is not None), key=lambda end: (end.time, end.job), default=None)

    async def _edge(self, scan: Scan, slice: Slice, number: int, deadline: Deadline) -> Place | None:  # noqa: A002
        """The place of so many jobs farther on, in a scan; where there are as many at one time, within that."""
        order = slice.order
        for part, by in _parts(scan, order, slice.place, None):
            cursor = self._sorted(part, part.keys, order, by, {order.field: 1}, deadline)
            async for document in cursor.skip(number - 1).limit(1):
                return Place(*_position(document, order))
        return None

    async def _scan(self, scan: Scan, slice: Slice, end: Place | None, deadline: Deadline) -> list[Row]:  # noqa: A002
        order = slice.order
        rows: list[Row] = []
        for part, by in _parts(scan, order, slice.place, end):
            missing = slice.limit - len(rows)
            cursor = self._sorted(part, part.query, order, by, slice.fields, deadline)
            documents = await cursor.limit(missing).batch_size(missing + 1).to_list()
            rows += [Row(*_position(document, order), document) for document in documents]
            if len(rows) == slice.limit:
                break
        return rows

    def _sorted(
        self, scan: Scan, query: Document, order: Order, by: Sequence[str], fields: Document | None, deadline: Deadline
    ) -> AsyncCursor[Document]:
        cursor = self._jobs.find(query, fields, hint=scan.index, max_time_ms=deadline.left())
        return cursor.sort([(field, -1 if order.descending else 1) for field in by])


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


def _parts(scan: Scan, order: Order, place: Place | None, end: Place | None) -> list[tuple[Scan, Sequence[str]]]:
    """What of a scan lies between two places, and by what it is sorted: what has one time with either is apart.

    As one condition, the server would go through all jobs of that time, and thousands may have been made at once.
    """
    after, until = ("$lt", "$gt") if order.descending else ("$gt", "$lt")
    first: Document = {} if place is None else {after + "e" * place.inclusive: place.job}
    last: Document = {} if end is None else {until + "e": end.job}
    if place is not None and end is not None and place.time == end.time:
        return [_at(scan, order, place.time, {**first, **last})]
    limits = {
        **({} if place is None else {after: DatetimeMS(place.time)}),
        **({} if end is None else {until: DatetimeMS(end.time)}),
    }
    between = scan.also({order.field: limits or {"$type": "date"}}, _USUAL_ID)
    return [
        *([] if place is None else [_at(scan, order, place.time, first)]),
        (between, (order.field, "_id")),
        *([] if end is None else [_at(scan, order, end.time, last)]),
    ]


def _at(scan: Scan, order: Order, time: int, ids: Document) -> tuple[Scan, Sequence[str]]:
    """What has that time; the server would not see that it need not sort by what is the same for all."""
    return scan.also({order.field: DatetimeMS(time)}, _USUAL_ID, {"_id": ids}), ("_id",)


def _position(document: Document, order: Order) -> tuple[int, ObjectId]:
    """Its place in the order."""
    return _milliseconds(document[order.field]), document["_id"]


def _milliseconds(moment: datetime | DatetimeMS) -> int:
    if isinstance(moment, DatetimeMS):
        return int(moment)
    return (moment - _EPOCH) // timedelta(milliseconds=1)
