"""What cannot work says what to do."""

from __future__ import annotations

import ctypes
import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from monque.embedded import (
    DataDirectoryError,
    DiskFullError,
    EmbeddedMongoDB,
    IncompatibleDataError,
    MissingLibrariesError,
    MongodNotFoundError,
    MongodStartError,
    _binary,
    _directory,
    _errors,
    _keeper,
    find_mongod,
)
from monque.errors import EmbeddedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Tools, User


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A system without any mongod: nothing named, no wheel, an empty PATH."""
    monkeypatch.delenv("MONQUE_MONGOD", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    importlib.invalidate_caches()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_mongod_is_searched_in_order(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MongodNotFoundError, match=r'pip install "monque\[embedded\]"'):
        find_mongod()
    on_path = program(bare / "bin" / "mongod")
    assert find_mongod() == on_path
    in_wheel = program(bare / "site" / "fiftyone" / "db" / "bin" / "mongod")
    assert find_mongod() == in_wheel
    named = program(bare / "mine")
    monkeypatch.setenv("MONQUE_MONGOD", str(named))
    assert find_mongod() == named


def test_the_package_above_the_wheel_is_not_imported(bare: Path) -> None:
    program(bare / "site" / "fiftyone" / "__init__.py", "raise RuntimeError('heavy')")
    in_wheel = program(bare / "site" / "fiftyone" / "db" / "bin" / "mongod")
    assert find_mongod() == in_wheel


def test_a_named_mongod_must_be_a_program(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bare / "text").write_text("not a program")
    for name in (bare / "text", bare / "nothing", bare):
        monkeypatch.setenv("MONQUE_MONGOD", str(name))
        with pytest.raises(MongodNotFoundError, match=r"MONQUE_MONGOD is .* not a program"):
            find_mongod()


def test_a_wheel_without_its_binary_is_called_that(bare: Path) -> None:
    program(bare / "site" / "fiftyone" / "db" / "__init__.py", "")
    with pytest.raises(MongodNotFoundError, match="--no-cache-dir"):
        find_mongod()


def patched_mongod(target: Path, old: bytes, new: bytes) -> Path:
    """The real mongod, asking its loader for something that does not exist."""
    binary = Path(find_mongod()).read_bytes()
    assert old in binary
    target.write_bytes(binary.replace(old, new))
    target.chmod(0o755)
    return target


@pytest.mark.skipif(sys.platform != "linux", reason="the loader of Linux")
def test_missing_libraries_are_named_with_their_packages(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mongod = patched_mongod(short / "mongod", b"\0libcurl.so.4\0", b"\0libcurl.so.7\0")
    mongod.write_bytes(mongod.read_bytes().replace(b"\0liblzma.so.5\0", b"\0liblzma.so.7\0"))
    monkeypatch.setenv("MONQUE_MONGOD", str(mongod))
    with pytest.raises(MissingLibrariesError) as caught:
        EmbeddedMongoDB(ephemeral=True).start()
    mongod.unlink()
    assert set(caught.value.libraries) == {"libcurl.so.7", "liblzma.so.7"}
    for package in ("libcurl4", "liblzma5", "xz-libs", "apt-get install", "dnf install"):
        assert package in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="the loader of Linux")
def test_a_system_that_is_too_old_is_called_that(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mongod = patched_mongod(short / "mongod", b"\0GLIBC_2.34\0", b"\0GLIBC_9.99\0")
    monkeypatch.setenv("MONQUE_MONGOD", str(mongod))
    with pytest.raises(MissingLibrariesError, match=r"too old for this mongod.*GLIBC_9\.99"):
        EmbeddedMongoDB(ephemeral=True).start()
    mongod.unlink()


def test_a_library_nobody_knows_is_named_all_the_same() -> None:
    error = _errors.libraries_error("\tlibodd.so.1 => not found\n")
    assert error.libraries == ("libodd.so.1",)
    assert "no known package" in str(error)


def test_a_mongod_of_another_kind_of_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONQUE_MONGOD", str(program(tmp_path / "mongod", "no program at all")))
    with pytest.raises(MongodStartError, match="Exec format error"):
        EmbeddedMongoDB(tmp_path / "data").start()


def test_a_mongod_that_dies_at_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(MongodStartError, match=r"(?s)code \d+.*noSuchParameter") as caught:
        EmbeddedMongoDB(tmp_path, parameters={"noSuchParameter": "1"}).start()
    assert caught.value.code == 1
    assert "noSuchParameter" in caught.value.log


@pytest.mark.parametrize(("signal", "said"), [("KILL", "signal 9 ended it"), ("ILL", "AVX")])
def test_a_mongod_that_a_signal_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal: str, said: str) -> None:
    mongod = program(tmp_path / "mongod", f"#!/bin/sh\nkill -{signal} $$\n")
    monkeypatch.setenv("MONQUE_MONGOD", str(mongod))
    with pytest.raises(MongodStartError, match=said):
        EmbeddedMongoDB(tmp_path / "data").start()


def test_a_failed_ephemeral_start_leaves_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONQUE_MONGOD", "/nowhere/mongod")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(MongodNotFoundError):
        EmbeddedMongoDB(ephemeral=True).start()
    assert [path.name for path in (tmp_path / f"monque-{os.getuid()}").iterdir()] == ["lock"]


def test_a_directory_of_another_version(tmp_path: Path) -> None:
    with EmbeddedMongoDB(tmp_path):
        pass
    turtle = tmp_path / _keeper.DATABASE / "WiredTiger.turtle"
    text = turtle.read_bytes()
    assert b"version=(major=" in text
    turtle.write_bytes(text.replace(b"version=(major=1,", b"version=(major=9,"))
    with pytest.raises(IncompatibleDataError, match="another version of MongoDB"):
        EmbeddedMongoDB(tmp_path).start()


def test_a_directory_that_a_mongod_started_by_hand_uses(tmp_path: Path, tools: Tools) -> None:
    database = tmp_path / _keeper.DATABASE
    database.mkdir()
    command = [str(find_mongod()), "--port=0", "--bind_ip=127.0.0.1", f"--dbpath={database}", "--nounixsocket"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as stranger:
        lock = database / "mongod.lock"
        tools.until(lambda: lock.exists() and lock.read_text().strip() == str(stranger.pid))
        with pytest.raises(DataDirectoryError, match="started by other means"):
            EmbeddedMongoDB(tmp_path).start()
        stranger.kill()


def test_a_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataDirectoryError, match="data_directory") as caught:
            EmbeddedMongoDB(path).start()
        assert caught.value.directory == path


def test_something_in_the_way_of_a_file_of_the_keeper(tmp_path: Path) -> None:
    (tmp_path / _keeper.KEEPER_LOG).mkdir()
    with pytest.raises(DataDirectoryError, match="Is a directory"):
        EmbeddedMongoDB(tmp_path).start()


def test_a_keeper_that_cannot_work_shows_why(tmp_path: Path) -> None:
    (tmp_path / _keeper.SOCKET).mkdir()
    with pytest.raises(EmbeddedError, match=r"(?s)ended at once, 3 times.*keeper\.sock"):
        EmbeddedMongoDB(tmp_path).start()


def unprivileged() -> dict[str, Any]:
    """How to start a process for which permissions count, even if it belongs to root."""
    if os.getuid():
        return {}
    prctl = ctypes.CDLL(None).prctl
    return {"preexec_fn": lambda: [prctl(24, capability) for capability in (1, 2)]}  # drop CAP_DAC_*


def test_a_directory_without_permission(tmp_path: Path, new_user: Callable[..., User]) -> None:
    tmp_path.chmod(0o555)
    said = new_user(tmp_path / "data", popen=unprivileged()).ask("server.start()")
    assert said.startswith("DataDirectoryError")
    assert "Permission denied" in said


def test_a_database_without_permission(tmp_path: Path, new_user: Callable[..., User]) -> None:
    (tmp_path / _keeper.DATABASE).mkdir(mode=0o555)
    said = new_user(tmp_path, popen=unprivileged()).ask("server.start()")
    assert said.startswith("DataDirectoryError")
    assert "mongod may not write there" in said


def test_a_home_that_does_not_exist_or_is_read_only(new_user: Callable[..., User]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "XDG_DATA_HOME"}
    user = new_user(popen={"env": {**environment, "HOME": "/proc/nowhere"}})
    said = user.ask("server.start()")
    assert said.startswith("DataDirectoryError")
    assert "data_directory" in said


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    with pytest.raises(DataDirectoryError, match="no home directory"):
        _directory.default_directory("linux", {})


SMALL_DISK = """
set -e
mount -t tmpfs -o size=100k tmpfs "$1"
shift
exec "$@"
"""


def test_a_full_disk(short: Path) -> None:
    inside = ["unshare", "--mount", "--map-root-user", "sh", "-c", SMALL_DISK, "sh", str(short)]
    if subprocess.run([*inside, "true"], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    code = (
        "import sys; from monque.embedded import EmbeddedMongoDB, DiskFullError\n"
        "try: EmbeddedMongoDB(sys.argv[1]).start()\n"
        "except DiskFullError as error: print(error)\n"
    )
    ended = subprocess.run(
        [*inside, sys.executable, "-c", code, str(short)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert "no space left" in ended.stdout


def test_what_a_full_disk_and_other_versions_say() -> None:
    """The wordings that cannot be provoked everywhere."""
    full = _errors.start_error(Path("/d"), 14, "... No space left on device ...")
    assert isinstance(full, DiskFullError)
    denied = _errors.start_error(Path("/d"), 100, "... Read-only file system ...")
    assert isinstance(denied, DataDirectoryError)
    other = _errors.start_error(Path("/d"), 62, "")
    assert isinstance(other, IncompatibleDataError)


def test_a_keeper_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EmbeddedError, match="No such file"):
        EmbeddedMongoDB(tmp_path).start()


def test_the_loader_is_asked_without_running_anything() -> None:
    assert "libcurl" in _binary.loader_output(find_mongod()) or sys.platform != "linux"


def test_a_directory_of_somebody_else_is_not_entered(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / _keeper.SOCKET))
        assert _directory.knock(tmp_path) is None
