"""The log lines: the one place where events become words. The logger is `monque`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monque import events as ev

logger = logging.getLogger("monque")


def attach(events: ev.Events) -> None:
    """Write a log line for every event that somebody may have to know of."""
    events.on("job:fail", _failed)
    events.on("job:error", _error)
    events.on("job:lost", _lost)
    events.on("stale:recovered", _recovered)
    events.on("changestream:connected", _connected)
    events.on("changestream:error", _stream_error)
    events.on("changestream:fallback", _fallback)
    events.on("changestream:closed", _closed)


def attach_runs(events: ev.Events) -> None:
    """Write a line for every run, too, if the logger's level asks for it by now: in a busy instance they are many."""
    if logger.isEnabledFor(logging.DEBUG):
        events.on("job:start", _started)
        events.on("job:complete", _completed)


def _started(event: ev.JobStartEvent) -> None:
    logger.debug("%s %s started", event.job.name, event.job.id)


def _completed(event: ev.JobCompleteEvent) -> None:
    logger.debug("%s %s completed in %.3f s", event.job.name, event.job.id, event.duration)


def _failed(event: ev.JobFailEvent) -> None:
    job, error = event.job, event.error
    if event.will_retry:
        logger.warning("%s %s failed and will be retried: %r", job.name, job.id, error)
    else:
        logger.error("%s %s failed for good", job.name, job.id, exc_info=error)


def _error(event: ev.JobErrorEvent) -> None:
    if event.job is None:
        logger.error("%s", event.error, exc_info=event.error)
    else:
        logger.error("%s %s: %s", event.job.name, event.job.id, event.error, exc_info=event.error)


def _lost(event: ev.JobLostEvent) -> None:
    logger.warning("%s %s lost: its lease ran out here, or it was taken away", event.job.name, event.job.id)


def _recovered(event: ev.StaleRecoveredEvent) -> None:
    logger.warning("%d job(s) recovered: their leases had run out", event.count)


def _connected(event: ev.ChangeStreamConnectedEvent) -> None:  # noqa: ARG001  the event has no facts
    logger.debug("change stream connected")


def _stream_error(event: ev.ChangeStreamErrorEvent) -> None:
    logger.warning("change stream: %s", event.error)


def _fallback(event: ev.ChangeStreamFallbackEvent) -> None:
    logger.warning("polling instead of a change stream: %s", event.reason)


def _closed(event: ev.ChangeStreamClosedEvent) -> None:
    logger.debug("change stream closed: %s", event.reason)
