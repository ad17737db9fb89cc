"""`EmbeddedMongoDB`: a MongoDB server as a context manager."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from monque.embedded import _directory, _keeper
from monque.embedded._deadline import Abandoned, Deadline
from monque.embedded._errors import StartTimeoutError
from monque.embedded._replica_set import become_primary, uri_of
from monque.embedded._seat import Seat, Wish, end_of_log, take_seat
from monque.errors import ConfigurationError, EmbeddedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

_POLL = 0.005

logger = logging.getLogger("monque.embedded")


def _keep_quiet(_: str) -> None:
    """Report no progress."""


class EmbeddedMongoDB:
    """A MongoDB server of this machine, started when the first process needs it and stopped with the last.

    All objects that name the same data directory, in whatever processes of this machine, share one server.

    Args:
        data_directory: Where the data are kept; by default in the data directory of the user.
        ephemeral: Use a server of its own, in a throw-away directory that is deleted at the end.
        parameters: `--setParameter` options of mongod.
        progress: Called with a line of text when something is done that takes a while.
        start_timeout: How long a start may take, in seconds.

    Example:
        >>> with EmbeddedMongoDB(ephemeral=True) as server:
        ...     server.uri
        'mongodb://127.0.0.1:.../?replicaSet=monque'
    """

    def __init__(
        self,
        data_directory: str | os.PathLike[str] | None = None,
        *,
        ephemeral: bool = False,
        parameters: Mapping[str, str] | None = None,
        progress: Callable[[str], None] | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        if ephemeral and data_directory is not None:
            raise ConfigurationError("data_directory", data_directory, "none beside ephemeral=True")
        self._given = None if data_directory is None else Path(data_directory)
        self._ephemeral = ephemeral
        self._parameters = dict(parameters or {})
        self._progress = progress or _keep_quiet
        self._timeout = start_timeout
        self._guard = _keeper.guard_for(sys.platform)
        self._changing = threading.Lock()
        self._abandoned = threading.Event()
        self._stay: Stay | None = None

    @property
    def uri(self) -> str:
        """The connection string. The server behind it can be written to at once."""
        return uri_of(self._running().seat.port)

    @property
    def data_directory(self) -> Path:
        """The directory that holds the data."""
        return self._running().wish.directory

    @property
    def log_path(self) -> Path:
        """The log of mongod."""
        return self.data_directory / _keeper.MONGOD_LOG

    def _running(self) -> Stay:
        if self._stay is None or not self._stay.is_ours():
            raise EmbeddedError("this server is not started; use it within `with` or call start() first")
        return self._stay

    def start(self) -> None:
        """Start or join the server; nothing happens when that is done already.

        Raises:
            EmbeddedError: It cannot be started; the subclasses tell the reasons apart.

        Example:
            >>> server = EmbeddedMongoDB(ephemeral=True)
            >>> server.start()
            >>> server.stop()
        """
        with self._changing:
            if self._stay is None or not self._stay.is_ours():
                self._stay = self._begin()

    def _begin(self) -> Stay:
        _directory.refuse_windows(sys.platform)
        if self._ephemeral:
            return self._begin_in_throw_away()
        directory = self._given or _directory.default_directory(sys.platform, os.environ)
        _directory.prepare(directory)
        return self._begin_in(directory.absolute())

    def _begin_in_throw_away(self) -> Stay:
        directory, lock = _directory.new_ephemeral()
        try:
            return self._begin_in(directory, lock)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def _begin_in(self, directory: Path, lock: IO[bytes] | None = None) -> Stay:
        wish = Wish(directory, self._parameters, self._ephemeral, self._progress, self._guard)
        return Stay(wish, lock, self._timeout, self._abandoned)

    def stop(self) -> None:
        """End the use of the server; nothing happens when that is done already.

        When nobody else uses it, it is stopped, and gone when this returns.

        Example:
            >>> server = EmbeddedMongoDB(ephemeral=True)
            >>> server.start()
            >>> server.stop()
        """
        with self._changing:
            stay, self._stay = self._stay, None
            if stay is not None and stay.is_ours():
                stay.end()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            await _in_thread(self.start, self._abandoned.set)
        except asyncio.CancelledError:
            await _in_thread(self.stop)
            self._abandoned.clear()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _in_thread(self.stop)


class Stay:
    """The time during which one object uses a server, over all the keepers it may take."""

    def __init__(self, wish: Wish, lock: IO[bytes] | None, timeout: float, abandoned: threading.Event) -> None:
        self.wish = wish
        self._pid = os.getpid()
        self._timeout = timeout
        self._leaving = threading.Event()
        self.seat = self._sit_down(lock, abandoned)
        self._thread = threading.Thread(target=self._remain, name="monque-embedded", daemon=True)
        self._thread.start()

    def is_ours(self) -> bool:
        """Whether this process began it; a forked child has no part in it."""
        return self._pid == os.getpid()

    def _sit_down(self, lock: IO[bytes] | None, abandoned: threading.Event) -> Seat:
        deadline = Deadline(self._timeout, abandoned)
        try:
            while True:
                seat = take_seat(self.wish, lock, deadline)
                lock = None
                with seat.closed_on_error():
                    if become_primary(seat.port, partial(seat.listen, _POLL, deadline)):
                        return seat
                seat.close()
        except StartTimeoutError as error:
            raise StartTimeoutError(f"{error}{end_of_log(self.wish.directory)}") from None

    def _remain(self) -> None:
        """Take the next seat whenever a keeper has ended for no reason of ours: somebody killed it."""
        while not self._leaving.is_set():
            self.seat.wait_for_end()
            if not self._leaving.is_set():
                self._move()

    def _move(self) -> None:
        self.seat.close()
        try:
            _directory.prepare(self.wish.directory)
            self.seat = self._sit_down(None, self._leaving)
        except Abandoned:
            return
        except EmbeddedError as error:
            logger.error("the embedded MongoDB has ended and cannot be started again: %s", error)
            self._leaving.set()

    def end(self) -> None:
        """Leave; when this was the last user, the server is gone when this returns."""
        self._leaving.set()
        self.seat.say_goodbye()
        self._thread.join()
        self.seat.say_goodbye()  # to a keeper that was found only meanwhile
        self.seat.wait_for_end()
        self.seat.close()


async def _in_thread(function: Callable[[], None], on_cancel: Callable[[], object] | None = None) -> None:
    """Run `function` in a thread of its own and wait for its end, even if cancelled meanwhile."""
    executor = ThreadPoolExecutor(1)
    running = asyncio.get_running_loop().run_in_executor(executor, function)
    executor.shutdown(wait=False)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
            if on_cancel:
                on_cancel()
    if cancelled:
        running.exception()  # nobody is interested any more
        raise cancelled
    running.result()
