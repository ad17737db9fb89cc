"""Log lines: the one place where events become words. The logger is `monque`.

Records about a job have fields that say which: `job_id`, `job_name`, `attempt` and `instance`. `JobFields` gives them
to those that handlers make, too, and `JsonFormatter` writes them.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from monque import _scope

if TYPE_CHECKING:
    from monque import events as ev
    from monque.job import Job

__all__ = ["JobFields", "JsonFormatter"]

logger = logging.getLogger("monque")
# What every record has; anything else was given to it.
_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def _fields(job: Job[Any]) -> dict[str, Any]:
    return {"job_id": str(job.id), "job_name": job.name, "attempt": job.attempts, "instance": job.claimed_by}


class JobFields(logging.Filter):
    """Gives the records that are made inside handlers the fields of the job; for `Handler.addFilter`.

    It lets all records pass. Those that are made elsewhere have no such fields, for which a format needs defaults.

    Example:
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(JobFields())
        >>> defaults = {"job_name": "-", "job_id": "-"}
        >>> handler.setFormatter(logging.Formatter("%(job_name)s %(job_id)s: %(message)s", defaults=defaults))
    """

    def filter(self, record: logging.LogRecord) -> bool:  # type: ignore[explicit-override]  # typing.override is newer
        """Give a record its fields.

        Args:
            record: The record, where it is made.

        Returns:
            True.
        """
        run = _scope.current()
        if run is not None and not hasattr(record, "job_id"):
            vars(record).update(_fields(run.job))
        return True


class JsonFormatter(logging.Formatter):
    """Writes each record as one line of JSON, with the fields of the job and whatever else it was given as `extra`.

    What JSON does not know is written as `str` shows it. Where records are formatted in another thread than they are
    made, by a `QueueListener` for instance, the handler in front of that needs the filter `JobFields`.

    Example:
        >>> fields = {"name": "shop", "levelname": "INFO", "msg": "sent", "created": 0, "to": "ada"}
        >>> print(JsonFormatter().format(logging.makeLogRecord(fields)))
        {"time": "1970-01-01T00:00:00.000+00:00", "level": "INFO", "logger": "shop", "message": "sent", "to": "ada"}
    """

    def format(self, record: logging.LogRecord) -> str:  # type: ignore[explicit-override]  # typing.override is newer
        """Write one record.

        Args:
            record: The record.

        Returns:
            A JSON object, without line breaks.
        """
        _OF_JOBS.filter(record)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _USUAL},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str)


_OF_JOBS = JobFields()


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
    logger.debug("%s %s started", event.job.name, event.job.id, extra=_fields(event.job))


def _completed(event: ev.JobCompleteEvent) -> None:
    job = event.job
    logger.debug("%s %s completed in %.3f s", job.name, job.id, event.duration, extra=_fields(job))


def _failed(event: ev.JobFailEvent) -> None:
    job, error = event.job, event.error
    if event.will_retry:
        logger.warning("%s %s failed and will be retried: %r", job.name, job.id, error, extra=_fields(job))
    else:
        logger.error("%s %s failed for good", job.name, job.id, exc_info=error, extra=_fields(job))


def _error(event: ev.JobErrorEvent) -> None:
    if event.job is None:
        logger.error("%s", event.error, exc_info=event.error)
    else:
        job = event.job
        logger.error("%s %s: %s", job.name, job.id, event.error, exc_info=event.error, extra=_fields(job))


def _lost(event: ev.JobLostEvent) -> None:
    job = event.job
    said = "%s %s lost: its lease ran out here, or it was taken away"
    logger.warning(said, job.name, job.id, extra=_fields(job))


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
