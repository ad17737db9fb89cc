"""What the driver's errors mean, and where they become ours."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pymongo.errors import ExecutionTimeout, PyMongoError

from monque._store.indexes import UNIQUE_FIELDS
from monque.errors import AggregationTimeoutError, ConnectionError, InvalidArgumentError, UniqueKeyConflictError
from monque.options import is_duration, seconds

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from bson import ObjectId
    from pymongo.asynchronous.client_session import AsyncClientSession

    from monque.options import Duration

_DUPLICATE_KEY = 11000
# The user lacks a privilege.
NOT_ALLOWED = 13
# A document would become too large.
TOO_LARGE = (10334, 17419)
INDEX_MISSING = "an index that Monque needs is missing; `monque doctor --fix-indexes` creates it"


def is_key_taken(failure: Mapping[str, Any] | None) -> bool:
    """Whether a write was refused because another job has the unique key, and not by an index of the user's own."""
    return failure is not None and failure["code"] == _DUPLICATE_KEY and list(failure["keyPattern"]) == UNIQUE_FIELDS


def is_index_missing(error: PyMongoError) -> bool:
    """Whether a command names an index that is not there, or not built yet. There is no code for just that."""
    return "hint provided does not correspond to an existing index" in str(error)


def key_conflict(job_id: ObjectId, key: Mapping[str, Any]) -> UniqueKeyConflictError:
    """That a job cannot be retried because of its unique key."""
    problem = f"cannot retry job {job_id} while another one has it; wait for that one, or cancel it first"
    return UniqueKeyConflictError(job_id, str(key.get("name")), str(key.get("uniqueKey")), problem)


def in_short(error: PyMongoError) -> str:
    """What the driver says, without its account of the whole replica set; that is in the cause."""
    return str(error).partition(", Topology Description:")[0]


def driver_errors(action: str, session: AsyncClientSession | None = None) -> AbstractContextManager[None]:
    """Turn the driver's errors into ours; those in a session stay, since `with_transaction` goes by their labels."""
    return _DriverErrors(action, session)


class _DriverErrors:
    # No generator: each job that is enqueued goes through this.
    __slots__ = ("_action", "_session")

    def __init__(self, action: str, session: AsyncClientSession | None) -> None:
        self._action = action
        self._session = session

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is None and isinstance(error, PyMongoError):
            problem = INDEX_MISSING if is_index_missing(error) else in_short(error)
            raise ConnectionError(f"cannot {self._action}: {problem}") from error


class Deadline:
    """A time by which several commands have to be done: the server ends the one that takes too long."""

    def __init__(self, timeout: Duration) -> None:
        if not is_duration(timeout) or seconds(timeout) <= 0:
            raise InvalidArgumentError("timeout", timeout, "a timedelta or a number of seconds, more than 0")
        self._timeout = seconds(timeout)
        self._end = time.monotonic() + self._timeout

    def left(self) -> int:
        """How many milliseconds the next command may take."""
        # 0 would mean that there is no limit, and the server knows none beyond 31 bits.
        return min(max(round((self._end - time.monotonic()) * 1000), 1), 2**31 - 1)

    @contextmanager
    def errors(self, action: str) -> Generator[None]:
        """Turn the driver's errors into ours."""
        with driver_errors(action):
            try:
                yield
            except ExecutionTimeout as error:
                raise AggregationTimeoutError(self._timeout) from error
