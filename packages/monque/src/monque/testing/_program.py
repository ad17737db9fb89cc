"""Processes of a test's own, to be killed and frozen."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from monque._connection import URI_VARIABLE
from monque.errors import InvalidArgumentError, MonqueError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self


class Program:
    """A Python program in a process of its own, from the beginning of the block to its end at the latest.

    What it leaves behind is what a crash leaves behind: `expire_leases` spares a test the wait for its leases.

    Args:
        *arguments: What comes after `python` on the command line: a file and what it takes, `"-m"` and a module, or
            `"-c"` and the source.
        uri: The URI that `Monque()` uses there, instead of `$MONQUE_URI`; the fixture `monque_uri`, say.
        environment: Environment variables beside those of this process.
        directory: The directory it runs in, instead of this process'.

    Raises:
        InvalidArgumentError: There are no arguments.

    Example:
        >>> import asyncio
        >>> from monque.testing import eventually
        >>> async def main() -> None:
        ...     with Program("-c", "import time; print('ready', flush=True); time.sleep(60)") as program:
        ...         await eventually(lambda: program.has_said("ready"))
        ...         program.kill()
        ...         print(program.exit_code)
        >>> asyncio.run(main())
        -9
    """

    def __init__(
        self,
        *arguments: str | os.PathLike[str],
        uri: str | None = None,
        environment: Mapping[str, str] | None = None,
        directory: str | os.PathLike[str] | None = None,
    ) -> None:
        if not arguments:
            raise InvalidArgumentError("arguments", arguments, 'a file, "-m" and a module, or "-c" and the source')
        self._arguments = [os.fspath(argument) for argument in arguments]
        own = {} if uri is None else {URI_VARIABLE: uri}
        self._environment = {**os.environ, **own, **(environment or {})}
        self._directory = directory
        self._popen: subprocess.Popen[bytes] | None = None
        self._files = ""
        self._said: dict[str, str] | None = None

    def __enter__(self) -> Self:
        self._files = tempfile.mkdtemp(prefix="monque-program-")
        with self._file("output").open("wb") as output, self._file("errors").open("wb") as errors:
            self._popen = subprocess.Popen(  # noqa: S603  what the test says
                [sys.executable, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                env=self._environment,
                cwd=self._directory,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        with suppress(BrokenPipeError):  # it did not read to the end
            cast("IO[bytes]", self._process.stdin).close()
        self._said = {name: self._read(name) for name in ("output", "errors")}
        shutil.rmtree(self._files)

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise MonqueError("the program does not run yet: use `with Program(…) as program:`")
        return self._popen

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """What it ended with: below 0 the signal that ended it; None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has written to standard output so far; Python holds that back unless told to `flush`."""
        return self._read("output")

    @property
    def errors(self) -> str:
        """What it has written to standard error so far, a traceback perhaps."""
        return self._read("errors")

    def has_said(self, text: str) -> bool:
        """Whether it has written this to standard output, for `eventually`.

        Args:
            text: What it is to say.

        Raises:
            AssertionError: It has ended without; the message shows what it said instead.
        """
        ended = self.exit_code  # asked first: what it said before its end is there after it
        if text in self.output:
            return True
        if ended is not None:
            raise AssertionError(
                f"the program ended with {ended} without having said {text!r}; it said:\n{self.output}{self.errors}"
            )
        return False

    def tell(self, line: str) -> None:
        """Write a line to its standard input.

        Args:
            line: What to write; its end comes by itself.
        """
        stdin = cast("IO[bytes]", self._process.stdin)
        stdin.write(f"{line}\n".encode())
        stdin.flush()

    def kill(self) -> None:
        """End it at once, as a power failure would: SIGKILL."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Let it stand still, as a paused virtual machine would: SIGSTOP. Its leases run out, and it does not know."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on: SIGCONT."""
        self.send(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end in good order, and do not wait for that: SIGTERM."""
        self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs.

        Args:
            number: The signal.
        """
        self._process.send_signal(number)

    def _file(self, name: str) -> Path:
        return Path(self._files, name)

    def _read(self, name: str) -> str:
        return self._file(name).read_text("utf-8", "replace") if self._said is None else self._said[name]
