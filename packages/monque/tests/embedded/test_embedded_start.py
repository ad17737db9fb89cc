"""Starting, stopping, and where things are."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from monque.embedded import (
    EmbeddedMongoDB,
    MongodStartError,
    StartTimeoutError,
    _directory,
    _keeper,
    _replica_set,
    find_mongod,
)
from monque.errors import ConfigurationError, EmbeddedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import Tools, User


def port_of(uri: str) -> int:
    return int(uri.partition("?")[0].rstrip("/").rpartition(":")[2])


def test_a_fresh_server_can_be_written_to_at_once_and_keeps_its_data(tmp_path: Path, tools: Tools) -> None:
    said: list[str] = []
    with EmbeddedMongoDB(tmp_path / "new" / "data", progress=said.append) as server:
        first = server.uri
        tools.write(server.uri, "kept")
        processes = tools.Processes(server.uri)
        assert stat.S_IMODE(server.data_directory.stat().st_mode) == 0o700
        assert server.log_path.stat().st_size > 0
        assert len(said) == 1
        assert str(server.data_directory) in said[0]
    assert processes.stopped()
    with EmbeddedMongoDB(tmp_path / "new" / "data") as server:
        assert tools.values(server.uri) == ["kept"]
        assert server.uri == first


def test_it_listens_on_loopback_only_and_is_small() -> None:
    with EmbeddedMongoDB(ephemeral=True) as server, MongoClient[dict[str, Any]](server.uri) as client:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port_of(server.uri)), timeout=1)
        options = client.admin.command("getCmdLineOpts")["parsed"]
        assert options["net"] == {
            "bindIp": "127.0.0.1",
            "port": port_of(server.uri),
            "unixDomainSocket": {"enabled": False},
        }
        cache = client.admin.command("serverStatus")["wiredTiger"]["cache"]["maximum bytes configured"]
        assert cache == 256 * 1024 * 1024
        used = sum(path.stat().st_blocks * 512 for path in server.data_directory.rglob("*") if path.is_file())
        assert used < 40 * 1024 * 1024


def test_change_streams_and_transactions_work() -> None:
    with (
        EmbeddedMongoDB(ephemeral=True) as server,
        MongoClient[dict[str, Any]](server.uri) as client,
        client.tests.values.watch() as stream,
        client.start_session() as session,
    ):
        session.with_transaction(lambda s: client.tests.values.insert_one({"_id": 1}, session=s))
        assert next(stream)["documentKey"] == {"_id": 1}


def test_an_ephemeral_server_leaves_nothing(tools: Tools) -> None:
    with EmbeddedMongoDB(ephemeral=True) as one, EmbeddedMongoDB(ephemeral=True) as other:
        assert one.uri != other.uri
        directory, processes = one.data_directory, tools.Processes(one.uri)
        assert directory.exists()
    assert not directory.exists()
    assert processes.stopped()


@pytest.mark.parametrize("name", ["with spaces and ünïcödé", "x" * 120], ids=["odd", "long"])
def test_paths_may_be_odd_or_too_long_for_a_socket(tmp_path: Path, name: str) -> None:
    with EmbeddedMongoDB(tmp_path / name) as server, EmbeddedMongoDB(tmp_path / name) as other:
        assert server.uri == other.uri


def test_a_relative_path_means_the_directory_at_the_time_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with EmbeddedMongoDB("here") as server:
        assert server.data_directory == tmp_path / "here"


def test_the_default_directory_is_that_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with EmbeddedMongoDB() as server:
        assert server.data_directory == tmp_path / "monque" / "mongodb"


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/monque/mongodb"),
        ("linux", {"XDG_DATA_HOME": "relative"}, "/home/me/.local/share/monque/mongodb"),
        ("linux", {}, "/home/me/.local/share/monque/mongodb"),
        ("darwin", {}, "/home/me/Library/Application Support/monque/mongodb"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/monque/mongodb"),
        ("win32", {}, "/home/me/AppData/Local/monque/mongodb"),
    ],
)
def test_default_directories_of_platforms(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert _directory.default_directory(platform, environment) == Path(expected)


def test_windows_is_refused_with_a_way_out() -> None:
    _directory.refuse_windows("darwin")
    with pytest.raises(EmbeddedError, match="WSL"):
        _directory.refuse_windows("win32")


def test_mongod_is_guarded_on_every_platform() -> None:
    assert _keeper.guard_for("linux") == "kernel"
    assert _keeper.guard_for("darwin") == "pipe"


def test_start_and_stop_may_be_repeated(tmp_path: Path) -> None:
    server = EmbeddedMongoDB(tmp_path)
    server.stop()
    server.start()
    uri = server.uri
    server.start()
    assert server.uri == uri
    server.stop()
    server.stop()
    with pytest.raises(EmbeddedError, match="not started"):
        _ = server.uri


def test_ephemeral_and_a_directory_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ephemeral"):
        EmbeddedMongoDB(tmp_path, ephemeral=True)


def test_parameters_reach_mongod_and_sharers_must_agree() -> None:
    with EmbeddedMongoDB(ephemeral=True, parameters={"ttlMonitorSleepSecs": "7"}) as server:
        with MongoClient[dict[str, Any]](server.uri) as client:
            got = client.admin.command({"getParameter": 1, "ttlMonitorSleepSecs": 1})
            assert got["ttlMonitorSleepSecs"] == 7
        with EmbeddedMongoDB(server.data_directory, parameters={"ttlMonitorSleepSecs": "7"}):
            pass
        with pytest.raises(EmbeddedError, match="other values of ttlMonitorSleepSecs"):
            EmbeddedMongoDB(server.data_directory, parameters={"ttlMonitorSleepSecs": "8"}).start()


def test_an_occupied_port_is_replaced_by_another(tmp_path: Path, tools: Tools) -> None:
    with EmbeddedMongoDB(tmp_path) as server:
        tools.write(server.uri, "kept")
        port = port_of(server.uri)
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", port))
        with EmbeddedMongoDB(tmp_path) as server:
            moved = server.uri
            assert tools.values(moved) == ["kept"]
    assert port_of(moved) != port
    with EmbeddedMongoDB(tmp_path) as server:
        assert server.uri == moved


def test_a_set_that_is_configured_already_is_left_alone() -> None:
    with EmbeddedMongoDB(ephemeral=True) as server, MongoClient[dict[str, Any]](server.uri) as client:
        before = client.admin.command("replSetGetConfig")["config"]
        _replica_set._configure(client.admin, f"127.0.0.1:{port_of(server.uri)}")
        assert client.admin.command("replSetGetConfig")["config"] == before


def test_nobody_waits_for_a_server_that_is_gone() -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        assert not _replica_set.become_primary(occupied.getsockname()[1], lambda: False)


def test_a_spoilt_port_file_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / _keeper.PORT).write_text("nonsense")
    with EmbeddedMongoDB(tmp_path) as server:
        assert (tmp_path / _keeper.PORT).read_text() == str(port_of(server.uri))


def test_remains_of_a_killed_server_do_no_harm(tmp_path: Path, tools: Tools) -> None:
    (tmp_path / _keeper.LOCK).touch()
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / _keeper.SOCKET))
    dead.close()
    (tmp_path / _keeper.DATABASE).mkdir()
    (tmp_path / _keeper.DATABASE / "mongod.lock").write_text(f"{os.getpid()}\n")
    with EmbeddedMongoDB(tmp_path) as server:
        tools.write(server.uri)


def test_a_machine_without_a_free_port_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mongod = tmp_path / "mongod"
    mongod.write_text('#!/bin/sh\necho "$4" >> ../tried\nexit 48\n')
    mongod.chmod(0o755)
    monkeypatch.setenv("MONQUE_MONGOD", str(mongod))
    with pytest.raises(MongodStartError, match="code 48"):
        EmbeddedMongoDB(tmp_path / "data").start()
    tried = (tmp_path / "tried").read_text().split()
    assert len(tried) == _keeper.PORT_ATTEMPTS
    assert len(set(tried)) > 1


async def spin(gaps: list[float]) -> None:
    """Note how long the loop is kept from running."""
    last = time.monotonic()
    while True:
        await asyncio.sleep(0.001)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()


def test_async_use_does_not_block_the_loop(tmp_path: Path, tools: Tools) -> None:
    async def use() -> list[float]:
        gaps: list[float] = []
        spinning = asyncio.create_task(spin(gaps))
        async with EmbeddedMongoDB(tmp_path) as server:
            processes = await asyncio.to_thread(tools.Processes, server.uri)
        spinning.cancel()
        assert processes.stopped()
        return gaps

    assert max(asyncio.run(use())) < 0.3


def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path, tools: Tools) -> None:
    begun = threading.Event()

    async def use(server: EmbeddedMongoDB) -> None:
        async with server:
            pytest.fail("it cannot be up so soon")

    async def cancel_while_starting() -> None:
        server = EmbeddedMongoDB(tmp_path, progress=lambda _: begun.set())
        task = asyncio.create_task(use(server))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(EmbeddedError, match="not started"):
            _ = server.uri

    asyncio.run(cancel_while_starting())
    tools.until(lambda: _locked(tmp_path) is False, 5)
    with EmbeddedMongoDB(tmp_path) as server:
        tools.write(server.uri)


def _locked(directory: Path) -> bool:
    lock = _directory.take_lock(directory)
    if lock:
        lock.close()
    return lock is None


def test_a_stop_that_is_cancelled_is_a_stop_nevertheless(tmp_path: Path, tools: Tools) -> None:
    async def cancel_while_stopping() -> None:
        server = EmbeddedMongoDB(tmp_path)
        await server.__aenter__()
        processes = tools.Processes(server.uri)
        task = asyncio.create_task(server.__aexit__(None, None, None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert processes.stopped()

    asyncio.run(cancel_while_stopping())


def test_cancelling_the_use_stops_the_server(tools: Tools) -> None:
    async def cancel_while_using() -> None:
        server = EmbeddedMongoDB(ephemeral=True)
        seen: list[Any] = []
        started = asyncio.Event()

        async def use() -> None:
            async with server:
                seen.append(tools.Processes(server.uri))
                started.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(use())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert seen[0].stopped()

    asyncio.run(cancel_while_using())


def test_errors_come_out_of_an_async_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONQUE_MONGOD", "/nowhere/mongod")

    async def use() -> None:
        async with EmbeddedMongoDB(tmp_path):
            pytest.fail("there is no mongod")

    with pytest.raises(EmbeddedError, match="/nowhere/mongod"):
        asyncio.run(use())


def test_directories_left_by_killed_servers_are_swept(
    new_user: Callable[..., User],
    tools: Tools,
    kill: Callable[[int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    user = new_user(ephemeral=True, popen={"env": {**os.environ, "TMPDIR": str(tmp_path)}})
    processes = tools.Processes(user.start())
    left = Path(user.ask("str(server.data_directory)"))
    user.process.kill()
    kill(processes.keeper)
    user.end()
    tools.until(processes.gone)
    assert left.exists()
    (tmp_path / f"monque-{os.getuid()}" / "server-file").touch()
    with EmbeddedMongoDB(ephemeral=True) as living, EmbeddedMongoDB(ephemeral=True):
        assert not left.exists()
        assert living.data_directory.exists()


def test_a_throw_away_place_made_by_somebody_else_is_not_used(tmp_path: Path) -> None:
    _directory.check_owner(tmp_path, os.getuid())
    with pytest.raises(EmbeddedError, match="another user"):
        _directory.check_owner(tmp_path, os.getuid() + 1)


def test_a_start_that_takes_too_long_says_how_far_it_came(tmp_path: Path) -> None:
    slow = tmp_path / "mongod"
    slow.write_text('#!/bin/sh\necho "thinking"\nexec sleep 60\n')
    slow.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONQUE_MONGOD", str(slow))
        with pytest.raises(StartTimeoutError, match=r"(?s)within 0\.8 s.*thinking"):
            EmbeddedMongoDB(tmp_path / "data", start_timeout=0.8).start()
    shutil.rmtree(tmp_path / "data" / _keeper.DATABASE)
    assert find_mongod() != slow
    with EmbeddedMongoDB(tmp_path / "data"):
        pass


def test_a_lock_that_is_never_released_ends_the_wait(tmp_path: Path) -> None:
    with _directory.take_lock(tmp_path) as lock:  # type: ignore[union-attr]
        assert lock
        with pytest.raises(StartTimeoutError, match="No such file"):
            EmbeddedMongoDB(tmp_path, start_timeout=0.1).start()
