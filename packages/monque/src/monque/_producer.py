"""Enqueueing: what was asked for is checked, made into jobs and written, grouped with what others ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, aclosing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import bson
import pymongo
from pymongo.errors import OperationFailure

from monque import _transitions as transitions
from monque._batching import Batcher
from monque._bulk import Batch, Bulk, Item, make_all
from monque._intake import LARGEST_PAYLOAD, NewJob, Payloads, new_job, recurring_job, with_headers
from monque._store.errors import TOO_LARGE, driver_errors
from monque.errors import InvalidArgumentError, MonqueError, PayloadTooLargeError, UniqueKeyConflictError
from monque.job import Job, JobStatus, settings_document

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Generator, Iterable
    from datetime import datetime

    from bson.codec_options import CodecOptions
    from pymongo.asynchronous.client_session import AsyncClientSession

    from monque._clock import ServerClock
    from monque._cron import Cron
    from monque._intake import OnConflict
    from monque._store.flow import Flow
    from monque._transitions import Transition
    from monque.options import Options
    from monque.worker import Workers

# Called with the jobs that are about to be written; what the context gives is added to their headers.
ProducerMiddleware = Callable[[Sequence[Job[Any]]], AbstractContextManager[Mapping[str, str] | None]]

_LARGEST_INSERT = 1000
# Those who enqueue meanwhile wait behind an insert, so that none may take for ever.
_LONGEST_INSERT = 30.0


class _Insert:
    """A job on its way into the collection, and the promise to say what is there in the end."""

    __slots__ = ("job", "stored")

    def __init__(self, job: Job[Any]) -> None:
        self.job = job
        self.stored: asyncio.Future[Job[Any]] = asyncio.get_running_loop().create_future()

    def resolve(self, result: Job[Any] | Exception) -> None:
        """Keep the promise; a caller that was cancelled no longer waits for it."""
        if self.stored.done():
            return
        if isinstance(result, Exception):
            self.stored.set_exception(result)
        else:
            self.stored.set_result(result)


class Producer:
    """Writes new jobs."""

    def __init__(
        self,
        flow: Flow,
        clock: ServerClock,
        options: Options,
        workers: Workers,
        middleware: Sequence[ProducerMiddleware] = (),
    ) -> None:
        self._middleware = middleware
        self._flow = flow
        self._clock = clock
        self._codec = flow.collection.codec_options
        self._payloads = Payloads(self._codec, options.max_payload_bytes)
        self._workers = workers
        self._inserts: Batcher[_Insert] = Batcher(self._insert, largest=_LARGEST_INSERT)

    async def enqueue(self, request: NewJob, session: AsyncClientSession | None) -> Job[Any]:
        """Write one job; without a session grouped with those that others enqueue at this moment."""
        job = self.make(request)
        if not self._middleware:
            return await self._enqueue(request.on_conflict, job, session)
        with self.sending([job]) as (job,):
            return await self._enqueue(request.on_conflict, job, session)

    def _enqueue(
        self, on_conflict: OnConflict, job: Job[Any], session: AsyncClientSession | None
    ) -> Awaitable[Job[Any]]:
        # Most need no more than the promise of their group, and no coroutine of their own.
        if on_conflict == "return":
            return self._store_one(job, session)
        return self._store_anyway(on_conflict, job, session)

    async def _store_anyway(
        self, on_conflict: OnConflict, job: Job[Any], session: AsyncClientSession | None
    ) -> Job[Any]:
        return await self._contend(on_conflict, job, await self._store_one(job, session), session)

    async def enqueue_many(self, items: Iterable[Item], session: AsyncClientSession | None) -> list[Job[Any]]:
        """Check all, then write all."""
        return await self.store(self.make_all(items), session)

    async def enqueue_stream(
        self, source: Iterable[Item] | AsyncIterable[Item], session: AsyncClientSession | None
    ) -> AsyncGenerator[list[Job[Any]]]:
        """Check and write batch by batch."""
        bulk = self.bulk()
        async with aclosing(bulk.batches_of(source)) as batches:
            async for batch in batches:
                with bulk.storing(batch):
                    stored = await self.store(batch, session)
                yield stored

    def bulk(self) -> Bulk:
        """For reading jobs batch by batch; in any thread."""
        return Bulk(lambda request: self._measured(request, self._clock.now()))

    def make_all(self, items: Iterable[Item]) -> Batch:
        """Check all and make them into jobs; in any thread."""
        now = self._clock.now()
        return make_all(items, lambda request: self._unmeasured(request, now), self._payloads)

    async def store(self, batch: Batch, session: AsyncClientSession | None) -> list[Job[Any]]:
        """Write jobs that were made here."""
        if not batch.jobs:
            return []
        with driver_errors("enqueue the jobs", session), self.sending(batch.jobs) as jobs:
            stored = await self._store(jobs, session)
            for number, on_conflict in batch.contending.items():
                stored[number] = await self._contend(on_conflict, jobs[number], stored[number], session)
        return stored

    @contextmanager
    def sending(self, jobs: list[Job[Any]]) -> Generator[list[Job[Any]]]:
        """Write jobs in this block, within what the middleware gives: the same jobs, with the headers it adds."""
        raised: BaseException | None = None
        with ExitStack() as stack:
            for middleware in self._middleware:
                headers = stack.enter_context(middleware(jobs))
                if headers:
                    jobs = [with_headers(job, headers) for job in jobs]
            try:
                yield jobs
            except BaseException as error:
                raised = error
                raise
        if raised is not None:
            raise MonqueError("a producer middleware has swallowed the error of a write; let it through") from raised

    async def schedule(self, cron: Cron, request: NewJob, session: AsyncClientSession | None) -> Job[Any]:
        """Write a recurring job, or give the one that has its key this schedule and data."""
        wanted = recurring_job(self.make(request), cron, self._codec)
        while True:
            holder = await self._store_one(wanted, session)
            if _is_alike(holder, wanted, self._codec):
                return holder
            redefined = await self._flow.redefine(holder, wanted, session)
            if redefined is not None:
                return redefined

    async def flush(self) -> None:
        """Wait until everything enqueued so far is written."""
        await self._inserts.flush()

    async def _store(self, jobs: list[Job[Any]], session: AsyncClientSession | None) -> list[Job[Any]]:
        if session is not None:
            return await self._flow.insert_in(self._check_session(session), jobs)
        stored = await asyncio.shield(self._flow.insert(jobs))
        for job in stored:
            if isinstance(job, Exception):
                raise job
        return [job for job in stored if not isinstance(job, Exception)]

    async def _contend(
        self, on_conflict: OnConflict, job: Job[Any], stored: Job[Any], session: AsyncClientSession | None
    ) -> Job[Any]:
        """Do what is wanted if the key is taken; as often as its holder moves on meanwhile, look again."""
        while stored.id != job.id:
            _check_holder(on_conflict, stored)
            counts_on_it = session is not None and session.in_transaction
            if on_conflict == "run_after" and stored.status is JobStatus.PENDING and not counts_on_it:
                return stored
            try:
                changed = await self._flow.change(_concessions(on_conflict, stored, job), session)
            except OperationFailure as error:
                if error.code not in TOO_LARGE:
                    raise
                # The data of the present run and that of the next lie in one document.
                raise PayloadTooLargeError(self._size(job), LARGEST_PAYLOAD - self._size(stored)) from error
            if changed is not None:
                return changed
            stored = await self._store_one(job, session)
        return stored

    def _store_one(self, job: Job[Any], session: AsyncClientSession | None) -> Awaitable[Job[Any]]:
        if session is not None:
            return self._store_in(session, job)
        insert = _Insert(job)
        self._inserts.add(insert)
        return insert.stored

    async def _store_in(self, session: AsyncClientSession, job: Job[Any]) -> Job[Any]:
        return (await self._flow.insert_in(self._check_session(session), [job]))[0]

    def _size(self, job: Job[Any]) -> int:
        return len(_encoded(job, self._codec))

    def make(self, request: NewJob) -> Job[Any]:
        """Check a request and make the job of it; in any thread."""
        return self._measured(request, self._clock.now())[0]

    def _measured(self, request: NewJob, now: datetime) -> tuple[Job[Any], int]:
        job = self._unmeasured(request, now)
        return job, self._payloads.size(job.data)

    def _unmeasured(self, request: NewJob, now: datetime) -> Job[Any]:
        data = self._workers.checked(request.name, request.data)
        if data is not request.data:
            request = replace(request, data=data)
        return new_job(request, now=now)

    def _check_session(self, session: AsyncClientSession) -> AsyncClientSession:
        if session.client is not self._flow.collection.database.client:
            raise InvalidArgumentError(
                "session", session, "a session of the client that was given to Monque; pass that client or its database"
            )
        return session

    async def _insert(self, inserts: list[_Insert]) -> None:
        try:
            with pymongo.timeout(_LONGEST_INSERT):
                stored = await self._flow.insert([insert.job for insert in inserts])
        except Exception as error:  # noqa: BLE001  whatever it is, the callers have to know
            for insert in inserts:
                insert.resolve(error)
        else:
            for insert, job in zip(inserts, stored, strict=True):
                insert.resolve(job)


def _check_holder(on_conflict: OnConflict, holder: Job[Any]) -> None:
    problem = (
        f"job {holder.id} has it and is {holder.status}; wait for that one, cancel it, or say on_conflict='return'"
    )
    if holder.is_recurring:
        problem = f"job {holder.id} has it and is recurring; change it with schedule(), or say on_conflict='return'"
    elif on_conflict != "raise":
        return
    raise UniqueKeyConflictError(holder.id, holder.name, str(holder.unique_key), problem)


def _concessions(on_conflict: OnConflict, holder: Job[Any], wanted: Job[Any]) -> tuple[Transition, Transition]:
    """What the holder of a key is to do for another job that wants it, should it wait or run; the likelier first."""
    waiting = transitions.supersede(holder.id, wanted) if on_conflict == "replace" else transitions.keep(holder.id)
    running = transitions.follow_up(holder.id, wanted)
    return (waiting, running) if holder.status is JobStatus.PENDING else (running, waiting)


def _is_alike(holder: Job[Any], wanted: Job[Any], codec: CodecOptions[Any]) -> bool:
    if _settings(holder) != _settings(wanted):
        return False
    # What BSON keeps in another form, such as a Decimal, differs from itself only until it is stored.
    return holder.data == wanted.data or _encoded(holder, codec) == _encoded(wanted, codec)


def _settings(job: Job[Any]) -> tuple[object, ...]:
    return job.repeat_interval, job.timezone, settings_document(job)


def _encoded(job: Job[Any], codec: CodecOptions[Any]) -> bytes:
    return bson.encode({"data": job.data}, codec_options=codec)
