"""A user's connection to the keeper of a data directory, and how to get one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from monque.embedded import _directory, _keeper
from monque.embedded._binary import find_mongod, loader_output
from monque.embedded._errors import (
    MongodStartError,
    directory_error,
    is_loader_failure,
    libraries_error,
    start_error,
)
from monque.embedded._fork import closed_in_children
from monque.errors import EmbeddedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from monque.embedded._deadline import Deadline

_POLL = 0.05
_ATTEMPTS = 3


class Wish(NamedTuple):
    """What kind of server is wanted, and where."""

    directory: Path
    parameters: Mapping[str, str]
    ephemeral: bool
    progress: Callable[[str], None]
    guard: str


class Seat:
    """One connection to a keeper: while it is open, the server runs."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.port = 0
        self.parameters: Mapping[str, str] = {}

    def wait_for_welcome(self, directory: Path, deadline: Deadline) -> bool:
        """Wait until the server is up; false when the keeper ended without a word."""
        self._connection.settimeout(_POLL)
        line = b""
        while not line.endswith(b"\n"):
            deadline.check()
            with suppress(TimeoutError):
                chunk = self._receive()
                if not chunk:
                    return False
                line += chunk
        self._connection.settimeout(None)
        self._understand(directory, json.loads(line))
        return True

    def _understand(self, directory: Path, message: dict[str, Any]) -> None:
        if "port" not in message:
            raise start_error(directory, message["code"], message["log"])
        self.port = message["port"]
        self.parameters = message["parameters"]

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(65536)
        except TimeoutError:
            raise
        except OSError:
            return b""

    def wait_for_end(self) -> None:
        """Wait until the keeper closes the connection. What it says meanwhile (a restart) changes nothing."""
        while self._receive():
            pass

    def say_goodbye(self) -> None:
        """Ask the keeper to close the connection when nothing is left to do for this user."""
        with suppress(OSError):
            self._connection.sendall(_keeper.BYE)

    def close(self) -> None:
        """Close it at once, as the kernel would do for a dead process."""
        self._connection.close()


def take_seat(wish: Wish, lock: IO[bytes] | None, deadline: Deadline) -> Seat:
    """Join the directory's server, starting it if there is none.

    Args:
        wish: What is wanted.
        lock: The directory's lock, if it is held already.
        deadline: When to give up.
    """
    attempts = 0
    while True:
        connection = None if lock else _directory.knock(wish.directory)
        lock = lock or (None if connection else _directory.take_lock(wish.directory))
        if lock:
            attempts += 1
            connection, lock = _found(wish, lock), None
        seat = connection and _welcomed(wish, connection, deadline)
        if seat:
            return seat
        if attempts == _ATTEMPTS:
            raise _keeper_failed(wish.directory)
        deadline.pause()


def _welcomed(wish: Wish, connection: socket.socket, deadline: Deadline) -> Seat | None:
    seat = Seat(connection)
    try:
        if seat.wait_for_welcome(wish.directory, deadline):
            return _checked(seat, wish)
    except MongodStartError as error:
        seat.close()
        raise _with_libraries_named(error) from None
    except BaseException:
        seat.close()
        raise
    seat.close()
    return None


def _checked(seat: Seat, wish: Wish) -> Seat:
    differing = {name for name, value in wish.parameters.items() if seat.parameters.get(name) != value}
    if differing:
        raise EmbeddedError(
            f"the server of {str(wish.directory)!r} is running already, with other values of "
            f"{', '.join(sorted(differing))}; ask for the same ones or use another data_directory"
        )
    return seat


def _with_libraries_named(error: MongodStartError) -> EmbeddedError:
    if not is_loader_failure(error.log):
        return error
    return libraries_error(f"{error.log}\n{loader_output(find_mongod())}")


def _found(wish: Wish, lock: IO[bytes]) -> socket.socket:
    """Start a keeper, who gets the lock and one end of a connection; the other one is returned."""
    with lock:
        mongod = find_mongod()
        wish.progress(f"starting MongoDB in {wish.directory}")
        ours, theirs = socket.socketpair()
        with closed_in_children(theirs):
            plan = _keeper.Plan(
                str(mongod), dict(wish.parameters), wish.ephemeral, wish.guard, lock.fileno(), theirs.fileno()
            )
            _run_keeper(wish.directory, plan)
    return closed_in_children(ours)


def _run_keeper(directory: Path, plan: _keeper.Plan) -> None:
    try:
        with (directory / _keeper.KEEPER_LOG).open("wb") as log:
            subprocess.run(  # noqa: S603
                [sys.executable, "-I", _keeper.__file__, json.dumps(plan._asdict()), str(directory)],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(plan.lock, plan.seat),
                start_new_session=True,  # so that Ctrl-C in a terminal is no business of the server
                check=False,
            )
    except OSError as error:
        raise directory_error(directory, error) from error


def _keeper_failed(directory: Path) -> EmbeddedError:
    path = directory / _keeper.KEEPER_LOG
    said = path.read_text(errors="replace").strip().rpartition("\n")[2] if path.exists() else ""
    return EmbeddedError(
        f"the process that keeps MongoDB running ended at once, {_ATTEMPTS} times"
        f"{': ' + said if said else ''}; its log is {str(path)!r}"
    )
