"""What has been enqueued, and what has not; who is wrong about that is shown what there is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from monque._names import check_job_name, check_unique_key
from monque.errors import InvalidArgumentError, JobDocumentError
from monque.job import Job, JobStatus, from_document
from monque.options import Duration, is_duration, seconds
from monque.testing._matching import Due, Expected, described
from monque.worker import AnyWorker, Worker

if TYPE_CHECKING:
    from collections.abc import Mapping

    from monque._monque import Monque

Status = JobStatus | str | Collection[JobStatus | str]

_POLL = 0.01
_MOST_SHOWN = 10
# A test that fails among more jobs than this is not shown the closest of all.
_MOST_READ = 1000


async def assert_enqueued(  # noqa: PLR0913  each is something users say
    monque: Monque,
    name: str | AnyWorker | None = None,
    data: Any = None,  # noqa: ANN401  whatever BSON can hold, and functions
    *,
    unique_key: str | None = None,
    due: Due | None = None,
    status: Status = JobStatus.PENDING,
    count: int | None = None,
    timeout: Duration = 0,
) -> list[Job[Any]]:
    """Assert that there is such a job, enqueued here or by whoever else uses the collection.

    Args:
        monque: The connected instance.
        name: The job's name, or its worker.
        data: Its data. Of a mapping only the keys that are given are looked at, at every level; a function is called
            with the value in its place and says whether that is right; anything else has to be equal, once it has been
            through the database.
        unique_key: Its unique key.
        due: When it is due, as an aware datetime; or how long after it was enqueued, as a timedelta or in seconds;
            within a second. Or a function of the datetime.
        status: Its status, or a collection of those it may have: what is not pending any more is not enqueued.
        count: How many there are, if not just any number.
        timeout: For how long to wait until that is so, as a timedelta or in seconds.

    Returns:
        The jobs, in the order in which they were enqueued.

    Raises:
        AssertionError: There is none, or another number of them; the message shows the jobs there are, those that come
            closest first.
        InvalidArgumentError: An argument makes no sense.
        ConnectionError: Not connected.

    Example:
        >>> import asyncio
        >>> from monque import Monque
        >>> async def main() -> None:
        ...     async with Monque() as monque:
        ...         await monque.enqueue("send-email", {"to": "ada@example.org", "subject": "Hello"}, delay=60)
        ...         [job] = await assert_enqueued(monque, "send-email", {"to": "ada@example.org"}, due=60)
        ...         print(job.data["subject"])
        >>> asyncio.run(main())
        Hello
    """
    expected = _expected(name, data, unique_key=unique_key, due=due, status=status)
    number = _checked_count(count)
    deadline = time.monotonic() + _checked_timeout(timeout)
    while True:
        found = await _matching(monque, expected)
        if (found and number is None) or len(found) == number:
            return found
        if time.monotonic() >= deadline:
            wanted = f"no {expected}" if number is None else f"expected {number} of: {expected}; there are {len(found)}"
            raise AssertionError(f"{wanted}\n{await _listing(monque, expected)}")
        await asyncio.sleep(_POLL)


async def refute_enqueued(  # noqa: PLR0913  each is something users say
    monque: Monque,
    name: str | AnyWorker | None = None,
    data: Any = None,  # noqa: ANN401  whatever BSON can hold, and functions
    *,
    unique_key: str | None = None,
    due: Due | None = None,
    status: Status = JobStatus.PENDING,
    timeout: Duration = 0,
) -> None:
    """Assert that there is no such job.

    Args:
        monque: As for `assert_enqueued`.
        name: Likewise.
        data: Likewise.
        unique_key: Likewise.
        due: Likewise.
        status: Likewise.
        timeout: For how long there must not be one, as a timedelta or in seconds.

    Raises:
        AssertionError: There is one; the message shows the jobs there are, those that come closest first.
        InvalidArgumentError: An argument makes no sense.
        ConnectionError: Not connected.

    Example:
        >>> import asyncio
        >>> from monque import Monque
        >>> async def main() -> None:
        ...     async with Monque() as monque:
        ...         await refute_enqueued(monque, "send-email")
        >>> asyncio.run(main())
    """
    expected = _expected(name, data, unique_key=unique_key, due=due, status=status)
    deadline = time.monotonic() + _checked_timeout(timeout)
    while True:
        found = await _matching(monque, expected)
        if found:
            raise AssertionError(f"expected none, found {len(found)}: {expected}\n{await _listing(monque, expected)}")
        if time.monotonic() >= deadline:
            return
        await asyncio.sleep(_POLL)


def _expected(name: object, data: object, *, unique_key: object, due: object, status: Status) -> Expected:
    if isinstance(name, Worker):
        name = cast("AnyWorker", name).name
    if name is not None:
        check_job_name(name)
    if unique_key is not None:
        check_unique_key(unique_key)
    is_aware = isinstance(due, datetime) and due.utcoffset() is not None
    if due is not None and not (is_aware or is_duration(due) or callable(due)):
        raise InvalidArgumentError("due", due, "an aware datetime, a timedelta, a number of seconds, or a function")
    checked: Any = {"name": name, "unique_key": unique_key, "due": due}
    return Expected(**checked, data=data, statuses=_statuses(status))


def _statuses(status: Status) -> list[JobStatus]:
    try:
        return [JobStatus(one) for one in ([status] if isinstance(status, str) else status)]
    except (TypeError, ValueError):
        expected = "a status, or a collection of them: " + ", ".join(JobStatus)
        raise InvalidArgumentError("status", status, expected) from None


def _checked_count(count: object) -> int | None:
    if count is None or (isinstance(count, int) and not isinstance(count, bool) and count >= 0):
        return count
    raise InvalidArgumentError("count", count, "a whole number, not below 0")


def _checked_timeout(timeout: object) -> float:
    if is_duration(timeout) and seconds(timeout) >= 0:
        return seconds(timeout)
    raise InvalidArgumentError("timeout", timeout, "a timedelta or a number of seconds, 0 to 1,000 years")


async def _matching(monque: Monque, expected: Expected) -> list[Job[Any]]:
    query: dict[str, Any] = {"status": {"$in": [status.value for status in expected.statuses]}}
    if expected.name is not None:
        query["name"] = expected.name
    collection = monque._connection().collection
    jobs = [_read(document) async for document in collection.find(query, sort=[("_id", 1)])]
    return [job for job in jobs if isinstance(job, Job) and not expected.differences(job)]


def _read(document: Mapping[str, Any]) -> Job[Any] | JobDocumentError:
    try:
        return from_document(document)
    except JobDocumentError as error:
        return error


async def _listing(monque: Monque, expected: Expected) -> str:
    """The jobs there are, those that come closest first."""
    collection = monque._connection().collection
    number = await collection.count_documents({})
    if not number:
        return f"There are no jobs in {collection.full_name}."
    documents = await collection.find({}, sort=[("_id", -1)], limit=_MOST_READ).to_list()
    lines = sorted(_line(_read(document), expected) for document in documents)
    shown = [line for _, line in lines[:_MOST_SHOWN]]
    more = [f"  … and {number - len(shown)} more jobs"] if number > len(shown) else []
    return "\n".join([f"There are {number} jobs in {collection.full_name}, the closest first:", *shown, *more])


def _line(job: Job[Any] | JobDocumentError, expected: Expected) -> tuple[int, str]:
    """A job in a line or two, and how far it is from what is expected."""
    if isinstance(job, JobDocumentError):
        return 1000, f"  {job}"
    different = expected.differences(job)
    why = [f"      but {'; '.join(different)}"] if different else []
    # Jobs of the same name come first, however much else there is about them.
    distance = len(different) + 100 * (expected.name not in (None, job.name))
    return distance, "\n".join([f"  {described(job)}", *why])
