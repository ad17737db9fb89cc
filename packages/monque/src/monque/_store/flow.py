"""The hot path: insert, claim, settle, recover, look ahead, watch."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import bson
from bson.codec_options import DatetimeConversion
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, ReturnDocument, UpdateMany, UpdateOne, WriteConcern
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure, WriteError
from pymongo.read_concern import ReadConcern

from monque import _transitions as transitions
from monque._store.errors import is_key_taken
from monque._store.indexes import ACTIVE, CLAIM, CLAIM_ORDER, UNIQUE
from monque.errors import JobDocumentError
from monque.job import Job, JobStatus, from_document, to_document

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

    from bson import ObjectId
    from bson.codec_options import CodecOptions
    from pymongo.asynchronous.change_stream import AsyncChangeStream
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

    from monque._transitions import Transition

Document = dict[str, Any]

OLDEST_LEASES = 100

# What the server says when it is one document that it cannot change: `attempts` is no number, or too large a one; the
# document does not pass the collection's validation; it would become too large.
_ABOUT_A_DOCUMENT = (14, 2, 121, 10334, 17419)
# Documents that can neither be claimed nor marked as failed are looked over for so many seconds.
_STUCK_FOR = 60.0
# More ranges than this in one ordered scan and the server would sort in memory instead of merging.
_NAMES_PER_SCAN = 100
_LEASE_FIELDS: Document = {
    "now": "$$NOW",
    **dict.fromkeys(
        (
            "name",
            "claimToken",
            "lockedAt",
            "lastHeartbeat",
            "heartbeatInterval",
            "attempts",
            "nextRunAt",
            "repeatInterval",
            "timezone",
        ),
        1,
    ),
}
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


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a look for due jobs showed.

    Attributes:
        candidates: Jobs in their order.
        exhausted: The names of which all due jobs are among them.
    """

    candidates: list[Candidate]
    exhausted: Collection[str]


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim brought.

    Attributes:
        jobs: The jobs now held.
        unreadable: Held as well, but no jobs: why, by id.
        refused: Not held, since the server lets nobody: why, by id.
    """

    jobs: list[Job[Any]]
    unreadable: dict[ObjectId, Exception]
    refused: dict[ObjectId, Exception]


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settle did.

    Attributes:
        lost: Ids whose claim no longer held; nothing was written for them.
        refused: Ids whose write the server refused for good, and why.
    """

    lost: set[ObjectId]
    refused: Mapping[ObjectId, Exception]


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies ahead.

    Attributes:
        next_due: When the next job is due.
        leases: The jobs in processing whose leases were renewed longest ago, as documents with a few fields.
        now: The server's time; None if there was nothing to see.
    """

    next_due: datetime | None
    leases: list[Document]
    now: datetime | None


def job_collection(database: AsyncDatabase[Any], name: str) -> AsyncCollection[Document]:
    """The jobs, with what Monque relies on whatever the user's own settings are.

    Writes are acknowledged by a majority, so that no fail-over undoes a claim, and reads come from the primary. The
    user's codecs come along, with aware dates, and dates beyond Python's range that do not fail a whole batch.
    """
    codec = database.codec_options.with_options(
        document_class=dict, tz_aware=True, tzinfo=None, datetime_conversion=DatetimeConversion.DATETIME_AUTO
    )
    return database.get_collection(
        name,
        codec_options=codec,
        write_concern=WriteConcern("majority"),
        read_concern=ReadConcern("local"),
        read_preference=ReadPreference.PRIMARY,
    )


class Flow:
    """A job's way through the database."""

    def __init__(self, collection: AsyncCollection[Document]) -> None:
        self._jobs = collection
        # For looking at documents of which only a few fields matter: bad text in one must not hide the others.
        lenient = collection.codec_options.with_options(unicode_decode_error_handler="replace")
        self._glance = collection.with_options(codec_options=lenient)
        self._stuck: dict[object, float] = {}

    @property
    def collection(self) -> AsyncCollection[Document]:
        """Where the jobs are."""
        return self._jobs

    async def insert(self, jobs: Sequence[Job[Any]]) -> list[Job[Any] | Exception]:
        """Store new jobs. In place of one whose unique key is taken comes the job that has it.

        In place of one that the server refuses, by a validation rule of the collection for instance, comes its error;
        so it does if what has the key cannot be read as a job.
        """
        first: dict[object, Job[Any]] = {}
        for job in jobs:
            first.setdefault(_identity(job), job)
        stored: dict[object, Job[Any] | Exception] = {}
        while waiting := {key: job for key, job in first.items() if key not in stored}:
            refused = await self._insert(list(waiting.values()))
            taken = [waiting[key] for key, error in refused.items() if is_key_taken(error.details)]
            stored.update((key, job) for key, job in waiting.items() if key not in refused)
            stored.update((key, error) for key, error in refused.items() if not is_key_taken(error.details))
            # The holder of a key may have ended between the two: then the key is free again, and the job waits on.
            stored.update(await self._holders(taken))
        return [stored[_identity(job)] for job in jobs]

    async def insert_in(self, session: AsyncClientSession, jobs: Sequence[Job[Any]]) -> list[Job[Any]]:
        """The same as part of the session's transaction, which a duplicate key would end."""
        plain = [job for job in jobs if job.unique_key is None]
        if plain:
            await self._jobs.insert_many([to_document(job) for job in plain], session=session)
        return [job if job.unique_key is None else await self._upsert(session, job) for job in jobs]

    async def redefine(self, holder: Job[Any], wanted: Job[Any], session: AsyncClientSession | None) -> Job[Any] | None:
        """Give a recurring job another schedule or other data; None if it ended meanwhile."""
        for change in transitions.redefine(holder, wanted):
            document = await self._jobs.find_one_and_update(
                change.filter, change.update, return_document=ReturnDocument.AFTER, session=session
            )
            if document is not None:
                return from_document(document)
        return None

    async def look(self, wanted: Mapping[str, int], limit: int) -> Sighting:
        """See which jobs of the `wanted` names are due: the first `limit`, or that many of a name.

        Where `limit` is less than what is wanted, the names have to share it. Then one scan in the order of time would
        show the longest queue only, and those it left out are asked for one by one: as many as can get something, in
        the order in which `wanted` has them.
        """
        rows = await self._due(list(wanted), limit)
        if len(rows) < limit:
            return Sighting(rows, wanted.keys())
        seen = Counter(row.name for row in rows)
        short = [name for name, number in wanted.items() if seen[name] < min(number, limit)][:limit]
        if not short or limit >= sum(wanted.values()):
            return Sighting(rows, ())
        each = await self._due_each(short, limit)
        found = Counter(row.name for row in each)
        return Sighting(
            [row for row in rows if row.name not in short] + each,
            [name for name in short if found[name] < limit],
        )

    async def claim(self, jobs: Sequence[ObjectId], *, token: str, instance: str, heartbeat_interval: float) -> Claimed:
        """Take those of `jobs` that are still pending. With the same token again it finds those taken before."""
        claim = transitions.claim(jobs, token=token, instance=instance, heartbeat_interval=heartbeat_interval)
        refused = await self._take(claim)
        try:
            documents = await self._jobs.find(transitions.held(jobs, token)).to_list()
        except InvalidBSON:
            return replace(await self._read_one_by_one(jobs, token), refused=refused)
        return replace(_read(documents), refused=refused)

    async def settle(self, changes: Sequence[Transition]) -> Settled:
        """Write outcomes, in one command. Repeating it after an error is safe, whether or not it was applied."""
        matched, refused = await self._write(changes)
        groups = [change for change in changes if len(change.jobs) > 1 and change.jobs[0] in refused]
        if groups:
            # The server stops at the document it refuses; the others of its group are written one by one.
            for change in groups:
                refused = {job: error for job, error in refused.items() if job not in change.jobs}
            refused |= (await self._write([alone for change in groups for alone in transitions.apart(change)]))[1]
        if matched == sum(len(change.jobs) for change in changes):
            return Settled(set(), refused)
        return Settled(await self._lost(changes) - refused.keys(), refused)

    async def reread(self, job: ObjectId, token: str) -> Job[Any] | None:
        """The job as it is now, if the claim still holds."""
        document = await self._jobs.find_one(transitions.held([job], token))
        return None if document is None else from_document(document)

    async def survey(self, names: Sequence[str], age: float) -> Survey:
        """When the next job of `names` is due, and which leases are the oldest; one command.

        A job that was due more than `age` seconds ago does not count: it has been seen.
        """
        later = {"$expr": {"$gt": ["$nextRunAt", {"$subtract": ["$$NOW", math.ceil(age * 1000)]}]}}
        parts: list[list[Document]] = []
        for some in _portions(names):
            due = {"name": {"$in": some}, "status": JobStatus.PENDING.value, "nextRunAt": {"$type": "date"}, **later}
            parts += [
                _first_by("nextRunAt", {**due, "priority": priority}, 1, {"_id": 0, "nextRunAt": 1, "now": "$$NOW"})
                for priority in (None, {"$exists": True})
            ]
        held = {"status": JobStatus.PROCESSING.value}
        parts.append(_first_by("lastHeartbeat", held, OLDEST_LEASES, _LEASE_FIELDS))
        rows = await (await self._glance.aggregate(self._union(parts), hint=CLAIM)).to_list()
        # A date beyond the year 9999 is no datetime, and nothing to wait for.
        dates = [row["nextRunAt"] for row in rows if "_id" not in row and isinstance(row["nextRunAt"], datetime)]
        leases = [row for row in rows if "_id" in row and not isinstance(row["_id"], dict)]
        return Survey(min(dates, default=None), leases, rows[0]["now"] if rows else None)

    async def recover(self, changes: Sequence[Transition]) -> int:
        """Take back jobs whose leases ran out; how many there were, others may have been quicker."""
        operations = [UpdateOne(change.filter, change.update) for change in changes]
        return (await self._jobs.bulk_write(operations, ordered=False)).matched_count

    async def apply(self, change: Transition) -> Job[Any] | None:
        """Make one change and return the job as it is then; None if its filter did not match."""
        document = await self._jobs.find_one_and_update(
            change.filter, change.update, return_document=ReturnDocument.AFTER
        )
        return None if document is None else from_document(document)

    async def watch(self, names: Sequence[str], *, max_await: float) -> AsyncChangeStream[Document]:
        """A stream of hints: what may have become due, by name where that is known without asking."""
        pending = {"fullDocument.status": JobStatus.PENDING.value, "fullDocument.name": {"$in": names}}
        updated = "updateDescription.updatedFields"
        wanted = [
            {"operationType": {"$in": ["insert", "replace"]}, **pending},
            {"operationType": "update", f"{updated}.status": JobStatus.PENDING.value},
            {"operationType": "update", f"{updated}.nextRunAt": {"$exists": True}},
        ]
        project = {
            "name": "$fullDocument.name",
            "due": {"$ifNull": ["$fullDocument.nextRunAt", f"${updated}.nextRunAt"]},
            "at": "$wallTime",
        }
        jobs = self._glance.with_options(read_concern=ReadConcern("majority"))
        return await jobs.watch(
            [{"$match": {"$or": wanted}}, {"$project": project}], max_await_time_ms=round(max_await * 1000)
        )

    async def _insert(self, jobs: list[Job[Any]]) -> dict[object, OperationFailure]:
        """Store jobs; why those are missing that could not be."""
        try:
            await self._jobs.insert_many([to_document(job) for job in jobs], ordered=False)
        except BulkWriteError as error:
            if error.details["writeConcernErrors"]:
                raise
            failures: list[Document] = error.details["writeErrors"]
            return {_identity(jobs[int(failure["index"])]): _failure(failure) for failure in failures}
        return {}

    async def _holders(self, taken: Sequence[Job[Any]]) -> dict[object, Job[Any] | Exception]:
        """The pending or processing jobs that have the unique keys of `taken`."""
        if not taken:
            return {}
        names, keys = list({job.name for job in taken}), list({job.unique_key for job in taken})
        query = {"name": {"$in": names}, "uniqueKey": {"$in": keys}, "status": {"$in": ACTIVE}}
        wanted = {_identity(job) for job in taken}
        holders: dict[object, Job[Any] | Exception] = {}
        async for document in self._glance.find(query, hint=UNIQUE):
            identity = document["name"], document["uniqueKey"]
            if identity in wanted:
                try:
                    holders[identity] = from_document(document)
                except JobDocumentError as error:
                    holders[identity] = error
        return holders

    async def _upsert(self, session: AsyncClientSession, job: Job[Any]) -> Job[Any]:
        query = {"name": job.name, "uniqueKey": job.unique_key, "status": {"$in": ACTIVE}}
        while True:
            try:
                document = await self._jobs.find_one_and_update(
                    query,
                    {"$setOnInsert": to_document(job)},
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                    session=session,
                )
            except DuplicateKeyError as error:
                # Somebody else was quicker. In a transaction this cannot be: that would be a conflict, and end it.
                if session.in_transaction or not is_key_taken(error.details):
                    raise
            else:
                return from_document(cast("Document", document))  # an upsert leaves one behind

    def _union(self, parts: list[list[Document]]) -> list[Document]:
        first, *others = parts
        return first + [{"$unionWith": {"coll": self._jobs.name, "pipeline": part}} for part in others]

    async def _write(self, changes: Sequence[Transition]) -> tuple[int, dict[ObjectId, OperationFailure]]:
        """Make changes: how many jobs they found, and the jobs of those that the server refused, with the reason."""
        operations = [
            (UpdateOne if len(change.jobs) == 1 else UpdateMany)(change.filter, change.update) for change in changes
        ]
        try:
            return (await self._jobs.bulk_write(operations, ordered=False)).matched_count, {}
        except BulkWriteError as error:
            if error.details["writeConcernErrors"]:
                raise
            refused: dict[ObjectId, OperationFailure] = {}
            for failure in error.details["writeErrors"]:
                refused.update(dict.fromkeys(changes[int(failure["index"])].jobs, _failure(failure)))
            return error.details["nMatched"], refused

    async def _lost(self, changes: Sequence[Transition]) -> set[ObjectId]:
        """Those of the jobs in `changes` whose outcome is not the one that is written."""
        expected = {job: change.filter["claimToken"] for change in changes for job in change.jobs}
        written = self._jobs.find({"_id": {"$in": list(expected)}}, {"settledBy": 1})
        return expected.keys() - {row["_id"] async for row in written if row.get("settledBy") == expected[row["_id"]]}

    async def _take(self, claim: Transition) -> dict[ObjectId, Exception]:
        """Claim jobs; why those cannot be that the server refuses to change, and which therefore fail."""
        try:
            await self._jobs.update_many(claim.filter, claim.update)
        except WriteError as error:
            if error.code not in _ABOUT_A_DOCUMENT:
                raise
        else:
            return {}
        # One document that the server refuses to change keeps all the others from being claimed.
        mend = transitions.mend(claim.jobs)
        await self._jobs.update_many(mend.filter, mend.update)
        _, errors = await self._write(transitions.apart(claim))
        refused: dict[ObjectId, Exception] = {}
        for job, why in errors.items():
            if why.code not in _ABOUT_A_DOCUMENT:
                raise why
            refused[job] = JobDocumentError(job, "?", f"the server refuses to claim it: {_wording(why)}")
        await self._refuse(refused)
        return refused

    async def _refuse(self, jobs: Mapping[ObjectId, Exception]) -> None:
        """Let these fail; those that cannot even do that must not stand in the way of others."""
        if jobs:
            _, stuck = await self._write([transitions.refuse(job, reason=str(error)) for job, error in jobs.items()])
            self._stuck.update(dict.fromkeys(stuck, time.monotonic()))

    async def _read_one_by_one(self, jobs: Sequence[ObjectId], token: str) -> Claimed:
        """Read documents of which one cannot even be decoded."""
        codec = self._jobs.codec_options
        raw_codec = codec.with_options(document_class=RawBSONDocument)
        raw: AsyncCollection[Any] = self._jobs.with_options(codec_options=raw_codec)
        readable: list[Document] = []
        unreadable: dict[ObjectId, Exception] = {}
        for document in await raw.find(transitions.held(jobs, token)).to_list():
            try:
                readable.append(_decode(document.raw, codec))
            except InvalidBSON as error:
                job = _decode(document.raw, self._glance.codec_options)["_id"]
                unreadable[job] = JobDocumentError(job, "?", f"cannot be decoded: {error}")
        claimed = _read(readable)
        return replace(claimed, unreadable={**claimed.unreadable, **unreadable})

    async def _due(self, names: list[str], limit: int) -> list[Candidate]:
        """The first `limit` due jobs over all `names`."""
        rows: list[Candidate] = []
        for some in _portions(names):
            found = await self._scan(some, limit)
            if any(row.is_after_normal for row in found):
                # The index has the low priorities before the absent one: those without one have to be asked for.
                found = _first(found + await self._scan(some, limit, {"priority": None}), limit)
            rows += found
        return rows if len(names) <= _NAMES_PER_SCAN else _first(rows, limit)

    async def _scan(self, names: Sequence[str], limit: int, extra: Document | None = None) -> list[Candidate]:
        async def ask() -> list[Document]:
            cursor = self._glance.find(self._due_filter({"$in": names}, extra), _CANDIDATE_FIELDS)
            return await cursor.sort(CLAIM_ORDER).limit(limit).hint(CLAIM).batch_size(limit + 1).to_list()

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
            return await (await self._glance.aggregate(self._union(parts), hint=CLAIM)).to_list()

        parts: list[list[Document]] = [
            [
                {"$match": self._due_filter(name, extra)},
                {"$sort": dict(CLAIM_ORDER)},
                {"$limit": limit},
                {"$project": _CANDIDATE_FIELDS},
            ]
            for name in names
        ]
        return await self._candidates(ask, names)

    def _due_filter(self, name: object, extra: Document | None) -> Document:
        due = {"name": name, "status": JobStatus.PENDING.value, **transitions.DUE, **(extra or {})}
        if self._stuck:
            long_ago = time.monotonic() - _STUCK_FOR
            self._stuck = {job: since for job, since in self._stuck.items() if since > long_ago}
            due["_id"] = {"$nin": list(self._stuck)}
        return due

    async def _candidates(self, ask: Callable[[], Awaitable[list[Document]]], names: Sequence[str]) -> list[Candidate]:
        rows = await ask()
        # Documents with such an id cannot be told apart as jobs are; they fail, and then others are in their place.
        while odd := [row["_id"] for row in rows if isinstance(row["_id"], dict)]:
            for job in odd:
                error = JobDocumentError(job, "_id", "expected an ObjectId, came a document")
                refuse = transitions.refuse(job, reason=str(error))
                await self._jobs.update_one(refuse.filter, refuse.update)
            rows = await ask()
        return [_candidate(row, names) for row in rows]


