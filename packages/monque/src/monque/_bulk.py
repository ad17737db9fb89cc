"""Many jobs to enqueue: read one by one, checked, and put into batches to be written."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from monque._intake import NewJob, as_new_job
from monque.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from monque.job import Job

Item = NewJob | Mapping[str, Any] | tuple[str, Any]
# Makes a job of a request, and says how large its payload is.
Make = Callable[[NewJob], tuple["Job[Any]", int]]

T = TypeVar("T")

# What goes to the server in one message, and is in memory at one time.
LARGEST_BATCH = 1000
LARGEST_BATCH_BYTES = 16 * 1024 * 1024


def check_jobs(source: object, *kinds: type) -> None:
    """Refuse what cannot be read item by item."""
    if not isinstance(source, kinds):
        expected = "a list or another iterable of NewJob values, mappings of their fields, or pairs (name, data)"
        raise InvalidArgumentError("jobs", source, expected)


def make_all(items: Iterable[Item], make: Make) -> list[Job[Any]]:
    """Make jobs of all items; of one that is wrong the error says which it is."""
    jobs: list[Job[Any]] = []
    try:
        for item in items:
            jobs.append(make(as_new_job(item))[0])  # noqa: PERF401  how many there are says which one is wrong
    except InvalidArgumentError as error:
        _locate(error, len(jobs), "nothing was written")
        raise
    return jobs


class Bulk:
    """A batch that is being filled, and how many jobs came before it."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._read = 0
        self._bytes = 0
        self._batch: list[Job[Any]] = []
        self._stored = 0

    def batches(self, source: Iterable[Item]) -> Generator[list[Job[Any]]]:
        """Read jobs and give them batch by batch, each before more is read."""
        for item in source:
            yield from self._add(item)
        if self._batch:
            yield self._batch

    async def batches_of(self, source: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[list[Job[Any]]]:
        """The same for a source that may be asynchronous."""
        async with aclosing(_each(source)) as items:
            async for item in items:
                for batch in self._add(item):
                    yield batch
        if self._batch:
            yield self._batch

    @contextmanager
    def storing(self, batch: list[Job[Any]]) -> Generator[None]:
        """Write a batch in this block; an error in it says how many jobs are stored."""
        try:
            yield
        except Exception as error:
            error.add_note(f"{self._stored:,} jobs of the batches before are stored")
            raise
        self._stored += len(batch)

    def _add(self, item: Item) -> Iterable[list[Job[Any]]]:
        """Take in one more; what is to be written before the next, if there is anything."""
        try:
            job, size = self._make(as_new_job(item))
        except InvalidArgumentError as error:
            _locate(error, self._read, f"{self._stored:,} jobs before it are stored")
            raise
        self._read += 1
        full: list[list[Job[Any]]] = []
        if self._batch and self._bytes + size > LARGEST_BATCH_BYTES:
            full.append(self._take())
        self._batch.append(job)
        self._bytes += size
        if len(self._batch) == LARGEST_BATCH:
            full.append(self._take())
        return full

    def _take(self) -> list[Job[Any]]:
        batch, self._batch, self._bytes = self._batch, [], 0
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
