"""Keeping leases alive, from a thread of its own with a connection of its own: a blocked event loop cannot stop it."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient, ReadPreference, WriteConcern

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


@dataclass(frozen=True, slots=True)
class Reports:
    """Whom the keeper tells what it notices; all but `culprit` are called on the event loop.

    Attributes:
        lost: Jobs that were held, with their tokens, and are not any more.
        trouble: Something went wrong.
        culprit: Asked, from the keeper's thread, for the job whose handler has the event loop.
    """

    lost: Callable[[Mapping[ObjectId, str]], None]
    trouble: Callable[[BaseException], None]
    culprit: Callable[[], Job[Any] | None]


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

    def is_healthy(self) -> bool:
        """Whether the leases that are held are being renewed, and others would be."""
        if self._thread.ident is not None and not self._thread.is_alive():
            return False
        return not self._held or time.monotonic() - self._renewed < 3 * self._interval

    def _run(self) -> None:
        with self._client:
            next_beat = time.monotonic() + self._interval
            while not self._leaving.wait(min(self._interval, _BLOCKED_AFTER) / 4):
                self._watch_loop()
                if time.monotonic() >= next_beat or self._is_hasty:
                    self._is_hasty = False
                    # A beat that failed is repeated soon: the lease has room for several.
                    next_beat = time.monotonic() + self._interval * (1 if self._beat() else 0.25)

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
        self._asked = False
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


def _mine(held: Mapping[ObjectId, str], instance: str) -> dict[str, Any]:
    return {"_id": {"$in": list(held)}, "claimedBy": instance, "status": JobStatus.PROCESSING.value}
