"""What an instance with nothing to do costs: commands per minute, counted at the server.

What the driver does by itself to watch the server is counted, too, with a client that does nothing else. A server that
is given with --uri should have no other users, since their commands would be counted as well.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from _common import Document, Row, parser, report, scratch, server
from pymongo import AsyncMongoClient

from monque import Job, Monque, Options
from monque.embedded import find_mongod

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pymongo.asynchronous.database import AsyncDatabase

# By which the counting itself is done.
_OWN = "serverStatus"
# How long an instance gets to be done with what it does at start.
_SETTLE_DOWN = 2.0


@asynccontextmanager
async def standalone() -> AsyncGenerator[str]:
    """A server without change streams."""
    with tempfile.TemporaryDirectory(prefix="monque-benchmark-") as directory, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        command = [str(find_mongod()), "--dbpath", directory, "--bind_ip", "127.0.0.1", "--port", str(port)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        try:
            yield f"mongodb://127.0.0.1:{port}/"
        finally:
            process.terminate()
            await process.wait()


async def commands(uri: str) -> dict[str, int]:
    """How many of each command the server has answered since it started."""
    async with AsyncMongoClient[Document](uri) as client:
        status = await client.admin.command(_OWN)
    counters: dict[str, Any] = status["metrics"]["commands"]
    return {name: counter["total"] for name, counter in counters.items() if isinstance(counter, dict)}


async def per_minute(uri: str, seconds: float) -> dict[str, float]:
    """How many of each it answers in a minute from now on; counting costs a connection of its own at both ends."""
    before = await commands(uri)
    await asyncio.sleep(seconds)
    after = await commands(uri)
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count * 60 / seconds for name, count in grown.items() if count}


async def at_rest(uri: str, seconds: float) -> dict[str, float]:
    """What a client costs that only watches the server."""
    async with AsyncMongoClient[Document](uri) as client:
        await client.admin.command("ping")
        await asyncio.sleep(min(_SETTLE_DOWN, seconds))
        return await per_minute(uri, seconds)


async def idle_instance(database: AsyncDatabase[Document], uri: str, seconds: float, workers: int) -> dict[str, float]:
    async def do_nothing(job: Job[Any]) -> None:
        pass

    monque = Monque(database, Options())
    for number in range(workers):
        monque.worker(f"job-{number}", do_nothing)
    async with monque:
        await monque.start()
        await asyncio.sleep(min(_SETTLE_DOWN, seconds))
        return await per_minute(uri, seconds)


async def compare(uri: str, what: str, seconds: float, workers: int) -> list[Row]:
    alone = await at_rest(uri, seconds)
    async with scratch(uri) as database:
        # The client of the instance watches the server just as the one alone does.
        with_instance = await idle_instance(database, uri, seconds, workers)
    names = sorted(name for name in alone | with_instance if name != _OWN)
    rows: list[Row] = [_row(f"{what}: {name}", alone.get(name, 0), with_instance.get(name, 0)) for name in names]
    sums = [sum(counts.get(name, 0) for name in names) for counts in (alone, with_instance)]
    return [*rows, _row(f"{what}: all", *sums)]


def _row(what: str, alone: float, with_instance: float) -> Row:
    counts = {"driver alone": alone, "with monque": with_instance, "monque": with_instance - alone}
    return {"per minute": what, **{name: round(count, 1) for name, count in counts.items()}}


async def run(uri: str | None, *, seconds: float, workers: int) -> list[Row]:
    async with server(uri) as address:
        streaming = await compare(address, "change stream", seconds, workers)
    async with standalone() as address:
        polling = await compare(address, "polling", seconds, workers)
    return streaming + polling


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=120, help="for how long to count, four times")
    options.add_argument("--workers", type=int, default=50)
    chosen = options.parse_args()
    settings = {"seconds": chosen.seconds, "workers": chosen.workers}
    report("idle", asyncio.run(run(chosen.uri, **settings)), as_json=chosen.json, **settings)


if __name__ == "__main__":
    main()
