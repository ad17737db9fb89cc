"""Every error Monque raises.

They form one tree, so that `except MonqueError` catches all of them and each branch can be caught alone:

    MonqueError
    ├── ConfigurationError        an option makes no sense, or two of them contradict each other
    ├── InvalidArgumentError      an argument of a call makes no sense
    │   ├── InvalidJobIdentifierError   a job name, unique key or job id
    │   ├── InvalidCronError            a cron expression
    │   ├── InvalidPayloadError         `data` that BSON cannot hold
    │   ├── PayloadTooLargeError        `data` that is too big
    │   └── InvalidCursorError          a page cursor
    ├── WorkerRegistrationError   two handlers for one name, or a handler that cannot be one
    ├── ConnectionError           the database cannot be reached or refuses to work
    ├── IndexConflictError        an index that is needed cannot be made, or is another one than is needed
    ├── JobDocumentError          a stored document that is not a job
    ├── JobStateError             the job is in a state that does not allow this
    ├── UniqueKeyConflictError    a unique key is taken by another job
    ├── ShutdownTimeoutError      handlers that were still running when time was up
    ├── AggregationTimeoutError   a search, a count or a statistic that took too long
    ├── LeaseExpiredError         a job's lease ran out so often that it has failed
    ├── BlockedEventLoopError     a handler keeps the event loop from running
    ├── BlockingCallError         a call of monque.sync on a running event loop
    ├── JobTimeoutError           a run took longer than it may
    ├── TransactionsUnavailableError   a worker wants transactions, and the server has none
    ├── ChangeStreamsUnavailableError   jobs are to be watched, and the server has no change streams
    ├── StuckHandlerError         a handler was told to end, and has not
    ├── ProcessDiedError          the process that ran a handler ended before the handler did
    ├── HandlerError              what a handler raised in a process, and could not be brought out of it
    ├── InvalidResultError        a handler's result that cannot be brought out of its process
    ├── ResultError               a handler's result that could not be stored
    ├── ResultTimeoutError        a job that has not ended while it was waited for
    ├── JobFailedError            a job that was waited for has failed
    ├── JobCancelledError         a job that was waited for was cancelled
    ├── JobMissingError           a job that was waited for does not exist, or no more
    └── EmbeddedError             the embedded MongoDB cannot be found, started or used

Each carries its facts as attributes and says what came, what was expected and what to do. Passwords in connection
strings never appear in them.
"""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monque.job import Job, JobStatus

__all__ = [
    "AggregationTimeoutError",
    "BlockedEventLoopError",
    "BlockingCallError",
    "ChangeStreamsUnavailableError",
    "ConfigurationError",
    "ConnectionError",
    "EmbeddedError",
    "HandlerError",
    "IndexConflictError",
    "InvalidArgumentError",
    "InvalidCronError",
    "InvalidCursorError",
    "InvalidJobIdentifierError",
    "InvalidPayloadError",
    "InvalidResultError",
    "JobCancelledError",
    "JobDocumentError",
    "JobFailedError",
    "JobMissingError",
    "JobStateError",
    "JobTimeoutError",
    "LeaseExpiredError",
    "MonqueError",
    "PayloadTooLargeError",
    "ProcessDiedError",
    "ResultError",
    "ResultTimeoutError",
    "ShutdownTimeoutError",
    "StuckHandlerError",
    "TransactionsUnavailableError",
    "UniqueKeyConflictError",
    "WorkerRegistrationError",
]

_CREDENTIALS = re.compile(r"(?P<scheme>mongodb(?:\+srv)?://)[^\s]*@", re.IGNORECASE)
_LONGEST_VALUE = 500


def redact(text: str) -> str:
    """Blank the user name and password of every MongoDB URI in `text`."""
    return _CREDENTIALS.sub(r"\g<scheme>***@", text)


