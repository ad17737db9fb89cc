"""Starting a peer's programs, and asking them what they took."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from _environments import HERE

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from _environments import Environment

_PAUSE = 0.1


class MeasuringError(Exception):
    """A program did not do what it was asked to."""


class Ground(NamedTuple):
    """Where one measurement happens: a peer's environment, a server, a database of this measurement's own."""

    environment: Environment
    uri: str
    database: str
    variant: str
    # How long a program may take for anything.
    seconds: float


class Program:
    """A program at the other end of two pipes."""

    def __init__(self, process: Process, ground: Ground) -> None:
        self._process = process
        self._ground = ground

    async def ready(self) -> dict[str, str]:
        """The versions that run there."""
        versions: dict[str, str] = (await self._answer())["ready"]
        return versions

    async def go(self) -> dict[str, Any]:
        self.start()
        return await self._answer()

    def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    async def result(self) -> dict[str, Any]:
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        """The next line that is ours; what else a library prints is its own business."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(self._ground.seconds):
                while line := await self._process.stdout.readline():
                    if line.startswith(b"{"):
                        answer: dict[str, Any] = json.loads(line)
                        return answer
        except TimeoutError as error:
            raise MeasuringError(f"no answer within {self._ground.seconds:.0f} s") from error
        raise MeasuringError(f"the program ended: {_last_words(self._ground)}")


@asynccontextmanager
async def program(ground: Ground, role: str, jobs: int, pause: float = _PAUSE) -> AsyncGenerator[Program]:
    """A program that is ended, with all its children, when the block is left."""
    order = (role, ground.uri, ground.database, str(jobs), str(pause), ground.variant)
    with _errors(ground).open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *ground.environment.command,
            *order,
            cwd=ground.environment.folder,
            env={**os.environ, "PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    try:
        yield Program(process, ground)
    finally:
        _end(process)
        await process.wait()


def _end(process: Process) -> None:
    """It has a session of its own, so its group is it and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _errors(ground: Ground) -> Path:
    return ground.environment.folder / "errors.txt"


def _last_words(ground: Ground) -> str:
    return _errors(ground).read_text(errors="replace").strip()[-300:]


class Rates(NamedTuple):
    """Jobs per second: enqueued by one process, then worked off by another."""

    enqueue: float
    drain: float
    versions: dict[str, str]


async def throughput(ground: Ground, jobs: int) -> Rates:
    async with program(ground, "enqueue", jobs) as producer:
        await producer.ready()
        enqueued = await producer.go()
    async with program(ground, "work", jobs) as worker:
        versions = await worker.ready()
        drained = await worker.go()
    return Rates(jobs / enqueued["seconds"], jobs / drained["seconds"], versions)


async def lateness(ground: Ground, jobs: int) -> list[float]:
    """Milliseconds from each `enqueue` call until the handler was entered in the other process."""
    async with program(ground, "work", jobs) as worker, program(ground, "pace", jobs) as producer:
        await worker.ready()
        await producer.ready()
        worker.start()
        producer.start()
        return [seconds * 1000 for seconds in (await worker.result())["late"]]
