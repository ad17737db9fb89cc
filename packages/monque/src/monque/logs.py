"""The log lines: the one place where events become words. The logger is `monque`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monque.events import Events, JobCompleteEvent, JobErrorEvent, JobFailEvent, JobStartEvent

logger = logging.getLogger("monque")


def attach(events: Events) -> None:
    """Write a log line for every event."""
    events.on("job:start", _started)
    events.on("job:complete", _completed)
    events.on("job:fail", _failed)
    events.on("job:error", _error)


def _started(event: JobStartEvent) -> None:
    logger.debug("%s %s started", event.job.name, event.job.id)


def _completed(event: JobCompleteEvent) -> None:
    logger.debug("%s %s completed in %.3f s", event.job.name, event.job.id, event.duration)


def _failed(event: JobFailEvent) -> None:
    job, error = event.job, event.error
    if event.will_retry:
        logger.warning("%s %s failed and will be retried: %r", job.name, job.id, error)
    else:
        logger.error("%s %s failed for good", job.name, job.id, exc_info=error)


def _error(event: JobErrorEvent) -> None:
    if event.job is None:
        logger.error("%s", event.error, exc_info=event.error)
    else:
        logger.error("%s %s: %s", event.job.name, event.job.id, event.error, exc_info=event.error)