def _shown(value: object) -> str:
    """How a value appears in a message; not every object can be shown, and some are too long to be."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  what it raises is not what the message is about
        return f"an object of type {type(value).__name__}"
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def text_of(value: object) -> str:
    """What `str` makes of a value, an exception for instance; not every one can be put into words."""
    try:
        return str(value)
    except Exception:  # noqa: BLE001  what it raises is not what the text is about
        return "(its message cannot be shown)"


class MonqueError(Exception):
    """The root of every error Monque raises."""


class ConfigurationError(MonqueError, ValueError):
    """An option makes no sense, alone or beside another.

    Attributes:
        option: The option's name, such as `"lease.timeout"`.
        value: What was given.
    """

    def __init__(self, option: str, value: object, expected: str) -> None:
        super().__init__(f"option {option}: expected {expected}, got {_shown(value)}")
        self.option = option
        self.value = value


class InvalidArgumentError(MonqueError, ValueError):
    """An argument of a call makes no sense; nothing was written.

    Attributes:
        argument: The argument's name.
        value: What was given.
    """

    def __init__(self, argument: str, value: object, expected: str) -> None:
        super().__init__(f"{argument}: expected {expected}, got {_shown(value)}")
        self.argument = argument
        self.value = value


class InvalidJobIdentifierError(InvalidArgumentError):
    """A job name, a unique key or a job id is not acceptable.

    Attributes:
        field: `"name"`, `"unique_key"` or `"job_id"`.
        value: What was given.
    """

    def __init__(self, field: str, value: object, expected: str) -> None:
        super().__init__(field, value, expected)
        self.field = field


class InvalidCronError(InvalidArgumentError):
    """A cron expression cannot be understood, or never comes true.

    Attributes:
        expression: What was given.
        position: Index of the first character that is wrong, counted from 0.
    """

    def __init__(self, expression: str, position: int, problem: str) -> None:
        MonqueError.__init__(
            self,
            f"cron expression {expression!r}: {problem}, at position {position}\n"
            f"    {expression}\n"
            f"    {' ' * position}^\n"
            "A valid one is '0 9 * * 1-5': 09:00 from Monday to Friday.",
        )
        self.argument = "expression"
        self.value = expression
        self.expression = expression
        self.position = position


class InvalidPayloadError(InvalidArgumentError):
    """`data` holds something BSON cannot; nothing was written."""


class PayloadTooLargeError(InvalidArgumentError):
    """`data` is too big; nothing was written.

    Attributes:
        actual: Size of `{data}` in BSON, in bytes.
        maximum: The limit, in bytes.
    """

    def __init__(self, actual: int, maximum: int) -> None:
        MonqueError.__init__(
            self,
            f"data: expected at most {maximum:,} bytes of BSON, got {actual:,}; "
            "store the content elsewhere (GridFS, object storage) and enqueue a reference to it",
        )
        self.argument = "data"
        self.value = actual
        self.actual = actual
        self.maximum = maximum


class InvalidCursorError(InvalidArgumentError):
    """A page cursor was not made by Monque, or was made for another sort order."""


class WorkerRegistrationError(MonqueError):
    """A worker cannot be declared.

    Attributes:
        job_name: The name it was declared for.
    """

    def __init__(self, job_name: str, problem: str) -> None:
        super().__init__(f"worker {job_name!r}: {problem}")
        self.job_name = job_name


class ConnectionError(MonqueError):  # noqa: A001  the specification's name; ours is reached as monque.ConnectionError
    """The database cannot be reached, or cannot be used as it is. The driver's error is the cause."""

    def __init__(self, message: str) -> None:
        super().__init__(redact(message))


class JobDocumentError(MonqueError):
    """A stored document cannot be read as a job.

    Attributes:
        job_id: Its `_id`.
        field: The field that is wrong.
    """

    def __init__(self, job_id: object, field: str, problem: str) -> None:
        super().__init__(f"job {job_id}: field {field!r}: {problem}")
        self.job_id = job_id
        self.field = field


class JobStateError(MonqueError):
    """The job's state does not allow the action.

    Attributes:
        job_id: The job's id.
        current_status: The status it has.
        action: What was asked for, such as `"cancel"`.
    """

    def __init__(self, job_id: object, current_status: JobStatus, action: str, allowed: str) -> None:
        super().__init__(f"cannot {action} job {job_id}: it is {current_status}, expected {allowed}")
        self.job_id = job_id
        self.current_status = current_status
        self.action = action


class UniqueKeyConflictError(MonqueError):
    """A unique key is taken: a job with this name and key is pending or processing.

    Attributes:
        job_id: The id of the job that has the key; where one cannot be retried, of the job that cannot.
        job_name: The name.
        unique_key: The unique key.
    """

    def __init__(self, job_id: object, job_name: str, unique_key: str, problem: str) -> None:
        super().__init__(f"the unique key {unique_key!r} of {job_name!r} is taken: {problem}")
        self.job_id = job_id
        self.job_name = job_name
        self.unique_key = unique_key


