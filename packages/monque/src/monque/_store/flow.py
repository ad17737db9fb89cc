"""The hot path: insert, claim, settle, recover, look ahead, watch."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

import bson
import pymongo
from bson.codec_options import DatetimeConversion
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from pymongo import ReadPreference, ReturnDocument, UpdateMany, UpdateOne, WriteConcern
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure, PyMongoError, WriteError
from pymongo.read_concern import ReadConcern

from monque import _transitions as transitions
from monque._codec import with_stand_ins
from monque._store.driver import within
from monque._store.errors import NOT_ALLOWED, TOO_LARGE, is_key_taken
from monque._store.indexes import ACTIVE, CLAIM, UNIQUE
from monque._store.mending import Mender
from monque._store.orders import Orders, fleet_of, read_orders, told, watch_orders
from monque._store.search import Search, Sighting, is_id, portions, union
from monque._store.stream import Stream, open_stream
from monque.errors import JobDocumentError
from monque.job import Job, JobStatus, from_document, to_document

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection, Mapping, Sequence

    from bson import ObjectId
    from bson.codec_options import CodecOptions
    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.client_session import AsyncClientSession
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

    from monque._transitions import Transition

Document = dict[str, Any]
T = TypeVar("T")

OLDEST_LEASES = 100
# Seconds; whoever looks for the end of jobs looks again.
_LONGEST_LOOK = 10.0
_ENDED = [status.value for status in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)]

# What the server says when it is one document that it cannot change: `attempts` is no number, or too large a one; the
# document does not pass the collection's validation; it would become too large.
_ABOUT_A_DOCUMENT = (14, 2, 121, *TOO_LARGE)
# Documents that can neither be claimed nor marked as failed are looked over for so many seconds.
_STUCK_FOR = 60.0
# A recovery that has taken so many seconds waits for a transaction.
_LOCKED_AFTER = 1.0
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
            "retry",
        ),
        1,
    ),
    "isFollowed": transitions.IS_FOLLOWED,
}


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
        orders: What the instance was told.
    """

    next_due: datetime | None
    leases: list[Document]
    now: datetime | None
    orders: Orders


def job_collection(database: AsyncDatabase[Any], name: str) -> AsyncCollection[Document]:
    """The jobs, with the settings Monque relies on."""
    return database.get_collection(name, **collection_settings(database.codec_options))


def collection_settings(codec: CodecOptions[Any]) -> dict[str, Any]:
    """What Monque relies on, whatever the user's own settings are.

    Writes are acknowledged by a majority, so that no fail-over undoes a claim, and reads come from the primary. The
    user's codecs come along, with stand-ins for what they cannot encode, aware dates, and dates beyond Python's range
    that do not fail a whole batch.
    """
    ours = with_stand_ins(codec).with_options(
        document_class=dict, tz_aware=True, tzinfo=None, datetime_conversion=DatetimeConversion.DATETIME_AUTO
    )
    return {
        "codec_options": ours,
        "write_concern": WriteConcern("majority"),
        "read_concern": ReadConcern("local"),
        "read_preference": ReadPreference.PRIMARY,
    }


def unless_active(job: Job[Any]) -> tuple[Document, Document]:
    """Filter and update of the upsert that stores a job, or finds the one that has its unique key."""
    query = {"name": job.name, "uniqueKey": job.unique_key, "status": {"$in": ACTIVE}}
    return query, {"$setOnInsert": to_document(job)}


def survey_pipeline(collection: str, names: Sequence[str], age: float) -> list[Document]:
    """How a survey is asked for."""
    later = {"$expr": {"$gt": ["$nextRunAt", {"$subtract": ["$$NOW", math.ceil(age * 1000)]}]}}
    parts: list[list[Document]] = []
    for some in portions(names):
        due = {"name": {"$in": some}, "status": JobStatus.PENDING.value, "nextRunAt": {"$type": "date"}, **later}
        parts += [
            _first_by("nextRunAt", {**due, "priority": priority}, 1, {"_id": 0, "nextRunAt": 1, "now": "$$NOW"})
            for priority in (None, {"$exists": True})
        ]
    held = {"status": JobStatus.PROCESSING.value}
    parts.append(_first_by("lastHeartbeat", held, OLDEST_LEASES, _LEASE_FIELDS))
    return union(collection, parts)


