"""Other processes that use the embedded MongoDB, and ways to look at its processes from outside."""

from __future__ import annotations

import ast
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

USER = """
import json, sys
from monque.embedded import EmbeddedMongoDB
from monque.errors import MonqueError
server = EmbeddedMongoDB(**json.loads(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    try:
        print(repr(eval(line)), flush=True)
    except MonqueError as error:
        print(repr(type(error).__name__ + ": " + str(error)), flush=True)
"""


class User:
    """A process with one `EmbeddedMongoDB`, which does as told."""

    def __init__(self, options: dict[str, Any], **popen: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            **popen,
        )
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def answer(self) -> Any:
        line = self.stdout.readline().decode()
        assert line, "the process has ended"
        return ast.literal_eval(line)

    def tell(self, expression: str) -> None:
        self.stdin.write(expression.encode() + b"\n")
        self.stdin.flush()

    def ask(self, expression: str) -> Any:
        self.tell(expression)
        return self.answer()

    def wait_until_ready(self) -> User:
        assert self.stdout.readline() == b"ready\n"
        return self

    def start(self) -> str:
        assert self.ask("server.start()") is None
        return str(self.ask("server.uri"))

    def stop(self) -> None:
        assert self.ask("server.stop()") is None

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> None:
        self.stdin.close()
        self.stdout.close()
        self.process.wait()


@pytest.fixture
def new_user() -> Iterator[Callable[..., User]]:
    """Makes processes, which end with the test."""
    users: list[User] = []

    def make(data_directory: Path | None = None, *, wait: bool = True, popen: Any = None, **options: Any) -> User:
        given = {} if data_directory is None else {"data_directory": str(data_directory)}
        users.append(User({**given, **options}, **(popen or {})))
        return users[-1].wait_until_ready() if wait else users[-1]

    yield make
    for user in users:
        if user.process.returncode is None:
            user.end()


class Processes:
    """The processes behind a server."""

    def __init__(self, uri: str) -> None:
        with MongoClient[dict[str, Any]](uri) as client:
            self.mongod = int(client.admin.command("serverStatus")["pid"])
        self.keeper = int(ps("ppid=", self.mongod))

    def gone(self) -> bool:
        return ended(self.mongod) and ended(self.keeper)

    def stopped(self) -> bool:
        """Mongod is gone already, and the keeper at least on its way."""
        return ended(self.mongod) and until(lambda: ended(self.keeper), 1) < 1


def ps(what: str, pid: int) -> str:
    return subprocess.run(
        ["ps", "-o", what, "-p", str(pid)], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.strip()


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return ps("stat=", pid)[:1] in {"Z", ""}


def until(condition: Callable[[], object], seconds: float = 20.0) -> float:
    """Wait until something is the case; how long that took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "not in time"
        select.select([], [], [], 0.005)
    return time.monotonic() - began


def pause(pid: int) -> None:
    """Keep a process from running, and wait until it does not."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: ps("stat=", pid).startswith("T"))


def is_in(thread: threading.Thread, function: str) -> bool:
    """Whether a thread is somewhere within a function of this name."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and frame.f_code.co_name != function:
        frame = frame.f_back
    return frame is not None


def write(uri: str, value: object = 1) -> None:
    """An acknowledged majority write."""
    with MongoClient[dict[str, Any]](uri, w="majority") as client:
        client.tests.values.insert_one({"value": value})


def values(uri: str) -> list[Any]:
    with MongoClient[dict[str, Any]](uri) as client:
        return [document["value"] for document in client.tests.values.find(sort=[("_id", 1)])]


class Tools:
    """What the tests use, as `--import-mode=importlib` lets them import nothing from here."""

    Processes = Processes
    pause = staticmethod(pause)
    is_in = staticmethod(is_in)
    ended = staticmethod(ended)
    until = staticmethod(until)
    write = staticmethod(write)
    values = staticmethod(values)


@pytest.fixture
def tools() -> type[Tools]:
    return Tools


@pytest.fixture
def kill() -> Callable[[int], None]:
    return lambda pid: os.kill(pid, signal.SIGKILL)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("d")