class IndexConflictError(MonqueError):
    """An index that Monque needs cannot be made, or there is another one in its place.

    Attributes:
        index: The name of the index that is needed.
        problem: What is the matter.
        is_usable: Whether Monque can work all the same, if more slowly.
    """

    def __init__(self, index: str, problem: str, *, is_usable: bool = False) -> None:
        super().__init__(f"index {index!r}: {problem}; `monque doctor` tells more")
        self.index = index
        self.problem = problem
        self.is_usable = is_usable


class ShutdownTimeoutError(MonqueError):
    """Handlers were still running when `shutdown_timeout` was over; they were cancelled and their jobs released.

    Attributes:
        incomplete_jobs: The jobs whose handlers did not finish.
    """

    def __init__(self, timeout: float, incomplete_jobs: Sequence[Job[Any]]) -> None:
        named = ", ".join(f"{job.name} {job.id}" for job in incomplete_jobs[:5])
        more = f" and {len(incomplete_jobs) - 5} more" if len(incomplete_jobs) > 5 else ""
        super().__init__(
            f"{len(incomplete_jobs)} job(s) still running {round(timeout, 1):g} s after the stop began: {named}{more}; "
            "they were cancelled and will run again. Raise shutdown_timeout if they need longer."
        )
        self.incomplete_jobs = tuple(incomplete_jobs)


