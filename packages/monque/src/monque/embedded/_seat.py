"""A user's connection to the keeper of a data directory, and how to get one."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from monque.embedded import _directory, _keeper
from monque.embedded._binary import find_mongod, loader_output
from monque.embedded._errors import (
    directory_error,
    indented,
    is_loader_failure,
    libraries_error,
    start_error,
)
from monque.embedded._fork import closed_in_children
from monque.errors import EmbeddedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path

    from monque.embedded._deadline import Deadline

_POLL = 0.05
_ATTEMPTS = 3
_RUN = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location(*sys.argv[1:3])
sys.modules[spec.name] = keeper = importlib.util.module_from_spec(spec)
spec.loader.exec_module(keeper)
keeper.main(sys.argv[3])
"""


class Wish(NamedTuple):
    """What kind of server is wanted, and where."""

    directory: Path
    parameters: Mapping[str, str]
    ephemeral: bool
    progress: Callable[[str], None]
    guard: str


class Seat:
    """One connection to a keeper: while it is open, the server runs."""

    def __init__(self, connection: socket.socket, directory: Path) -> None:
        self._connection = closed_in_children(connection)
        self._directory = directory
        self._rest = b""
        self.port = 0
        self.parameters: Mapping[str, str] = {}

    def listen(self, seconds: float, deadline: Deadline) -> bool:
        """Take in what the keeper says for a while; false when it has ended.

        Raises:
            EmbeddedError: The server cannot be started.
        """
        deadline.check()
        self._connection.settimeout(seconds)
        try:
            chunk = self._receive()
        except TimeoutError:
            return True
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._understand(json.loads(line))
        return bool(chunk)

    def _understand(self, message: dict[str, Any]) -> None:
        if "port" not in message:
            raise _failure(self._directory, message["code"], message["log"])
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
        """Wait until the keeper closes the connection. Whatever it says meanwhile, it does its best."""
        with suppress(OSError):
            self._connection.settimeout(None)
        while self._receive():
            pass

    def say_goodbye(self) -> None:
        """Ask the keeper to close the connection when nothing is left to do for this user."""
        with suppress(OSError):
            self._connection.sendall(_keeper.BYE)

    @contextmanager
    def closed_on_error(self) -> Generator[None]:
        """Close it if the block fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

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
    keepers = 0
    while keepers < _ATTEMPTS:
        lock = lock or _directory.take_lock(wish.directory)
        if lock:
            keepers += 1
        seat = _found(wish, lock) if lock else _join(wish)
        lock = None
        if seat and _is_ready(seat, wish, deadline):
            return seat
        deadline.pause()
    raise _keeper_failed(wish.directory)


def _is_ready(seat: Seat, wish: Wish, deadline: Deadline) -> bool:
    with seat.closed_on_error():
        while seat.listen(_POLL, deadline):
            if seat.port:
                _check_parameters(seat, wish)
                return True
    seat.close()
    return False


def _check_parameters(seat: Seat, wish: Wish) -> None:
    differing = {name for name, value in wish.parameters.items() if seat.parameters.get(name) != value}
    if differing:
        raise EmbeddedError(
            f"the server of {str(wish.directory)!r} is running already, with other values of "
            f"{', '.join(sorted(differing))}; ask for the same ones or use another data_directory"
        )


def _failure(directory: Path, code: int, log: str) -> EmbeddedError:
    if is_loader_failure(log):
        return libraries_error(f"{log}\n{loader_output(find_mongod())}")
    return start_error(directory, code, log)


def _join(wish: Wish) -> Seat | None:
    connection = _directory.knock(wish.directory)
    return Seat(connection, wish.directory) if connection else None


def _found(wish: Wish, lock: IO[bytes]) -> Seat:
    """Start a keeper, who gets the lock and one end of a connection; the other one is ours."""
    with lock:
        mongod = find_mongod()
        _directory.prepare(wish.directory / _keeper.DATABASE)
        wish.progress(f"starting MongoDB in {wish.directory}")
        ours, theirs = socket.socketpair()
        seat = Seat(ours, wish.directory)
        with seat.closed_on_error(), closed_in_children(theirs):
            plan = _keeper.Plan(
                str(mongod), dict(wish.parameters), wish.ephemeral, wish.guard, lock.fileno(), theirs.fileno()
            )
            _run_keeper(wish.directory, plan)
    return seat


def _run_keeper(directory: Path, plan: _keeper.Plan) -> None:
    try:
        with (directory / _keeper.KEEPER_LOG).open("wb") as log:
            subprocess.run(  # noqa: S603
                [
                    *(sys.executable, "-I", "-c", _RUN),
                    *(_keeper.__name__, _keeper.__file__, json.dumps(plan._asdict()), directory),
                ],
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
    return EmbeddedError(
        f"the process that keeps MongoDB running ended at once, {_ATTEMPTS} times; "
        f"the end of {str(path)!r}:\n{indented(_tail(path))}"
    )


def end_of_log(directory: Path) -> str:
    """What an error adds that may have to do with what mongod was doing."""
    path = directory / _keeper.MONGOD_LOG
    return f"; the end of {str(path)!r}:\n{indented(_tail(path))}"


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"({error.strerror})"
    return "\n".join(lines[-_keeper.TAIL :])
