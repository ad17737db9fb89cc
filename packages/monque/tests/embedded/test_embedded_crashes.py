"""Whatever is killed, nothing is orphaned, nothing is lost, and nobody is needed to clean up."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from monque.embedded import EmbeddedMongoDB, _keeper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import Tools, User


def test_mongod_is_gone_a_second_after_its_users_are_killed(
    tmp_path: Path, new_user: Callable[..., User], tools: Tools
) -> None:
    users = [new_user(tmp_path) for _ in range(2)]
    uri = {user.start() for user in users}.pop()
    processes = tools.Processes(uri)
    tools.write(uri, "acknowledged")
    for user in users:
        user.kill()
    assert tools.until(processes.gone, 5) < 1
    with EmbeddedMongoDB(tmp_path) as server:
        assert tools.values(server.uri) == ["acknowledged"]


def test_a_user_that_ends_without_stopping_is_as_good_as_killed(new_user: Callable[..., User], tools: Tools) -> None:
    user = new_user(ephemeral=True)
    processes = tools.Processes(user.start())
    directory = user.ask("server.data_directory.exists() and str(server.data_directory)")
    user.end()
    tools.until(processes.gone, 5)
    assert not os.path.exists(directory)  # noqa: PTH110


def writing(uri: str, acknowledged: list[int], enough: threading.Event) -> None:
    """Write numbers, one after the other, over whatever happens to the server."""
    with MongoClient[dict[str, Any]](uri, w="majority", serverSelectionTimeoutMS=20_000) as client:
        for number in range(1_000_000):
            if enough.is_set():
                return
            try:
                client.tests.values.insert_one({"value": number})
            except PyMongoError:
                continue
            acknowledged.append(number)


@pytest.fixture
def writer() -> Any:
    threads: list[tuple[threading.Thread, threading.Event]] = []

    def start(uri: str) -> list[int]:
        acknowledged: list[int] = []
        enough = threading.Event()
        thread = threading.Thread(target=writing, args=(uri, acknowledged, enough))
        thread.start()
        threads.append((thread, enough))
        return acknowledged

    def finish() -> None:
        for thread, enough in threads:
            enough.set()
            thread.join()

    start.finish = finish  # type: ignore[attr-defined]
    yield start
    finish()


def test_acknowledged_writes_survive_the_kill_of_all_users(
    tmp_path: Path, new_user: Callable[..., User], tools: Tools
) -> None:
    user = new_user(tmp_path)
    uri = user.start()
    processes = tools.Processes(uri)
    acknowledged: list[int] = []
    client = MongoClient[dict[str, Any]](uri, w="majority", serverSelectionTimeoutMS=100)

    def write_on_and_on() -> None:
        for number in range(1_000_000):
            client.tests.values.insert_one({"value": number})
            acknowledged.append(number)
            if number == 200:
                user.kill()

    with client, pytest.raises(PyMongoError):
        write_on_and_on()
    tools.until(processes.gone, 5)
    with EmbeddedMongoDB(tmp_path) as server:
        assert set(acknowledged) <= set(tools.values(server.uri))


@pytest.mark.parametrize("victims", [["mongod"], ["keeper"], ["keeper", "mongod"]], ids="+".join)
def test_living_users_get_the_server_back_where_it_was(
    tmp_path: Path, tools: Tools, kill: Callable[[int], None], writer: Any, victims: list[str]
) -> None:
    with EmbeddedMongoDB(tmp_path) as server, EmbeddedMongoDB(tmp_path) as other:
        uri, processes = server.uri, tools.Processes(server.uri)
        acknowledged = writer(uri)
        tools.until(lambda: len(acknowledged) > 20)
        for victim in victims:
            kill(getattr(processes, victim))
        tools.until(lambda: tools.ended(processes.mongod), 1)
        so_far = len(acknowledged)
        tools.until(lambda: len(acknowledged) > so_far + 20)
        writer.finish()
        assert set(acknowledged) <= set(tools.values(uri))
        assert server.uri == other.uri == uri
        successors = tools.Processes(uri)
    tools.until(successors.gone, 2)


def test_a_mongod_that_is_killed_again_and_again(tools: Tools, kill: Callable[[int], None]) -> None:
    with EmbeddedMongoDB(ephemeral=True) as server:
        keepers: set[int] = set()
        for _ in range(3):
            processes = tools.Processes(server.uri)
            keepers.add(processes.keeper)
            kill(processes.mongod)
        tools.write(server.uri)
        assert len(keepers) == 1


def test_joining_while_mongod_is_started_again(tools: Tools, kill: Callable[[int], None]) -> None:
    with EmbeddedMongoDB(ephemeral=True) as server:
        kill(tools.Processes(server.uri).mongod)
        with EmbeddedMongoDB(server.data_directory) as other:
            tools.write(other.uri)


def test_joining_while_mongod_hangs_and_the_keeper_dies(
    tmp_path: Path, new_user: Callable[..., User], tools: Tools, kill: Callable[[int], None]
) -> None:
    user = new_user(tmp_path)
    processes = tools.Processes(user.start())
    tools.pause(processes.mongod)
    other = EmbeddedMongoDB(tmp_path)
    thread = threading.Thread(target=other.start)
    thread.start()
    tools.until(lambda: tools.is_in(thread, "become_primary"))
    user.kill()
    kill(processes.keeper)
    thread.join()
    tools.write(other.uri)
    other.stop()


def test_leaving_while_mongod_is_started_again(tools: Tools, kill: Callable[[int], None]) -> None:
    server = EmbeddedMongoDB(ephemeral=True)
    server.start()
    processes = tools.Processes(server.uri)
    for _ in range(2):
        processes = tools.Processes(server.uri)
        kill(processes.mongod)
    server.stop()
    assert processes.stopped()


def test_a_keeper_told_to_end_does_so_cleanly_and_is_replaced(tmp_path: Path, tools: Tools) -> None:
    with EmbeddedMongoDB(tmp_path) as server:
        processes = tools.Processes(server.uri)
        os.kill(processes.keeper, signal.SIGTERM)
        tools.until(processes.gone)
        tools.write(server.uri)
        assert tools.Processes(server.uri).keeper != processes.keeper


def test_leaving_while_the_keeper_is_replaced(tmp_path: Path, tools: Tools, kill: Callable[[int], None]) -> None:
    for delay in (0, 0.02, 0.1):
        server = EmbeddedMongoDB(tmp_path)
        server.start()
        processes = tools.Processes(server.uri)
        kill(processes.keeper)
        time.sleep(delay)
        server.stop()
        tools.until(processes.gone, 1)
    with EmbeddedMongoDB(tmp_path) as server:
        tools.write(server.uri)


def test_a_server_that_cannot_come_back_is_reported(
    tools: Tools,
    kill: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with EmbeddedMongoDB(ephemeral=True) as server:
        processes = tools.Processes(server.uri)
        monkeypatch.setenv("MONQUE_MONGOD", "/nowhere/mongod")
        with caplog.at_level(logging.ERROR, logger="monque.embedded"):
            kill(processes.keeper)
            tools.until(lambda: caplog.records)
    assert "/nowhere/mongod" in caplog.text


def test_the_pipe_guard_does_what_the_kernel_does_elsewhere(tools: Tools, kill: Callable[[int], None]) -> None:
    server = EmbeddedMongoDB(ephemeral=True)
    server._guard = "pipe"
    with server:
        processes = tools.Processes(server.uri)
        kill(processes.mongod)
        processes = tools.Processes(server.uri)
        kill(processes.keeper)
        tools.until(processes.gone, 1)
        tools.write(server.uri)
        processes = tools.Processes(server.uri)
    assert processes.stopped()


def test_the_kernel_guard_sees_a_keeper_that_died_before_it_was_set() -> None:
    program = (
        "from monque.embedded._keeper import KernelGuard\n"
        "guard = KernelGuard()\n"
        "guard._keeper = {keeper}\n"
        "guard.before_exec()\n"
        "print('alive')\n"
    )
    for keeper, code, said in (("__import__('os').getppid()", 0, "alive\n"), ("1", 1, "")):
        ended = subprocess.run(
            [sys.executable, "-c", program.format(keeper=keeper)],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stdout) == (code, said)


def test_the_pipe_guard_outlives_its_watcher_and_ignores_dead_processes() -> None:
    guard = _keeper.PipeGuard()
    guard.before_exec()
    guard.forget()
    dead = subprocess.Popen(["true"])
    dead.wait()
    guard._tell(dead.pid)
    os.close(guard._writer)
    assert os.wait()[1] == 0
    reader, guard._writer = os.pipe()
    os.close(reader)
    guard.forget()
    os.close(guard._writer)


def test_the_log_of_mongod_is_kept_small(tmp_path: Path) -> None:
    log = _keeper.Log(tmp_path / "log")
    log.write(b"x" * _keeper.LOG_LIMIT)
    assert not (tmp_path / "log.1").exists()
    log.write(b"y")
    log.write(b"z")
    assert (tmp_path / "log.1").stat().st_size == _keeper.LOG_LIMIT + 1
    assert (tmp_path / "log").read_bytes() == b"z"
    assert not (_keeper.Log(tmp_path / "log")._path).exists()


def test_a_user_that_resets_its_connection_is_gone(tools: Tools) -> None:
    with EmbeddedMongoDB(ephemeral=True) as server:
        rude = socket.socket(socket.AF_UNIX)
        rude.connect(str(server.data_directory / _keeper.SOCKET))
        select.select([rude], [], [])
        rude.close()  # with a welcome unread, which makes it a reset
        tools.write(server.uri)
        processes = tools.Processes(server.uri)
    assert processes.stopped()