class AggregationTimeoutError(MonqueError):
    """A search, a count or a statistic took longer than its time limit.

    Attributes:
        timeout: The limit, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(
            f"the query took longer than {timeout:g} s and was ended; narrow the filter, or raise the limit"
        )
        self.timeout = timeout


class LeaseExpiredError(MonqueError):
    """Every attempt at a job ended with its lease running out, and there are none left; it has failed.

    Attributes:
        job_id: The job's id.
        attempts: How often it was claimed.
    """

    def __init__(self, job_id: object, attempts: int) -> None:
        super().__init__(
            f"the lease of job {job_id} ran out, and it was attempt {attempts}, the last one: "
            "the processes that ran it were killed, or hung"
        )
        self.job_id = job_id
        self.attempts = attempts


class BlockedEventLoopError(MonqueError):
    """Something keeps the event loop from running, so nothing else of its process makes progress.

    Attributes:
        job: The job whose handler holds the loop; None if it is none of them.
        seconds: For how long the loop has not run.
    """

    def __init__(self, job: Job[Any] | None, seconds: float) -> None:
        culprit = "something" if job is None else f"job {job.name} {job.id}"
        super().__init__(
            f"{culprit} has blocked the event loop for {seconds:.1f} s; "
            "move its blocking calls off the loop, with asyncio.to_thread for instance"
        )
        self.job = job
        self.seconds = seconds


class BlockingCallError(MonqueError, RuntimeError):
    """A blocking call was made on a running event loop, which it would keep from running."""

    def __init__(self) -> None:
        super().__init__(
            "monque.sync.Monque blocks, and this call was made on a running event loop; use monque.Monque and await "
            "there, or make the call in a thread of its own, with asyncio.to_thread for instance"
        )


class JobTimeoutError(MonqueError, TimeoutError):
    """A run took longer than it may.

    Attributes:
        job_id: The job's id.
        timeout: How long it may take, in seconds.
    """

    def __init__(self, job_id: object, timeout: float) -> None:
        super().__init__(f"the run of job {job_id} took longer than {timeout:g} s")
        self.job_id = job_id
        self.timeout = timeout

    def __reduce__(self) -> tuple[Any, ...]:  # type: ignore[explicit-override]  # typing.override is newer
        return type(self), (self.job_id, self.timeout)  # it is raised in other processes, too


class TransactionsUnavailableError(MonqueError):
    """A worker with `transaction=True` has a job, and the server has no transactions."""

    def __init__(self) -> None:
        super().__init__(
            "transaction=True needs transactions, which a standalone server does not have: make it a replica set, of "
            "one member if need be (mongod --replSet, then rs.initiate()), or leave transaction=True out"
        )


class ChangeStreamsUnavailableError(MonqueError):
    """Jobs are to be watched, and the server has no change streams."""

    def __init__(self) -> None:
        super().__init__(
            "watching jobs needs change streams, which a standalone server does not have: make it a replica set, of "
            "one member if need be (mongod --replSet, then rs.initiate()), or ask for a page of jobs now and then"
        )


class StuckHandlerError(MonqueError):
    """A handler was told to end, and has not.

    Attributes:
        job: Its job.
        seconds: For how long it has run.
    """

    def __init__(self, job: Job[Any], seconds: float) -> None:
        super().__init__(
            f"the handler of {job.name} {job.id} was told to end and still runs, after {seconds:.1f} s; it keeps its "
            "slot. One in a thread has to look at job.should_stop, an async one must not swallow its cancellation; "
            'what cannot do either belongs into a process, run_in="process"'
        )
        self.job = job
        self.seconds = seconds


class ProcessDiedError(MonqueError):
    """The process that ran a handler ended before the handler did.

    Attributes:
        exit_code: What it ended with; None if a signal ended it.
        signal: The signal that ended it; None if it ended by itself.
    """

    def __init__(self, code: int) -> None:
        self.exit_code = code if code >= 0 else None
        self.signal = -code if code < 0 else None
        super().__init__(f"the process that ran the handler {_ending(code)}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} before the handler did; what it wrote to stderr may say why"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # real-time signals have no names
        name = f"signal {-code}"
    hint = "; the system does that when memory runs out" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


class HandlerError(MonqueError):
    """A handler raised something in a process that cannot be pickled; this is its description.

    Attributes:
        type_name: The name of the exception's class, with its module.
        message: The exception's text.
        traceback: The text of its traceback.
    """

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        super().__init__(f"{type_name}: {message}")
        self.type_name = type_name
        self.message = message
        self.traceback = traceback


class InvalidResultError(MonqueError):
    """A handler in a process returned something that cannot be pickled.

    Attributes:
        type_name: The name of the result's class.
    """

    def __init__(self, type_name: str, problem: str) -> None:
        super().__init__(
            f"the handler returned {type_name}, which cannot be brought out of its process ({problem}); "
            "return something that can be pickled, or None"
        )
        self.type_name = type_name


class ResultError(MonqueError):
    """A job has completed, but what its handler returned could not be stored.

    Attributes:
        job_id: The job's id.
        problem: Why it could not.
    """

    def __init__(self, job_id: object, problem: str) -> None:
        super().__init__(f"job {job_id} has completed, but its result could not be stored: {problem}")
        self.job_id = job_id
        self.problem = problem


class ResultTimeoutError(MonqueError, TimeoutError):
    """A job had not ended when the time was up for which it was waited for. It goes on.

    Attributes:
        job_id: The job's id.
        timeout: How long it was waited for, in seconds.
        status: What it was then; None if the database has not said so.
    """

    def __init__(self, job_id: object, timeout: float, status: str | None) -> None:
        state = "its status is not known, since the database has not answered" if status is None else f"it is {status}"
        super().__init__(f"job {job_id} has not ended within {timeout:g} s: {state}; wait again, or longer")
        self.job_id = job_id
        self.timeout = timeout
        self.status = status


class JobFailedError(MonqueError):
    """A job that was waited for has failed for good.

    Attributes:
        job: The job.
    """

    def __init__(self, job: Job[Any]) -> None:
        super().__init__(f"{job.name} {job.id} has failed: {job.fail_reason or 'no reason was given'}")
        self.job = job


class JobCancelledError(MonqueError):
    """A job that was waited for was cancelled.

    Attributes:
        job: The job.
    """

    def __init__(self, job: Job[Any]) -> None:
        why = f": {job.fail_reason}" if job.fail_reason else ""
        super().__init__(f"{job.name} {job.id} was cancelled{why}")
        self.job = job


class JobMissingError(MonqueError):
    """There is no such job, or none any more.

    Attributes:
        job_id: The id.
    """

    def __init__(self, job_id: object) -> None:
        super().__init__(f"there is no job {job_id}; it may have been deleted")
        self.job_id = job_id


class EmbeddedError(MonqueError):
    """The embedded MongoDB cannot be found, started or used; the message says what to do."""
