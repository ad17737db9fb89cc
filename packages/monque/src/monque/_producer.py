"""Enqueueing: what was asked for is checked, made into jobs and written, together with what others ask meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from monque._batching import Batcher
from monque._intake import NewJob, new_job

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bson.codec_options import CodecOptions

    from monque._clock import ServerClock
    from monque._store.flow import Flow
    from monque.job import Job
    from monque.options import Options

_LARGEST_INSERT = 1000


class _Insert:
    """A job on its way into the collection, and the promise to say when it is there."""

    def __init__(self, job: Job[Any]) -> None:
        self.job = job
        self.written: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Producer:
    """Writes new jobs."""

    def __init__(self, flow: Flow, clock: ServerClock, codec: CodecOptions[Any], options: Options) -> None:
        self._flow = flow
        self._clock = clock
        self._codec = codec
        self._options = options
        self._inserts: Batcher[_Insert] = Batcher(self._insert, largest=_LARGEST_INSERT)

    async def enqueue(self, request: NewJob) -> Job[Any]:
        """Write one job, grouped with those that others enqueue at this moment."""
        insert = _Insert(self._make(request))
        self._inserts.add(insert)
        await insert.written
        return insert.job

    async def enqueue_many(self, requests: Sequence[NewJob]) -> list[Job[Any]]:
        """Check all, then write all."""
        jobs = [self._make(request) for request in requests]
        if jobs:
            await asyncio.shield(self._flow.insert(jobs))
        return jobs

    async def flush(self) -> None:
        """Wait until everything enqueued so far is written."""
        await self._inserts.flush()

    def _make(self, request: NewJob) -> Job[Any]:
        return new_job(
            request,
            now=self._clock.now(),
            codec=self._codec,
            max_payload_bytes=self._options.max_payload_bytes,
        )

    async def _insert(self, inserts: list[_Insert]) -> None:
        try:
            await self._flow.insert([insert.job for insert in inserts])
        except PyMongoError as error:
            for insert in inserts:
                _resolve(insert.written, error)
        else:
            for insert in inserts:
                _resolve(insert.written)


def _resolve(written: asyncio.Future[None], error: PyMongoError | None = None) -> None:
    # A caller that was cancelled no longer waits.
    if written.done():
        return
    if error is None:
        written.set_result(None)
    else:
        written.set_exception(error)
