"""Starting processes of the bench, and talking to them."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from monque.cli._bench import child as child_program
from monque.cli._bench import standalone as standalone_program
from monque.cli._bench.errors import BenchError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncGenerator

# One line can hold thousands of figures.
_LONGEST_LINE = 2**26
# For a process to start, to warm up, or to end.
PATIENCE = 60.0

WORKER = child_program.__name__
STANDALONE = standalone_program.__name__


class Child:
    """A process, seen from its parent.

    Args:
        process: The process.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._input = cast("asyncio.StreamWriter", process.stdin)
        self._output = cast("asyncio.StreamReader", process.stdout)

    def say(self, text: str) -> None:
        """Send it a line."""
        self._input.write(text.encode() + b"\n")

    async def hear(self, fact: str, *, patience: float | None = None) -> Any:  # noqa: ANN401  whatever it tells
        """Wait for it to tell about `fact`.

        Raises:
            BenchError: It has failed, or says nothing.
        """
        try:
            async with asyncio.timeout(patience or PATIENCE):
                line = await self._output.readline()
        except TimeoutError as error:
            raise BenchError("a process of the bench says nothing") from error
        told: dict[str, Any] = json.loads(line or "{}")
        if fact not in told:
            raise BenchError(f"a process of the bench failed: {told.get('error', 'it has ended')}")
        return told[fact]

    def check(self) -> None:
        """See that it is still there.

        Raises:
            BenchError: It is not.
        """
        if self._process.returncode is not None:
            raise BenchError("a process of the bench has ended before its time")

    async def end(self) -> None:
        """Let it end, or else make it."""
        self._input.close()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._process.wait()
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()


@asynccontextmanager
async def child(module: str, **task: object) -> AsyncGenerator[Child]:
    """A process that lasts as long as the block.

    Args:
        module: What it runs.
        task: What it is told: through a pipe, since command lines can be seen and URIs hold passwords.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
        # Ctrl-C is for the parent, which knows what to do about its children.
        start_new_session=True,
    )
    made = Child(process)
    try:
        made.say(json.dumps(task))
        yield made
    finally:
        await made.end()
