"""`monque demo`: real work on real files, one job per file, and an account of it from the database."""

from __future__ import annotations

import asyncio
import logging
import os
import sysconfig
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from monque import Concurrency, JobStatus, Monque, Options, Polling, Retry
from monque._store.errors import driver_errors
from monque._waiting import happens_within
from monque.cli._analysis import find_files
from monque.cli._analyst import Analyst
from monque.cli._errors import UsageError
from monque.cli._options import Json, Uri, check_uri
from monque.cli._paths import shown, to_stored
from monque.cli._place import open_place
from monque.cli._progress import Progress
from monque.cli._screen import Screen
from monque.cli._signals import Interruption
from monque.cli._summary import summarize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monque.cli._place import Place

# Measured: below this the jobs wait for the database, above it they wait for a thread.
_CONCURRENCY = 8 * (os.cpu_count() or 1)

_AtLeastOne = Annotated[int, Parameter(alias="-c", validator=validators.Number(gte=1), show_default=False)]

_WORKER = "analyse-file"
_BATCH = 250
_LOOK_AGAIN = 2.0
_OPEN = [JobStatus.PENDING.value, JobStatus.PROCESSING.value]
_NOT_THE_LIBRARY = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True, slots=True)
class Files:
    """What a run is about.

    Attributes:
        root: The directory that names are shown relative to.
        paths: The files.
    """

    root: Path
    paths: Sequence[Path]


def command(
    path: Path | None = None,
    /,
    *,
    concurrency: _AtLeastOne = _CONCURRENCY,
    json: Json = False,
    uri: Uri = None,
) -> int:
    """Analyse Python files, one job each: lines, functions, classes, hash.

    Files that cannot be read or parsed fail, are retried and end as failed. Ctrl-C stops after the running jobs; a
    second one cuts them short. The jobs stay in the database for a day, for you to look at.

    Examples:
        monque demo                        # Python's own library, one job per file
        monque demo ~/project              # the Python files of a directory
        monque demo --json > summary.json  # for scripts

    Args:
        path: A directory or a file; without it the standard library of the running Python.
        concurrency: How many jobs run at once; without it eight for each processor.
        json: Print the summary as one JSON object and nothing else on stdout.
        uri: The MongoDB to use; without it an embedded one is started.
    """
    check_uri(uri)
    files = choose_files(path)
    # What fails is shown in the summary; without a handler Python would write it over the progress.
    logging.getLogger("monque").addHandler(logging.NullHandler())
    with warnings.catch_warnings():
        # The compiler's opinion of the files is of no interest here.
        warnings.simplefilter("ignore")
        return asyncio.run(_run(files, Screen(as_json=json), concurrency=concurrency, uri=uri))


def choose_files(path: Path | None) -> Files:
    """The Python files of `path`, or of Python's own library."""
    if path is None:
        root = Path(sysconfig.get_path("stdlib"))
        return Files(root, find_files(root, leave_out=_NOT_THE_LIBRARY))
    root = path.expanduser().absolute()
    if not root.exists():
        raise UsageError(f"there is no {path}; name a directory with Python files, or a file")
    paths = find_files(root)
    if not paths:
        raise UsageError(f"there are no Python files in {path}")
    return Files(root if root.is_dir() else root.parent, paths)


async def _run(files: Files, screen: Screen, *, concurrency: int, uri: str | None) -> int:
    async with open_place(uri, screen.say) as place:
        screen.say(f"Analysing {len(files.paths):,} Python files in {files.root}, {concurrency} at a time.")
        interruption = await _work(files, screen, place, concurrency)
        interrupted = interruption.exit_code != 0
        summary = await summarize(place, files.root, files=len(files.paths), interrupted=interrupted)
        screen.show(summary)
    return interruption.exit_code or int(not summary.all_ended)


async def _work(files: Files, screen: Screen, place: Place, concurrency: int) -> Interruption:
    """Enqueue and run all jobs, or as many as there is time for before a signal."""
    monque = Monque(place.database, _options(place.collection, concurrency))
    monque.worker(_WORKER, Analyst(place.results).handle)
    news = asyncio.Event()
    progress = Progress(len(files.paths), label=lambda job: shown(job.data["path"], files.root), on_end=news.set)
    progress.follow(monque)
    monque.on("job:error", lambda event: screen.warn(f"{type(event.error).__name__}: {event.error}"))
    with _interruption(screen, monque, news) as interruption:
        async with monque:
            with screen.showing(progress):
                await monque.start()
                await enqueue(monque, files.paths, interruption)
                await _until_ended(place, news, interruption)
                await monque.stop()
    return interruption


def _options(collection: str, concurrency: int) -> Options:
    return Options(
        collection=collection,
        concurrency=Concurrency(per_worker=concurrency),
        retry=Retry(max_retries=3, base=0.2),
        polling=Polling(interval=0.2),
    )


def _interruption(screen: Screen, monque: Monque, news: asyncio.Event) -> Interruption:
    ending: list[asyncio.Task[None]] = []

    def stop() -> None:
        screen.warn("Stopping: the running jobs finish. Press Ctrl-C again to cut them short.")
        news.set()

    def hurry() -> None:
        screen.warn("Cutting the running jobs short; they go back to pending.")
        ending.append(asyncio.create_task(monque.stop(hurry=True)))

    return Interruption(stop=stop, hurry=hurry)


async def enqueue(monque: Monque, paths: Sequence[Path], interruption: Interruption) -> None:
    """Enqueue a job for each file, batch by batch, until there is a signal."""
    for start in range(0, len(paths), _BATCH):
        if interruption.begun.is_set():
            return
        await monque.enqueue_many((_WORKER, {"path": to_stored(path)}) for path in paths[start : start + _BATCH])


async def _until_ended(place: Place, news: asyncio.Event, interruption: Interruption) -> None:
    """Wait until no job is open any more, or for a signal. Events are hints; the database has the say."""
    while not interruption.begun.is_set() and await _is_any_open(place):
        await happens_within(news, _LOOK_AGAIN)
        news.clear()


async def _is_any_open(place: Place) -> bool:
    with driver_errors("look for open jobs"):
        return await place.jobs.find_one({"status": {"$in": _OPEN}}, {"_id": 1}) is not None
