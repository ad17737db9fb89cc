"""Many jobs to enqueue: read one by one, checked, and put into batches to be written."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from monque._intake import NewJob, OnConflict, as_new_job
from monque.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from monque._intake import Payloads
    from monque.job import Job

Item = NewJob | Mapping[str, Any] | tuple[str, Any]
# Makes a job of a request, and says how large its payload is.
Make = Callable[[NewJob], tuple["Job[Any]", int]]

T = TypeVar("T")

# What goes to the server in one message, and is in memory at one time.
LARGEST_BATCH = 1000
LARGEST_BATCH_BYTES = 16 * 1024 * 1024
# Few enough for what is large not to be written twice at once.
_MEASURED_TOGETHER = 50


def check_jobs(source: object, *kinds: type) -> None:
    """Refuse what cannot be read item by item."""
    if not isinstance(source, kinds):
        expected = "a list or another iterable of NewJob values, mappings of their fields, or pairs (name, data)"
        raise InvalidArgumentError("jobs", source, expected)


@dataclass(slots=True)
class Batch:
    """Jobs to be written together.

    Attributes:
        jobs: The jobs.
        contending: What is to happen if their unique keys are taken, by their places, where it is not the usual.
        size: How large their payloads are, in bytes.
    """

    jobs: list[Job[Any]] = field(default_factory=list["Job[Any]"])
    contending: dict[int, OnConflict] = field(default_factory=dict[int, OnConflict])
    size: int = 0

    def add(self, request: NewJob, job: Job[Any], size: int = 0) -> None:
        """One more."""
        if request.on_conflict != "return":
            self.contending[len(self.jobs)] = request.on_conflict
        self.jobs.append(job)
        self.size += size


def make_all(items: Iterable[Item], make: Callable[[NewJob], Job[Any]], payloads: Payloads) -> Batch:
    """Make jobs of all items; of one that is wrong the error says which it is."""
    batch = Batch()
    jobs = batch.jobs
    try:
        for item in items:
            request = as_new_job(item)
            job = make(request)
            # Not by `add`, whose call is a noticeable part of what a job costs here.
            if request.on_conflict != "return":
                batch.contending[len(jobs)] = request.on_conflict
            jobs.append(job)
    except InvalidArgumentError as error:
        _locate(error, len(jobs), "nothing was written")
        raise
    for start in range(0, len(jobs), _MEASURED_TOGETHER):
        _check([job.data for job in jobs[start : start + _MEASURED_TOGETHER]], start, payloads)
    return batch


def _check(several: list[Any], start: int, payloads: Payloads) -> None:
    if payloads.fit(several):
        return
    for number, data in enumerate(several, start):
        try:
            payloads.size(data)
        except InvalidArgumentError as error:
            _locate(error, number, "nothing was written")
            raise


class Bulk:
    """A batch that is being filled, and how many jobs came before it."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._read = 0
        self._stored = 0
        self._batch = Batch()

    def batches(self, source: Iterable[Item]) -> Generator[Batch]:
        """Read jobs and give them batch by batch, each before more is read."""
        for item in source:
            yield from self._add(item)
        if self._batch.jobs:
            yield self._batch

    async def batches_of(self, source: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Batch]:
        """The same for a source that may be asynchronous."""
        async with aclosing(_each(source)) as items:
            async for item in items:
                for batch in self._add(item):
                    yield batch
        if self._batch.jobs:
            yield self._batch

    @contextmanager
    def storing(self, batch: Batch) -> Generator[None]:
        """Write a batch in this block; an error in it says how many jobs are stored."""
        try:
            yield
        except Exception as error:
            error.add_note(f"{self._stored:,} jobs of the batches before are stored")
            raise
        self._stored += len(batch.jobs)

    def _add(self, item: Item) -> Iterable[Batch]:
        """Take in one more; what is to be written before the next, if there is anything."""
        try:
            request = as_new_job(item)
            job, size = self._make(request)
        except InvalidArgumentError as error:
            _locate(error, self._read, f"{self._stored:,} jobs before it are stored")
            raise
        self._read += 1
        full: list[Batch] = []
        if self._batch.jobs and self._batch.size + size > LARGEST_BATCH_BYTES:
            full.append(self._take())
        self._batch.add(request, job, size)
        if len(self._batch.jobs) == LARGEST_BATCH:
            full.append(self._take())
        return full

    def _take(self) -> Batch:
        batch, self._batch = self._batch, Batch()
        return batch


async def _each(source: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item


def _locate(error: InvalidArgumentError, index: int, before: str) -> None:
    """Let an error say which item it is about, and what is stored."""
    error.args = (f"jobs[{index}]: {error}; {before}",)