class Flow:
    """A job's way through the database."""

    def __init__(self, collection: AsyncCollection[Document], mender: Mender | None = None) -> None:
        self._jobs = collection
        self._mender = mender or Mender(collection)
        # For looking at documents of which only a few fields matter: bad text in one must not hide the others.
        lenient = collection.codec_options.with_options(unicode_decode_error_handler="replace")
        self._glance = collection.with_options(codec_options=lenient)
        self._fleet = fleet_of(collection)
        self._stuck: dict[object, float] = {}
        self._may_see_fleet = True

    @property
    def collection(self) -> AsyncCollection[Document]:
        """Where the jobs are."""
        return self._jobs

    @property
    def client(self) -> AsyncMongoClient[Any]:
        """The driver's client."""
        return self._jobs.database.client

    async def insert(self, jobs: Sequence[Job[Any]]) -> list[Job[Any] | Exception]:
        """Store new jobs. In place of one whose unique key is taken comes the job that has it.

        In place of one that the server refuses, by a validation rule of the collection for instance, comes its error;
        so it does if what has the key cannot be read as a job.
        """
        if all(job.unique_key is None for job in jobs):
            errors = await self._insert(jobs)
            return [errors.get(job.id, job) for job in jobs] if errors else list(jobs)
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
        return await self.change(transitions.redefine(holder, wanted), session)

    async def change(self, changes: Sequence[Transition], session: AsyncClientSession | None) -> Job[Any] | None:
        """Make the first of these that the job is in a state for, and return it as it is then; None if it fits none."""
        for change in changes:
            document = await self._jobs.find_one_and_update(
                change.filter, change.update, return_document=ReturnDocument.AFTER, session=session
            )
            if document is not None:
                return from_document(document)
        return None

    async def look(
        self,
        wanted: Mapping[str, int],
        limit: int,
        *,
        at_once: int | None = None,
        besides: Collection[ObjectId] = (),
        skip: int = 0,
    ) -> Sighting:
        """See which jobs of the `wanted` names are due: the first `limit` after `skip`, or that many of a name.

        Those in `besides` do not count, and more than `at_once` are not looked for, whatever the limit.
        """
        search = Search(self._glance, besides=[*besides, *self._stuck_now()], skip=skip)
        return await self._mender.asked(lambda: search.find(wanted, limit, at_once or limit))

    async def claim(
        self,
        jobs: Sequence[ObjectId],
        *,
        token: str,
        instance: str,
        heartbeat_interval: float,
        due: datetime | None = None,
    ) -> Claimed:
        """Take those of `jobs` that are still pending. With the same token again it finds those taken before.

        They must not be due later than `due`, which is past at the server; without it, they have to be due by now.
        """
        claim = transitions.claim(jobs, token=token, instance=instance, heartbeat_interval=heartbeat_interval, due=due)
        refused = await self._take(claim)
        try:
            # The driver's first batch would bring a hundred of them, and the rest upon another question.
            taken = self._jobs.find(transitions.held(jobs, token)).batch_size(len(jobs) + 1)
            documents = await taken.to_list()
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

    async def settle_in(self, session: AsyncClientSession, change: Transition) -> bool:
        """Write one outcome as part of the session's transaction; False if the claim is gone or the job changed."""
        return (await self._jobs.update_one(change.filter, change.update, session=session)).matched_count == 1

    async def remark(self, changes: Sequence[Transition]) -> Mapping[ObjectId, Exception]:
        """Write what handlers say, in one command, where their claims hold; why the server refused some, by id."""
        return (await self._write(changes))[1]

    async def is_settled(self, job: ObjectId, token: str, session: AsyncClientSession) -> bool:
        """Whether an outcome was written under this claim, as the session's transaction sees it."""
        return await self._jobs.find_one({"_id": job, "settledBy": token}, {"_id": 1}, session=session) is not None

    async def reread(self, job: ObjectId, token: str, session: AsyncClientSession | None = None) -> Job[Any] | None:
        """The job as it is now, or as the session's transaction sees it, if the claim still holds."""
        document = await self._jobs.find_one(transitions.held([job], token), session=session)
        return None if document is None else from_document(document)

    async def endings(self, jobs: Sequence[ObjectId]) -> dict[ObjectId, tuple[str, Document | None]]:
        """Of those of `jobs` that exist: their status, and the document if they have ended; one command."""
        ended = {"$cond": [{"$in": ["$status", _ENDED]}, "$$ROOT", "$$REMOVE"]}
        found = self._glance.find({"_id": {"$in": jobs}}, {"status": 1, "job": ended}).batch_size(len(jobs) + 1)
        rows = await within(_LONGEST_LOOK, found.to_list())
        return {row["_id"]: (str(row.get("status")), row.get("job")) for row in rows}

    async def survey(self, names: Sequence[str], age: float, instance: str = "") -> Survey:
        """When the next job of `names` is due, which leases are the oldest, what the instance was told; one command.

        A job that was due more than `age` seconds ago does not count: it has been seen.
        """
        rows = await self._mender.asked(lambda: self._survey(survey_pipeline(self._jobs.name, names, age), instance))
        # A date beyond the year 9999 is no datetime, and nothing to wait for.
        dates = [row["nextRunAt"] for row in rows if "nextRunAt" in row and "_id" not in row]
        leases = [row for row in rows if "_id" in row and is_id(row["_id"])]
        return Survey(
            min((date for date in dates if isinstance(date, datetime)), default=None),
            leases,
            rows[0]["now"] if rows else None,
            read_orders(rows),
        )

    async def _survey(self, pipeline: list[Document], instance: str) -> list[Document]:
        if self._may_see_fleet:
            mine, fields = told(instance)
            part: list[Document] = [{"$match": mine}, {"$project": fields}]
            pipeline = [*pipeline, {"$unionWith": {"coll": self._fleet.name, "pipeline": part}}]
        return await (await self._glance.aggregate(pipeline, hint=CLAIM)).to_list()

    async def orders(self, instance: str) -> Orders:
        """What an instance was told."""
        try:
            return read_orders(await self._fleet.find(*told(instance)).to_list())
        except OperationFailure as error:
            if error.code != NOT_ALLOWED:
                raise
        # A user who may only use the jobs: nobody can direct this instance, but it works.
        self._may_see_fleet = False
        return Orders()

    async def recover(self, changes: Sequence[Transition]) -> int:
        """Take back jobs whose leases ran out; how many there were, others may have been quicker.

        A process that died in the middle of a transaction may have left some of them locked, until the server ends
        that. They are passed over, so that the others need not wait.
        """
        operations = [UpdateOne(change.filter, change.update) for change in changes]
        written = await _unless_locked(self._jobs.bulk_write(operations, ordered=False))
        if written is not None:
            return written.matched_count
        alone = (self._jobs.update_one(change.filter, change.update) for change in changes)
        return sum(one.matched_count for one in await asyncio.gather(*map(_unless_locked, alone)) if one is not None)

    async def give_up(self, change: Transition) -> Job[Any] | None:
        """Take back a job whose lease ran out for the last time; None if others were quicker, or it is locked."""
        return await _unless_locked(self.apply(change))

    async def apply(self, change: Transition) -> Job[Any] | None:
        """Make one change and return the job as it is then; None if its filter did not match."""
        document = await self._jobs.find_one_and_update(
            change.filter, change.update, return_document=ReturnDocument.AFTER
        )
        return None if document is None else from_document(document)

    async def watch(self, names: Sequence[str], *, max_await: float) -> Stream:
        """A stream of hints: what may have become due, by name where that is known without asking."""
        pending = {"fullDocument.status": JobStatus.PENDING.value, "fullDocument.name": {"$in": names}}
        updated = "updateDescription.updatedFields"
        wanted: list[Document] = [
            {"operationType": {"$in": ["insert", "replace"]}, **pending},
            {"operationType": "update", f"{updated}.status": JobStatus.PENDING.value},
            {"operationType": "update", f"{updated}.nextRunAt": {"$exists": True}},
            {"operationType": "update", f"{updated}.status": JobStatus.CANCELLED.value},
        ]
        is_cancelled = {"$eq": [f"${updated}.status", JobStatus.CANCELLED.value]}
        fields = {
            "name": "$fullDocument.name",
            "due": {"$ifNull": ["$fullDocument.nextRunAt", f"${updated}.nextRunAt"]},
            "at": "$wallTime",
            "cancelled": {"$cond": [is_cancelled, "$documentKey._id", "$$REMOVE"]},
        }
        return await open_stream(self._glance, wanted, fields, max_await=max_await)

    async def watch_orders(self, instance: str, *, max_await: float) -> Stream:
        """A stream of hints that an instance may have been told something new."""
        return await watch_orders(self._fleet, instance, max_await=max_await)

    async def _insert(self, jobs: Sequence[Job[Any]]) -> dict[object, OperationFailure]:
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
        for document in await self._mender.asked(lambda: self._glance.find(query, hint=UNIQUE).to_list()):
            identity = document["name"], document["uniqueKey"]
            if identity in wanted:
                try:
                    holders[identity] = from_document(document)
                except JobDocumentError as error:
                    holders[identity] = error
        return holders

    async def _upsert(self, session: AsyncClientSession, job: Job[Any]) -> Job[Any]:
        query, update = unless_active(job)
        while True:
            try:
                document = await self._jobs.find_one_and_update(
                    query, update, upsert=True, return_document=ReturnDocument.AFTER, session=session
                )
            except DuplicateKeyError as error:
                # Somebody else was quicker. In a transaction this cannot be: that would be a conflict, and end it.
                if session.in_transaction or not is_key_taken(error.details):
                    raise
            else:
                return from_document(cast("Document", document))  # an upsert leaves one behind

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

    def _stuck_now(self) -> Collection[object]:
        if self._stuck:
            long_ago = time.monotonic() - _STUCK_FOR
            self._stuck = {job: since for job, since in self._stuck.items() if since > long_ago}
        return self._stuck

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


