"""Several users, one server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

from monque.embedded import EmbeddedMongoDB

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from pathlib import Path

    from .conftest import Tools, User


def test_eight_processes_that_start_at_once_share_one_server(
    tmp_path: Path, new_user: Callable[..., User], tools: Tools
) -> None:
    users = [new_user(tmp_path, wait=False) for _ in range(8)]
    for user in users:
        user.wait_until_ready()
    for user in users:
        user.tell("server.start() or server.uri")
    uris = {user.answer() for user in users}
    assert len(uris) == 1
    uri = uris.pop()
    processes = tools.Processes(uri)
    for user in users[:-1]:
        user.stop()
    assert not tools.ended(processes.mongod)
    tools.write(uri)
    users[-1].stop()
    assert processes.stopped()


def test_all_leaving_at_once_ends_it_for_all(tmp_path: Path, new_user: Callable[..., User], tools: Tools) -> None:
    users = [new_user(tmp_path) for _ in range(3)]
    processes = tools.Processes({user.start() for user in users}.pop())
    for user in users:
        user.tell("server.stop()")
    for user in users:
        user.answer()
    assert processes.stopped()


def test_objects_of_one_process_share_it_too(tools: Tools) -> None:
    with EmbeddedMongoDB(ephemeral=True) as first:
        with EmbeddedMongoDB(first.data_directory) as second:
            assert first.uri == second.uri
            processes = tools.Processes(first.uri)
        began = time.monotonic()
        tools.write(first.uri)
        assert time.monotonic() - began < 5
    assert processes.stopped()


def test_joining_while_the_last_one_leaves(tmp_path: Path, tools: Tools) -> None:
    leaver, joiner = EmbeddedMongoDB(tmp_path), EmbeddedMongoDB(tmp_path)
    leaver.start()
    for delay in (0.0, 0.0005, 0.3):
        leaving = threading.Thread(target=leaver.stop)
        leaving.start()
        time.sleep(delay)
        joiner.start()
        tools.write(joiner.uri, delay)
        leaving.join()
        leaver, joiner = joiner, leaver
    assert tools.values(leaver.uri) == [0.0, 0.0005, 0.3]
    leaver.stop()


def test_those_who_leave_need_not_wait_when_somebody_came_after_all(tools: Tools) -> None:
    server = EmbeddedMongoDB(ephemeral=True)
    server.start()
    other = EmbeddedMongoDB(server.data_directory)
    processes = tools.Processes(server.uri)
    tools.pause(processes.keeper)  # so that it finds both at once
    leaving = threading.Thread(target=server.stop)
    leaving.start()
    tools.until(lambda: tools.is_in(leaving, "join"))
    coming = threading.Thread(target=other.start)
    coming.start()
    tools.until(lambda: tools.is_in(coming, "listen"))
    os.kill(processes.keeper, signal.SIGCONT)
    leaving.join()
    coming.join()
    tools.write(other.uri)
    assert tools.Processes(other.uri).keeper == processes.keeper
    other.stop()
    assert processes.stopped()


def test_a_forked_child_does_not_keep_the_server(tools: Tools) -> None:
    server = EmbeddedMongoDB(ephemeral=True)
    server.start()
    processes = tools.Processes(server.uri)
    there, here = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            server.stop()  # not its own: nothing happens
            os.close(here)
            os.read(there, 1)
            status = 0
        finally:
            os._exit(status)
    tools.write(server.uri)
    server.stop()
    assert processes.stopped()
    os.close(here)
    assert os.waitpid(child, 0)[1] == 0
    os.close(there)


def _use(server: EmbeddedMongoDB, conversation: Connection) -> None:
    server.start()
    conversation.send(server.uri)
    conversation.recv()
    server.stop()


def test_a_forked_child_may_start_what_it_inherited(tmp_path: Path, tools: Tools) -> None:
    server = EmbeddedMongoDB(tmp_path)
    server.start()
    processes = tools.Processes(server.uri)
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_use, args=(server, theirs))
    child.start()
    assert ours.recv() == server.uri
    server.stop()
    assert not tools.ended(processes.mongod)
    ours.send("enough")
    child.join()
    assert child.exitcode == 0
    assert processes.stopped()
