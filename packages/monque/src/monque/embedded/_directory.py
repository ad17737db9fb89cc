"""Data directories: where they are, their lock, the way to their keeper."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from monque.embedded import _keeper
from monque.embedded._errors import DataDirectoryError, directory_error
from monque.embedded._fork import closed_in_children
from monque.errors import EmbeddedError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

_LONGEST_SOCKET_PATH = 100
_PRIVATE = 0o700
_EPHEMERAL = "server-"


def default_directory(platform: str, environment: Mapping[str, str]) -> Path:
    """The data directory of this user, for `sys.platform` and `os.environ`."""
    return _user_data(platform, environment) / "monque" / "mongodb"


def _user_data(platform: str, environment: Mapping[str, str]) -> Path:
    named = environment.get("LOCALAPPDATA" if platform == "win32" else "XDG_DATA_HOME", "")
    if Path(named).is_absolute():
        return Path(named)
    return _home() / {"darwin": "Library/Application Support", "win32": "AppData/Local"}.get(
        platform, ".local/share"
    )


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise DataDirectoryError(Path("~"), "this user has no home directory; pass data_directory") from None


def prepare(directory: Path) -> None:
    """Make sure the directory exists."""
    with _explained(directory):
        directory.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)


def take_lock(directory: Path) -> IO[bytes] | None:
    """The directory's lock, or `None` when a keeper or its mongod has it."""
    with _explained(directory):
        return _try_lock(directory / _keeper.LOCK)


def _try_lock(path: Path) -> IO[bytes] | None:
    import fcntl

    file = closed_in_children(path.open("ab"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def knock(directory: Path) -> socket.socket | None:
    """A connection to the directory's keeper, or `None` when there is none."""
    with _explained(directory), _short(directory) as short:
        connection = closed_in_children(socket.socket(socket.AF_UNIX))
        try:
            connection.connect(str(short / _keeper.SOCKET))
        except (FileNotFoundError, ConnectionError):
            connection.close()
            return None
        return connection


@contextmanager
def _short(directory: Path) -> Generator[Path]:
    """A path to the directory that fits the address of a socket, which is tiny."""
    if len(os.fsencode(directory / _keeper.SOCKET)) <= _LONGEST_SOCKET_PATH:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="monque-") as temporary:
        link = Path(temporary) / "d"
        link.symlink_to(directory.absolute(), target_is_directory=True)
        yield link


@contextmanager
def _explained(directory: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise directory_error(directory, error) from error


def new_ephemeral() -> tuple[Path, IO[bytes]]:
    """A fresh throw-away directory and its lock; those that killed keepers left behind are removed."""
    import fcntl

    nursery = Path(tempfile.gettempdir()) / f"monque-{os.getuid()}"
    prepare(nursery)
    check_owner(nursery, os.getuid())
    with _explained(nursery), (nursery / "lock").open("ab") as gate:
        fcntl.flock(
            gate, fcntl.LOCK_EX
        )  # so that nobody sweeps a directory between its making and its locking
        _sweep(nursery)
        directory = Path(tempfile.mkdtemp(prefix=_EPHEMERAL, dir=nursery))
        lock = _try_lock(directory / _keeper.LOCK)
    assert lock is not None  # noqa: S101
    return directory, lock


def check_owner(directory: Path, user: int) -> None:
    """Make sure that nobody else made the directory, whose name can be guessed."""
    if directory.lstat().st_uid != user:
        raise DataDirectoryError(directory, "belongs to another user; set TMPDIR to a directory of your own")


def refuse_windows(platform: str) -> None:
    """Say so where the locks and sockets this is built on do not exist."""
    if platform == "win32":
        raise EmbeddedError(
            "the embedded MongoDB runs on Linux and macOS only; use WSL, or a MongoDB server of your own"
        )


def _sweep(nursery: Path) -> None:
    for directory in nursery.glob(f"{_EPHEMERAL}*"):
        with suppress(OSError):
            _remove_if_abandoned(directory)


def _remove_if_abandoned(directory: Path) -> None:
    lock = _try_lock(directory / _keeper.LOCK)
    if lock is not None:
        with lock:
            shutil.rmtree(directory)
