"""Runs jobs in every place a handler can be, with time-outs, cancels and crashes, and watches the event loop meanwhile.

    python benchmarks/handlers.py [--jobs 1000] [--uri mongodb://…] [--json FILE]

Of 100 jobs 5 hang until their time is up, 5 hang until they are cancelled from outside, 2 crash (in a process: by
SIGKILL), and all others do some work: an HTTP request on the loop, hashing a file in a thread, compressing in a process.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import zlib
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from _common import Row, percentile, scratch, server, table

from monque import Job, JobFilter, Monque, Options, Retry, Timeout
from monque.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from pymongo.asynchronous.database import AsyncDatabase

Place = Literal["loop", "thread", "process"]

_PLACES: tuple[Place, ...] = ("loop", "thread", "process")
_CONCURRENCY: dict[Place, int] = {"loop": 50, "thread": 8, "process": 4}
# Starting a process counts, too.
_LIMIT = Timeout(3.0, 15.0)
_PROBE = 0.005
_PATIENCE = 3600.0


def kind_of(number: int) -> str:
    """What is the matter with a job."""
    share = number % 100
    return "late" if share % 20 == 3 else "cancelled" if share % 20 == 11 else "crash" if share % 50 == 17 else "work"


# --- handlers ---------------------------------------------------------------------------------------------------------


async def on_the_loop(kind: str, at: str) -> None:
    """Ask a server for something."""
    if kind == "crash":
        raise RuntimeError(kind)
    if kind != "work":
        await asyncio.Event().wait()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(at))
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    if not answer.startswith(b"HTTP/1.0 200"):
        raise RuntimeError("a wrong answer")


def in_a_thread(job: Job[dict[str, str]]) -> None:
    """Hash a file."""
    kind = job.data["kind"]
    if kind == "crash":
        raise RuntimeError(kind)
    while kind != "work":
        if job.should_stop:
            raise TimeoutError
        time.sleep(0.01)
    with Path(job.data["at"]).open("rb") as file:
        hashlib.file_digest(file, "sha256")


def in_a_process(kind: str, at: str) -> None:
    """Compress a file."""
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    while kind != "work":
        time.sleep(60)
    zlib.compress(Path(at).read_bytes(), 6)


_HANDLERS: dict[Place, Callable[..., Any]] = {"loop": on_the_loop, "thread": in_a_thread, "process": in_a_process}


# --- measuring --------------------------------------------------------------------------------------------------------


class Probe:
    """Measures by how much the event loop comes too late."""

    def __init__(self) -> None:
        self.lags: list[float] = []

    async def watch(self) -> None:
        """Look every few milliseconds, for ever."""
        while True:
            due = time.perf_counter() + _PROBE
            await asyncio.sleep(_PROBE)
            self.lags.append((time.perf_counter() - due) * 1000)


@asynccontextmanager
async def _resource(place: Place) -> AsyncGenerator[str]:
    """What the handlers work on: a port or a file."""
    if place == "loop":
        async with _http() as port:
            yield str(port)
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "content"
            file.write_bytes(b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(20_000)))
            yield str(file)


@asynccontextmanager
async def _http() -> AsyncGenerator[int]:
    """A server in a thread of its own: what it does is not to show in the loop that is watched."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    ports: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.readline()
            writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
            await writer.drain()
        writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
            ports.append(listening.sockets[0].getsockname()[1])
            ready.set()
            with suppress(asyncio.CancelledError):
                await listening.serve_forever()

    serving = loop.create_task(serve())
    thread = threading.Thread(target=loop.run_until_complete, args=(serving,))
    thread.start()
    try:
        await asyncio.to_thread(ready.wait)
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        await asyncio.to_thread(thread.join)
        loop.close()


async def measure(database: AsyncDatabase[dict[str, Any]], place: Place, count: int) -> Row:
    """Run jobs in one place."""
    options = Options(collection=f"jobs_{place}", retry=Retry(max_retries=1))
    worker, outside = Monque(database, options), Monque(database, options)
    # Those that are cancelled have no time limit of their own, so that nothing else can have ended them.
    settings: dict[str, Any] = {"run_in": place, "concurrency": _CONCURRENCY[place]}
    worker.worker("limited", _HANDLERS[place], timeout=_LIMIT, **settings)
    worker.worker("endless", _HANDLERS[place], **settings)
    probe = Probe()
    async with worker, outside, _resource(place) as at:
        jobs = [_job(number, at) for number in range(count)]
        await outside.enqueue_many(jobs)
        watching = asyncio.create_task(probe.watch())
        cancelling = asyncio.create_task(_cancel(outside))
        began = time.perf_counter()
        await worker.start()
        collection = database[options.collection]
        unfinished = {"status": {"$in": ["pending", "processing"]}}
        await eventually(lambda: _is_none(collection, unfinished), timeout=_PATIENCE, poll=0.1)
        duration = time.perf_counter() - began
        watching.cancel()
        cancelling.cancel()
        await asyncio.wait([watching, cancelling])
        reasons = [document async for document in collection.find({}, {"status": 1, "failReason": 1})]
    return {"": place, **_counts(reasons), "jobs/s": round(count / duration, 1), **_lags(probe.lags)}


async def _is_none(collection: Any, query: dict[str, Any]) -> bool:  # noqa: ANN401  of any documents
    return await collection.find_one(query, {"_id": 1}) is None


def _job(number: int, at: str) -> tuple[str, dict[str, str]]:
    kind = kind_of(number)
    return "endless" if kind == "cancelled" else "limited", {"kind": kind, "at": at}


async def _cancel(outside: Monque) -> None:
    """Cancel what is at work and would never end."""
    while True:
        await outside.jobs.cancel_many(JobFilter(name="endless", status="processing"))
        await asyncio.sleep(0.25)


def _counts(documents: Sequence[dict[str, Any]]) -> Row:
    late = sum(str(each.get("failReason")).startswith("JobTimeoutError") for each in documents)
    statuses = [each["status"] for each in documents]
    failed = statuses.count("failed")
    counts = {"completed": statuses.count("completed"), "late": late, "crashed": failed - late}
    return {**counts, "cancelled": statuses.count("cancelled")}


def _lags(lags: Sequence[float]) -> Row:
    figures = {"p50": percentile(lags, 0.5), "p99": percentile(lags, 0.99), "max": max(lags)}
    return {f"lag {name}, ms": round(figure, 1) for name, figure in figures.items()}


async def _measure_all(uri: str | None, places: Sequence[Place], count: int) -> list[Row]:
    async with server(uri) as found, scratch(found) as database:
        return [await measure(database, place, count) for place in places]


def main(arguments: Sequence[str]) -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--uri")
    parser.add_argument("--only", choices=_PLACES, action="append")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args(arguments)
    # What fails on purpose is worded, as it would be anywhere, but not shown.
    logging.basicConfig(filename=os.devnull)
    rows = asyncio.run(_measure_all(asked.uri, asked.only or _PLACES, asked.jobs))
    print("\n".join(table(rows)))
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
