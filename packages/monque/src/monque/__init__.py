"""A background-job queue and scheduler on MongoDB."""

from monque._intake import NewJob
from monque._monque import Monque
from monque.errors import (
    AggregationTimeoutError,
    BlockedEventLoopError,
    ConfigurationError,
    ConnectionError,
    EmbeddedError,
    InvalidArgumentError,
    InvalidCronError,
    InvalidCursorError,
    InvalidJobIdentifierError,
    InvalidPayloadError,
    JobDocumentError,
    JobStateError,
    MonqueError,
    PayloadTooLargeError,
    ShutdownTimeoutError,
    WorkerRegistrationError,
)
from monque.events import JobCompleteEvent, JobErrorEvent, JobFailEvent, JobStartEvent
from monque.job import Job, JobStatus
from monque.options import Concurrency, Lease, Options, Polling, Retry

__all__ = [
    "AggregationTimeoutError",
    "BlockedEventLoopError",
    "Concurrency",
    "ConfigurationError",
    "ConnectionError",
    "EmbeddedError",
    "InvalidArgumentError",
    "InvalidCronError",
    "InvalidCursorError",
    "InvalidJobIdentifierError",
    "InvalidPayloadError",
    "Job",
    "JobCompleteEvent",
    "JobDocumentError",
    "JobErrorEvent",
    "JobFailEvent",
    "JobStartEvent",
    "JobStateError",
    "JobStatus",
    "Lease",
    "Monque",
    "MonqueError",
    "NewJob",
    "Options",
    "PayloadTooLargeError",
    "Polling",
    "Retry",
    "ShutdownTimeoutError",
    "WorkerRegistrationError",
]
