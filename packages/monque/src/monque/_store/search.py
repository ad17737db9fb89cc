"""Looking for jobs that are due: whichever come first, at the cost of what is found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from monque import _transitions as transitions
from monque._store.indexes import CLAIM, CLAIM_ORDER
from monque.errors import JobDocumentError
from monque.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from bson import ObjectId
    from pymongo.asynchronous.collection import AsyncCollection

Document = dict[str, Any]
T = TypeVar("T")

# More ranges than this in one ordered scan and the server would sort in memory instead of merging.
_NAMES_PER_SCAN = 100
_CANDIDATE_FIELDS = {"name": 1, "priority": 1, "nextRunAt": 1}


class Candidate(NamedTuple):
    """A job that was pending and due when it was seen.

    Attributes:
        id: Its id.
        name: Its name.
        priority: Its priority, whatever the document has there.
        due: When it was due, likewise.
    """

    id: ObjectId
    name: str
    priority: object
    due: object

    @property
    def rank(self) -> tuple[float, float, str]:
        """Its place in line, comparable with that of others."""
        high = self.priority if isinstance(self.priority, int | float) else 0
        # What is no date sorts before all dates, in the index and here; it is claimed to be failed with a reason.
        return -high, self.due.timestamp() if isinstance(self.due, datetime) else 0.0, str(self.id)

    @property
    def is_after_normal(self) -> bool:
        """Whether the index has it before jobs without a priority, which are to run first or may be due earlier."""
        return isinstance(self.priority, int | float) and self.priority <= 0


def due_by(candidates: Collection[Candidate]) -> datetime | None:
    """When the last of them was due; None if one has no date: that is claimed to be failed with a reason."""
    dates = [candidate.due for candidate in candidates if isinstance(candidate.due, datetime)]
    return max(dates) if dates and len(dates) == len(candidates) else None


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a look for due jobs showed.

    Attributes:
        candidates: Jobs in their order.
        exhausted: The names of which all due jobs are among them.
    """

    candidates: list[Candidate]
    exhausted: Collection[str]