async def _unless_locked(writing: Awaitable[T]) -> T | None:
    """Write, or give it up soon: the server does not tell that it waits for the end of a transaction."""
    try:
        with pymongo.timeout(_LOCKED_AFTER):
            return await writing
    except PyMongoError as error:
        if not error.timeout:
            raise
        return None


def _failure(failure: Document) -> OperationFailure:
    return OperationFailure(failure["errmsg"], failure["code"], failure)


def _wording(error: OperationFailure) -> str:
    return str((error.details or {}).get("errmsg"))


def _decode(raw: bytes, codec: CodecOptions[Any]) -> Document:
    return bson.decode(raw, codec)  # pyright: ignore[reportUnknownMemberType]


def _first_by(field: str, match: Document, limit: int, project: Document) -> list[Document]:
    return [{"$match": match}, {"$sort": {field: 1}}, {"$limit": limit}, {"$project": project}]


def _identity(job: Job[Any]) -> object:
    """What there may be only one of among the pending and processing."""
    return job.id if job.unique_key is None else (job.name, job.unique_key)


def _read(documents: list[Document]) -> Claimed:
    jobs: list[Job[Any]] = []
    unreadable: dict[ObjectId, Exception] = {}
    for document in documents:
        try:
            jobs.append(from_document(document))
        except JobDocumentError as error:
            unreadable[document["_id"]] = error
    return Claimed(jobs, unreadable, {})
