"""What `Monque.jobs` is made of: what its parts share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from monque import _transitions as transitions
from monque._settlement import after
from monque._store.filters import JobFilter
from monque._store.reading import Reader
from monque.job import JobStatus
from monque.options import Retention

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bson import ObjectId
    from pymongo.asynchronous.collection import AsyncCollection

    from monque import events as ev
    from monque._clock import ServerClock
    from monque._store.filters import Document
    from monque._transitions import Transition

# Told of jobs that may be due: their name, or None for any, and when.
Wake = Callable[[Iterable[tuple[str | None, "datetime"]]], None]

# Waits for so many seconds for the end of a job, and gives its result.
Wait = Callable[["ObjectId", float], Awaitable[Any]]

EVERYTHING = JobFilter()
# Seconds, for a question that nobody gave another limit.
PATIENCE = 10.0


class Core:
    """The jobs of a collection, and who has to be told what."""

    def __init__(
        self,
        collection: AsyncCollection[Document],
        clock: ServerClock,
        events: ev.Events,
        wake: Wake,
        wait: Wait,
        retention: Retention = Retention(),  # noqa: B008  it is frozen
    ) -> None:
        # Text that is no valid UTF-8 is shown as well as it can be: somebody wants to see, or get rid of, just that.
        lenient = collection.codec_options.with_options(unicode_decode_error_handler="replace")
        self._jobs = collection.with_options(codec_options=lenient)
        self._reader = Reader(self._jobs)
        self._clock = clock
        self._events = events
        self._wake = wake
        self._retention = retention
        self._wait = wait

    def _cancellation(self, jobs: Sequence[ObjectId]) -> Transition:
        return transitions.with_expiry(transitions.cancel(jobs), after(self._clock.now(), self._retention.cancelled))


def allowed(change: Transition) -> list[JobStatus]:
    """From which statuses a change is possible."""
    return [JobStatus(status) for status in change.filter["status"]["$in"]]