def _failure(failure: Document) -> OperationFailure:
    return OperationFailure(failure["errmsg"], failure["code"], failure)


def _wording(error: OperationFailure) -> str:
    return str((error.details or {}).get("errmsg"))


def _decode(raw: bytes, codec: CodecOptions[Any]) -> Document:
    return bson.decode(raw, codec)  # pyright: ignore[reportUnknownMemberType]


def _portions(names: Sequence[str]) -> list[Sequence[str]]:
    """The names in as few scans as can be."""
    return [names[start : start + _NAMES_PER_SCAN] for start in range(0, len(names) or 1, _NAMES_PER_SCAN)]


def _first_by(field: str, match: Document, limit: int, project: Document) -> list[Document]:
    return [{"$match": match}, {"$sort": {field: 1}}, {"$limit": limit}, {"$project": project}]


def _identity(job: Job[Any]) -> object:
    """What there may be only one of among the pending and processing."""
    return job.id if job.unique_key is None else (job.name, job.unique_key)


def _candidate(row: Document, names: Sequence[str]) -> Candidate:
    name = row["name"]
    if not isinstance(name, str):
        # A list that has one of the names in it matches, too; it is claimed to be failed with a reason.
        name = next(wanted for wanted in names if wanted in name)
    return Candidate(row["_id"], name, row.get("priority"), row.get("nextRunAt"))


def _first(rows: list[Candidate], limit: int) -> list[Candidate]:
    distinct = {row.id: row for row in rows}
    return sorted(distinct.values(), key=lambda row: row.rank)[:limit]


def _read(documents: list[Document]) -> Claimed:
    jobs: list[Job[Any]] = []
    unreadable: dict[ObjectId, Exception] = {}
    for document in documents:
        try:
            jobs.append(from_document(document))
        except JobDocumentError as error:
            unreadable[document["_id"]] = error
    return Claimed(jobs, unreadable, {})
