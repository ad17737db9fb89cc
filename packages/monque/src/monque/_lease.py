"""Keeping leases alive, from a thread of its own with a connection of its own: a blocked event loop cannot stop it.

The same thread says that the instance lives.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.errors import ConnectionFailure, PyMongoError

from monque._store.orders import EXPIRED, fleet_name, instance_id, sign_of_life
from monque.errors import BlockedEventLoopError
from monque.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from collections.abc import Set as AbstractSet

    from bson import ObjectId
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.collection import Collection

    from monque.job import Job

_logger = logging.getLogger("monque")

# An event loop that has not come round for this long is blocked.
_BLOCKED_AFTER = 1.0
# Seconds between two glances at jobs that may have been cancelled.
_GLANCE = 1.0
# What is nobody's lease is waited for no longer than this, in seconds.
_PATIENCE = 2.0
# For taking the instance from the list; it is missing there otherwise, and in an hour it is gone.
_GOODBYE = 1.0


@dataclass(frozen=True, slots=True)
class Reports:
    """Whom the keeper tells what it notices; the first two are called on the event loop.

    Attributes:
        lost: Jobs that were held, with their tokens, and are not any more.
        trouble: Something went wrong.
        culprit: Asked, from the keeper's thread, for the job whose handler has the event loop.
        hears: Likewise, whether cancellations are heard of without the keeper.
        facts: Likewise, for what there is to say about the instance.
    """

    lost: Callable[[Mapping[ObjectId, str]], None]
    trouble: Callable[[BaseException], None]
    culprit: Callable[[], Job[Any] | None]
    hears: Callable[[], bool]
    facts: Callable[[], Mapping[str, object]]


class LeaseKeeper:
    """Renews the leases of the jobs in `held` (their tokens by id), and watches the event loop meanwhile.

    Those in `exempt` are not renewed, only looked at: their documents are being changed in transactions.
    """

    def __init__(
        self,
        collection: AsyncCollection[Any],
        held: Mapping[ObjectId, str],
        exempt: AbstractSet[ObjectId],
        reports: Reports,
        *,
        instance: str,
        interval: float,
    ) -> None:
        self._held = held
        self._exempt = exempt
        self._reports = reports
        self._instance = instance
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._leaving = threading.Event()
        self._answered = self._renewed = time.monotonic()
        self._asked = self._is_hasty = False
        self._blocked: BlockedEventLoopError | None = None
        self._thread = threading.Thread(target=self._run, name="monque-lease", daemon=True)
        self._client, self._jobs = _twin(collection, timeout=interval)
        self._fleet = self._jobs.database.get_collection(
            fleet_name(collection.name), write_concern=self._jobs.write_concern
        )
        # The beats must not wait for what is less important.
        self._patience = min(interval, _PATIENCE)
        self._seen: Mapping[ObjectId, str] = {}
        self._lag = 0.0
        # Whether a sign of life is due at once, and whether the last one was written.
        self._has_news = True
        self._is_known: bool | None = None

    @asynccontextmanager
    async def keeping(self) -> AsyncGenerator[None]:
        """Keep leases while the block lasts."""
        self._thread.start()
        try:
            yield
        finally:
            self._leaving.set()
            await asyncio.to_thread(self._thread.join)

    def hasten(self) -> None:
        """Renew the leases soon: one of them may have been taken away."""
        self._is_hasty = True

    def tell(self) -> None:
        """There is something new to say about the instance."""
        self._has_news = True

    def lag(self) -> float:
        """How long the event loop took last to answer, in seconds, or has not answered by now."""
        silence = time.monotonic() - self._answered if self._asked else 0.0
        return max(self._lag, silence)

    def age(self) -> float | None:
        """For how many seconds the leases that are held have not been renewed; None if there are none."""
        return time.monotonic() - self._renewed if self._held else None

    def is_healthy(self) -> bool:
        """Whether the leases that are held are being renewed, and others would be."""
        if self._thread.ident is not None and not self._thread.is_alive():
            return False
        return not self._held or time.monotonic() - self._renewed < 3 * self._interval

    def _run(self) -> None:
        with self._client:
            next_beat = next_sign = time.monotonic() + self._interval
            next_glance = time.monotonic() + _GLANCE
            while not self._leaving.wait(min(self._interval, _BLOCKED_AFTER) / 4):
                self._watch_loop()
                if time.monotonic() >= next_beat or self._is_hasty:
                    self._is_hasty = False
                    # A beat that failed is repeated soon: the lease has room for several.
                    next_beat = time.monotonic() + self._interval * (1 if self._beat() else 0.25)
                if time.monotonic() >= next_glance:
                    next_glance = time.monotonic() + _GLANCE
                    self._glance()
                if time.monotonic() >= next_sign or self._has_news:
                    self._has_news = False
                    next_sign = time.monotonic() + self._interval
                    self._live()
            self._vanish()

    def _beat(self) -> bool:
        held = dict(self._held)
        exempt = {job: held.pop(job) for job in tuple(self._exempt) if job in held}
        try:
            lost = _renew(self._jobs, held, self._instance) if held else {}
            if exempt:
                lost |= _gone(self._jobs, exempt, self._instance)
        except Exception as error:  # noqa: BLE001  whatever it is, the leases must not end with this thread
            self._loop.call_soon_threadsafe(self._reports.trouble, error)
            return False
        self._renewed = time.monotonic()
        if lost:
            self._loop.call_soon_threadsafe(self._reports.lost, lost)
        return True

    def _glance(self) -> None:
        """See whether jobs that have been at work for a while were cancelled, where nobody else would say so."""
        before, self._seen = self._seen, dict(self._held)
        old = [job for job, token in self._seen.items() if before.get(job) == token]
        if not old or self._reports.hears():
            return
        # Should it fail, there is another glance soon, and trouble is for the beat to tell.
        with suppress(PyMongoError), pymongo.timeout(self._patience):
            query = {"_id": {"$in": old}, "status": JobStatus.CANCELLED.value}
            lost = {row["_id"]: self._seen[row["_id"]] for row in self._jobs.find(query, {"_id": 1})}
            if lost:
                self._loop.call_soon_threadsafe(self._reports.lost, lost)

    def _live(self) -> None:
        """Say that the instance lives. What hinders that is told once, if others would not tell."""
        try:
            with pymongo.timeout(self._patience):
                if self._is_known is None:
                    self._fleet.delete_many(EXPIRED)
                sign = sign_of_life(self._reports.facts(), self._interval)
                self._fleet.update_one({"_id": instance_id(self._instance)}, sign, upsert=True)
        except Exception as error:  # noqa: BLE001  whatever it is, the leases must not end with this thread
            if self._is_known is not False and not _is_silence(error):
                self._loop.call_soon_threadsafe(self._reports.trouble, error)
            self._is_known = False
        else:
            self._is_known = True

    def _vanish(self) -> None:
        if self._is_known:
            with suppress(PyMongoError), pymongo.timeout(_GOODBYE):
                self._fleet.delete_one({"_id": instance_id(self._instance)})

    def _watch_loop(self) -> None:
        """Ask the event loop for a sign of life, and name who keeps it from giving one."""
        if not self._asked:
            self._asked, self._answered = True, time.monotonic()
            self._loop.call_soon_threadsafe(self._answer)
        elif self._blocked is None and (silence := time.monotonic() - self._answered) >= _BLOCKED_AFTER:
            self._blocked = BlockedEventLoopError(self._reports.culprit(), silence)
            frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001  the documented way to see a thread's stack
            # Events need the loop, which is not to be had: the line is written from here, at once.
            _logger.error("%s\n%s", self._blocked, "".join(traceback.format_stack(frame)))

    def _answer(self) -> None:
        self._asked, self._lag = False, time.monotonic() - self._answered
        if self._blocked is not None:
            error = BlockedEventLoopError(self._blocked.job, time.monotonic() - self._answered)
            self._blocked = None
            self._reports.trouble(error)


def _twin(
    collection: AsyncCollection[Any], *, timeout: float
) -> tuple[MongoClient[dict[str, Any]], Collection[dict[str, Any]]]:
    """A synchronous client with the settings of an asynchronous one, and the same collection in it."""
    settings: dict[str, Any] = dict(collection.database.client._init_kwargs)  # noqa: SLF001  there is no public way
    milliseconds = round(timeout * 1000)
    settings.update(
        connect=False,
        event_listeners=[],
        maxPoolSize=1,
        minPoolSize=0,
        # One command per beat needs no second connection that watches how fast the server answers.
        serverMonitoringMode="poll",
        socketTimeoutMS=milliseconds,
        connectTimeoutMS=milliseconds,
        serverSelectionTimeoutMS=milliseconds,
    )
    client: MongoClient[dict[str, Any]] = MongoClient(**settings)
    database = client.get_database(collection.database.name)
    # What a secondary has not heard of yet is not lost.
    primary = ReadPreference.PRIMARY
    return client, database.get_collection(collection.name, read_preference=primary, write_concern=WriteConcern(1))


def _renew(jobs: Collection[dict[str, Any]], held: Mapping[ObjectId, str], instance: str) -> dict[ObjectId, str]:
    """Renew leases, in one write; those that are not held any more come back."""
    beat = {"$currentDate": {"lastHeartbeat": True}}
    if jobs.update_many(_mine(held, instance), beat).matched_count == len(held):
        return {}
    return _gone(jobs, held, instance)


def _gone(jobs: Collection[dict[str, Any]], held: Mapping[ObjectId, str], instance: str) -> dict[ObjectId, str]:
    """Those that are not held any more."""
    still = {row["_id"]: row.get("claimToken") for row in jobs.find(_mine(held, instance), {"claimToken": 1})}
    return {job: token for job, token in held.items() if still.get(job) != token}


def _is_silence(error: Exception) -> bool:
    """Whether the database is not there, or too slow."""
    return isinstance(error, ConnectionFailure) or (isinstance(error, PyMongoError) and error.timeout)


def _mine(held: Mapping[ObjectId, str], instance: str) -> dict[str, Any]:
    return {"_id": {"$in": list(held)}, "claimedBy": instance, "status": JobStatus.PROCESSING.value}