class Search:
    """One look for due jobs.

    Args:
        jobs: Where they are.
        besides: Ids of jobs that are not looked for.
        skip: How many of the first to leave to others.
    """

    def __init__(self, jobs: AsyncCollection[Document], *, besides: Collection[object] = (), skip: int = 0) -> None:
        self._jobs = jobs
        # Not as `$nin`: of that the server would make ranges of the index, as many for each name as there are ids. With
        # the status, which all have, it makes none; and it sorts what is in this `$in`, unlike that of an expression.
        taken = {"_id": {"$in": list(besides)}, "status": JobStatus.PENDING.value}
        self._besides: Document = {"$nor": [taken]} if besides else {}
        self._skip = skip

    async def find(self, wanted: Mapping[str, int], limit: int, at_once: int) -> Sighting:
        """See which jobs of the `wanted` names are due: the first `limit`, or that many of a name, but `at_once` only.

        Where `limit` is less than what is wanted, the names have to share it. Then one scan in the order of time would
        show the longest queue only, and those of which it shows less than an equal share are asked for one by one: as
        many as can get something, in the order in which `wanted` has them.
        """
        number = min(limit, at_once)
        rows = await self._due(list(wanted), number)
        if len(rows) < number:
            return Sighting(rows, wanted.keys())
        if limit >= sum(wanted.values()):
            return Sighting(rows, ())
        seen = Counter(row.name for row in rows)
        share = max(number // len(wanted), 1)
        short = [name for name, slots in wanted.items() if seen[name] < min(slots, share)][:number]
        if not short:
            return Sighting(rows, ())
        # More than an equal share, since other names may not have as much.
        most = min(2 * share + 1, number)
        each = await self._due_each(short, most)
        found = Counter(row.name for row in each)
        return Sighting(
            _first([row for row in rows if row.name not in short] + each, len(rows) + len(each)),
            [name for name in short if found[name] < most],
        )

    async def _due(self, names: list[str], limit: int) -> list[Candidate]:
        """The first `limit` due jobs over all `names`."""
        rows: list[Candidate] = []
        for some in portions(names):
            found = await self._scan(some, limit)
            if any(row.is_after_normal for row in found):
                # The index has the low priorities before the absent one: those without one have to be asked for.
                found = _first(found + await self._scan(some, limit, {"priority": None}), limit)
            rows += found
        return rows if len(names) <= _NAMES_PER_SCAN else _first(rows, limit)

    async def _scan(self, names: Sequence[str], limit: int, extra: Document | None = None) -> list[Candidate]:
        async def ask() -> list[Document]:
            cursor = self._jobs.find(self._filter({"$in": names}, extra), _CANDIDATE_FIELDS)
            cursor = cursor.sort(CLAIM_ORDER).skip(self._skip).limit(limit)
            return await cursor.hint(CLAIM).batch_size(limit + 1).to_list()

        return await self._candidates(ask, names)

    async def _due_each(self, names: list[str], limit: int) -> list[Candidate]:
        """The first `limit` due jobs of each of `names`, in one command."""
        found = await self._scan_each(names, limit, None)
        low = list({row.name for row in found if row.is_after_normal})
        if not low:
            return found
        found += await self._scan_each(low, limit, {"priority": None})
        return [row for name in names for row in _first([row for row in found if row.name == name], limit)]

    async def _scan_each(self, names: list[str], limit: int, extra: Document | None) -> list[Candidate]:
        async def ask() -> list[Document]:
            return await (await self._jobs.aggregate(union(self._jobs.name, parts), hint=CLAIM)).to_list()

        parts: list[list[Document]] = [
            [
                {"$match": self._filter(name, extra)},
                {"$sort": dict(CLAIM_ORDER)},
                {"$limit": limit},
                {"$project": _CANDIDATE_FIELDS},
            ]
            for name in names
        ]
        return await self._candidates(ask, names)

    def _filter(self, name: object, extra: Document | None) -> Document:
        return {"name": name, "status": JobStatus.PENDING.value, **transitions.DUE, **self._besides, **(extra or {})}

    async def _candidates(self, ask: Callable[[], Awaitable[list[Document]]], names: Sequence[str]) -> list[Candidate]:
        rows = await ask()
        # Documents with such an id cannot be told apart as jobs are; they fail, and then others are in their place.
        while odd := [row["_id"] for row in rows if not is_id(row["_id"])]:
            for job in odd:
                error = JobDocumentError(job, "_id", "expected an ObjectId, came a document")
                refuse = transitions.refuse(job, reason=str(error))
                await self._jobs.update_one(refuse.filter, refuse.update)
            rows = await ask()
        return [_candidate(row, names) for row in rows]


def is_id(value: object) -> bool:
    """Whether jobs can be told apart by it."""
    return not isinstance(value, dict)


def portions(names: Sequence[T]) -> list[Sequence[T]]:
    """The names in as few scans as can be."""
    return [names[start : start + _NAMES_PER_SCAN] for start in range(0, len(names) or 1, _NAMES_PER_SCAN)]


def union(collection: str, parts: list[list[Document]]) -> list[Document]:
    """One pipeline for what several find in the collection."""
    first, *others = parts
    return first + [{"$unionWith": {"coll": collection, "pipeline": part}} for part in others]


def _candidate(row: Document, names: Sequence[str]) -> Candidate:
    name = row["name"]
    if not isinstance(name, str):
        # A list that has one of the names in it matches, too; it is claimed to be failed with a reason.
        name = next(wanted for wanted in names if wanted in name)
    return Candidate(row["_id"], name, row.get("priority"), row.get("nextRunAt"))


def _first(rows: list[Candidate], limit: int) -> list[Candidate]:
    distinct = {row.id: row for row in rows}
    return sorted(distinct.values(), key=lambda row: row.rank)[:limit]
