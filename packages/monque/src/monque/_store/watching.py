"""Watching jobs change."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from monque._store.driver import undisturbed, within
from monque._store.filters import conditions, job_ids, only, statuses
from monque.errors import ChangeStreamsUnavailableError, ConnectionError, JobDocumentError
from monque.job import Job, from_document

if TYPE_CHECKING:
    from types import TracebackType

    from bson import ObjectId
    from pymongo.asynchronous.change_stream import AsyncChangeStream
    from pymongo.asynchronous.collection import AsyncCollection

    from monque._store.filters import Document, JobFilter

__all__ = ["JobChange", "Watch"]

_MAX_AWAIT = 1000
# A read that takes so many seconds hangs on a dead connection.
_PATIENCE = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_NOT_A_REPLICA_SET = 40573
# The history does not go back as far as the token does, or the token is of no use: a new stream has to begin now.
_LOST = (280, 286, 260)
_KINDS: dict[str, Literal["created", "changed", "deleted"]] = {
    "insert": "created",
    "update": "changed",
    "replace": "changed",
    "delete": "deleted",
}


@dataclass(frozen=True, slots=True)
class JobChange:
    """Something that happened to a job.

    Attributes:
        job_id: The job's id.
        job: The job as it is now, which may be later than this change; None if it was deleted or cannot be read.
        kind: `"created"`, `"changed"` or `"deleted"`.
        error: Why it cannot be read, if it cannot.
    """

    job_id: ObjectId
    job: Job[Any] | None
    kind: Literal["created", "changed", "deleted"]
    error: JobDocumentError | None = None


class Watch:
    """The changes of jobs, live: what `Jobs.watch` gives, to iterate over with `async for`.

    It begins when the iteration does, or earlier, where an `async with` block is entered; leaving that ends it.
    """

    def __init__(self, jobs: AsyncCollection[Document], filter: JobFilter) -> None:  # noqa: A002  what it is
        self._client = jobs.database.client
        self._jobs = jobs.with_options(read_concern=ReadConcern("majority"))
        self._pipeline: list[Document] = [{"$match": {"$or": _wanted(filter)}}, {"$project": _FIELDS}]
        self._stream: AsyncChangeStream[Document] | None = None
        self._token: Any = None
        self._closed = False

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except PyMongoError as error:
            raise _meaning(error) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> JobChange:
        pause = _FIRST_PAUSE
        while not self._closed:
            try:
                change = await self._next()
            except PyMongoError as error:
                if not _may_pass(error):
                    raise _meaning(error) from error
                await self._drop()
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                self._token = None if isinstance(error, OperationFailure) and error.code in _LOST else self._token
            else:
                pause = _FIRST_PAUSE
                if change is not None:
                    return change
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End it. Doing it again changes nothing."""
        self._closed = True
        await self._drop()

    async def _next(self) -> JobChange | None:
        stream = self._stream or await self._open()
        try:
            document = await undisturbed(within(_PATIENCE, stream.try_next()), self._client)
        except asyncio.CancelledError:
            # The driver has closed the stream, and another one goes on where this one was.
            await self._drop()
            raise
        self._token = stream.resume_token
        if not stream.alive:
            # The collection was dropped or renamed, and what comes next is another one.
            self._token = None
            await self._drop()
        return None if document is None else _change(document)

    async def _open(self) -> AsyncChangeStream[Document]:
        opening = self._jobs.watch(
            self._pipeline, full_document="updateLookup", max_await_time_ms=_MAX_AWAIT, resume_after=self._token
        )
        self._stream = await undisturbed(opening, self._client)
        self._token = self._stream.resume_token
        return self._stream

    async def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close()


_FIELDS = {"operationType": 1, "documentKey": 1, "fullDocument": 1}


def _wanted(filter: JobFilter) -> list[Document]:  # noqa: A002  what it is
    """Which changes are of interest, any of these."""
    updated = "updateDescription.updatedFields"
    ids, wanted = job_ids(filter), statuses(filter)
    query = conditions(filter, "fullDocument.")
    if ids is not None:
        query["documentKey._id"] = {"$in": ids}
    if wanted is not None:
        query["fullDocument.status"] = {"$in": [status.value for status in wanted]}
    # Not the renewals of leases, which change nothing that people want to see.
    news = {"$or": [{f"{updated}.{field}": {"$exists": True}} for field in ("updatedAt", "progress")]}
    changes = [
        {"operationType": {"$in": ["insert", "replace"]}, **query},
        {"operationType": "update", **news, **query},
    ]
    if only(filter, "ids"):
        # All that is known of a job that was deleted is its id.
        changes.append({"operationType": "delete", **query})
    return changes


def _change(document: Document) -> JobChange | None:
    job_id, kind = document["documentKey"]["_id"], _KINDS[document["operationType"]]
    if kind == "deleted":
        return JobChange(job_id, None, kind)
    if document.get("fullDocument") is None:
        return None  # it was deleted meanwhile, and that comes, too
    try:
        return JobChange(job_id, from_document(document["fullDocument"]), kind)
    except JobDocumentError as error:
        return JobChange(job_id, None, kind, error)


def _may_pass(error: PyMongoError) -> bool:
    """Whether another stream, later, may do better."""
    if isinstance(error, OperationFailure) and not error.timeout:
        return error.code in _LOST or error.has_error_label("ResumableChangeStreamError")
    return error.timeout or isinstance(error, ConnectionFailure)


def _meaning(error: PyMongoError) -> ChangeStreamsUnavailableError | ConnectionError:
    if isinstance(error, OperationFailure) and error.code == _NOT_A_REPLICA_SET:
        return ChangeStreamsUnavailableError()
    return ConnectionError(f"cannot watch the jobs: {error}")
