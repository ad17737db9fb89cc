"""The keeper: the small process that owns the mongod of one data directory.

There is at most one per directory, because it is born holding the directory's lock, which the user that
starts it took and handed over. It is mongod's parent, and it listens on a socket where each user of the
server holds one connection open for as long as it needs the server. When the last connection has ended, by
a goodbye or by the kernel closing it for a dead process, the keeper stops mongod and ends.

What is said, in lines:

    keeper → user   {"port": 41231, "parameters": {...}}    the server accepts connections
    keeper → user   {"code": 100, "log": "..."}             it does not start, or dies again and again
    user → keeper   bye                                     close the connection once I am out

It is run alone, without the package around it and isolated (`python -I`), from within the data directory:
every path is a relative one, and only a few modules of the standard library are imported, so that it is up
within some 50 ms.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

DATABASE = "db"
LOCK = "keeper.lock"
SOCKET = "keeper.sock"
PORT = "port"
MONGOD_LOG = "mongod.log"
KEEPER_LOG = "keeper.log"

REPLICA_SET = "monque"
BYE = b"bye\n"

NO_SUCH_PROGRAM = 127
PORT_IS_TAKEN = 48  # mongod's exit code

GRACE = 30.0
"""Seconds a clean stop may take. It takes up to 1.0: one of mongod's threads looks up once per second."""
GRACE_AFTER_CRASH = 0.5
"""As above, after the death of the last user. The journal makes the kill that follows harmless."""
STEADY = 10.0
"""Seconds a mongod has to live for its next crash to count as the first one."""
HOPELESS = 3
"""Crashes in a row after which users are told. Those who wait for the start of the server give up then."""
PORTS = range(20_000, 32_000)
"""Below those that systems give to outgoing connections, so that the port is free again the next time."""
PORT_ATTEMPTS = 5
LOG_LIMIT = 4 * 1024 * 1024
TAIL = 60
BACKTRACE = (b'"id":31380,', b'"id":31445,')
"""Log messages that would crowd out the reason of a crash."""

_PR_SET_PDEATHSIG = 1


class Plan(NamedTuple):
    """What a keeper is told by the client that starts it."""

    mongod: str
    parameters: dict[str, str]
    ephemeral: bool
    guard: str
    lock: int
    seat: int


def mongod_command(plan: Plan, port: int) -> list[str]:
    """The command line of mongod: loopback only, small, one replica set, in the current directory."""
    parameters = {"diagnosticDataCollectionEnabled": "false", **plan.parameters}
    return [
        plan.mongod,
        "--quiet",
        "--nounixsocket",
        f"--dbpath={DATABASE}",
        f"--port={port}",
        "--bind_ip=127.0.0.1",
        f"--replSet={REPLICA_SET}",
        "--oplogSize=256",
        "--wiredTigerCacheSizeGB=0.25",
        "--wiredTigerEngineConfigString=log=(file_max=4MB)",
        *(f"--setParameter={name}={value}" for name, value in parameters.items()),
    ]


class KernelGuard:
    """Lets the kernel kill mongod when the keeper, its parent, is gone."""

    def __init__(self) -> None:
        self._prctl: Callable[[int, int], int] = ctypes.CDLL(None).prctl
        self._keeper = os.getpid()

    def before_exec(self) -> None:
        """Called in the new process, before it becomes mongod."""
        self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._keeper:  # it died before the line above
            os._exit(1)

    def forget(self) -> None:
        """Mongod is gone."""


class PipeGuard:
    """Lets a second process kill mongod when the keeper is gone: a pipe between them ends with the keeper."""

    def __init__(self) -> None:
        reader, self._writer = os.pipe()
        if os.fork() == 0:
            kill_at_end_of(reader)
        os.close(reader)

    def before_exec(self) -> None:
        """Called in the new process, before it becomes mongod."""
        self._tell(os.getpid())

    def forget(self) -> None:
        """Mongod is gone, and its pid may soon be another's."""
        self._tell(0)

    def _tell(self, pid: int) -> None:
        with suppress(BrokenPipeError):
            os.write(self._writer, b"%d\n" % pid)


def kill_at_end_of(reader: int) -> NoReturn:
    """Wait for the end of the pipe, then kill the process it named last."""
    os.closerange(3, reader)  # a keeper's lock and connections must end with it
    os.closerange(reader + 1, 256)
    with os.fdopen(reader, "rb") as pipe:
        pids = [0, *map(int, deque(pipe, maxlen=1))]
    if pids[-1]:
        with suppress(ProcessLookupError):
            os.kill(pids[-1], signal.SIGKILL)
    os._exit(0)


GUARDS: dict[str, Callable[[], KernelGuard | PipeGuard]] = {"kernel": KernelGuard, "pipe": PipeGuard}


def guard_for(platform: str) -> str:
    """Name the guard for `sys.platform`."""
    return "kernel" if platform == "linux" else "pipe"


class Log:
    """mongod's log file, kept below a size. A full disk must stop neither mongod nor the keeper."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with suppress(OSError):
            path.unlink(missing_ok=True)

    def write(self, chunk: bytes) -> None:
        """Append, after moving a file that has grown too big out of the way."""
        with suppress(OSError):
            with self._path.open("ab") as file:
                file.write(chunk)
                size = file.tell()
            if size > LOG_LIMIT:
                self._path.replace(f"{self._path}.1")


class Mongod:
    """One run of mongod."""

    def __init__(self, plan: Plan, port: int, guard: KernelGuard | PipeGuard, log: Log) -> None:
        self._guard = guard
        self._log = log
        self._rest = b""
        self.tail: deque[str] = deque(maxlen=TAIL)
        self.port: int | None = None
        self.ready_at: float | None = None
        self._process = subprocess.Popen(  # noqa: S603
            mongod_command(plan, port),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # mongod keeps the directory's lock: it is free only when the keeper and mongod are gone, both
            pass_fds=(plan.lock,),
            preexec_fn=guard.before_exec,  # noqa: PLW1509  the keeper has one thread
        )
        assert self._process.stdout is not None  # noqa: S101
        self.output = self._process.stdout

    def read(self) -> bool:
        """Take in what it has logged; false when it has ended."""
        chunk = os.read(self.output.fileno(), 65536)
        self._log.write(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._understand(line)
        return bool(chunk)

    def _understand(self, line: bytes) -> None:
        if not any(number in line for number in BACKTRACE):
            self.tail.append(line.decode(errors="replace"))
        if b'"id":23016,' in line:  # waiting for connections
            self.port = int(json.loads(line)["attr"]["port"])
            self.ready_at = time.monotonic()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        code = self._process.wait()
        self._guard.forget()
        self.output.close()
        return code

    def stop(self, grace: float) -> None:
        """End it, cleanly if it manages within `grace` seconds."""
        if grace > 0:
            self._process.terminate()
            self._drain(time.monotonic() + grace)
        self._process.kill()
        self.wait()

    def _drain(self, deadline: float) -> None:
        while select.select([self.output], [], [], max(0, deadline - time.monotonic()))[0]:
            if not self.read():
                return


class Keeper:
    """Serves the users of one data directory for as long as there are any."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._guard = GUARDS[plan.guard]()
        self._log = Log(Path(MONGOD_LOG))
        self._selector = selectors.DefaultSelector()
        self._listener = self._listen()
        self._users: set[socket.socket] = set()
        self._leaving: list[socket.socket] = []
        self._deserted = False
        self._port = remembered_port() or any_port()
        self._ports = 1
        self._served = False
        self._crashes = 0
        self._launch_at: float | None = time.monotonic()
        self._mongod: Mongod | None = None
        self._admit(socket.socket(fileno=plan.seat))

    def _listen(self) -> socket.socket:
        Path(SOCKET).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(SOCKET)
        listener.listen(128)
        self._selector.register(listener, selectors.EVENT_READ, self._on_knock)
        return listener

    def run(self) -> None:
        """Serve until the last user has left."""
        try:
            while self._users:
                self._turn()
        finally:
            self._close()

    def _turn(self) -> None:
        timeout = None
        if self._launch_at is not None:
            timeout = max(0, self._launch_at - time.monotonic())
        ready = self._selector.select(timeout)
        for key, _ in ready:
            key.data(key.fileobj)
        if not ready and self._launch_at is not None:
            self._launch()

    def _on_knock(self, listener: socket.socket) -> None:
        self._admit(listener.accept()[0])

    def _admit(self, user: socket.socket) -> None:
        user.setblocking(False)
        self._users.add(user)
        self._release_leavers()
        self._selector.register(user, selectors.EVENT_READ, self._on_word)
        if self._mongod is not None and self._mongod.port is not None:
            self._welcome(user)

    def _release_leavers(self) -> None:
        """Let those go who wait for the end, which is off as somebody came after all."""
        for user in self._leaving:
            user.close()
        self._leaving.clear()

    def _welcome(self, user: socket.socket) -> None:
        say(user, port=self._port, parameters=self._plan.parameters)

    def _on_word(self, user: socket.socket) -> None:
        try:
            goodbye = user.recv(64) == BYE
        except OSError:
            goodbye = False
        self._selector.unregister(user)
        self._users.remove(user)
        self._deserted = not goodbye
        if goodbye and not self._users:
            self._leaving.append(user)
        else:
            user.close()

    def _launch(self) -> None:
        self._launch_at = None
        try:
            self._mongod = Mongod(self._plan, self._port, self._guard, self._log)
        except OSError as error:
            self._give_up(NO_SUCH_PROGRAM, str(error))
        else:
            self._selector.register(self._mongod.output, selectors.EVENT_READ, self._on_output)

    def _on_output(self, _: object) -> None:
        mongod = self._running()
        waiting = mongod.port is None
        if not mongod.read():
            self._on_end(mongod)
        elif waiting and mongod.port is not None:
            self._on_ready(mongod.port)

    def _running(self) -> Mongod:
        assert self._mongod is not None  # noqa: S101
        return self._mongod

    def _on_ready(self, port: int) -> None:
        self._served = True
        self._port = port
        with suppress(OSError):
            Path(PORT).write_text(str(port))
        for user in self._users:
            self._welcome(user)

    def _on_end(self, mongod: Mongod) -> None:
        self._selector.unregister(mongod.output)
        self._mongod = None
        code = mongod.wait()
        if self._served:
            self._launch_at = time.monotonic() + self._pause(mongod)
            if self._crashes >= HOPELESS:
                self._report(code, "\n".join(mongod.tail))
        elif code == PORT_IS_TAKEN and self._ports < PORT_ATTEMPTS:
            self._ports += 1
            self._port = any_port()
            self._launch()
        else:
            self._give_up(code, "\n".join(mongod.tail))

    def _pause(self, mongod: Mongod) -> float:
        """Seconds before a crashed mongod is started again: none at first, then more and more."""
        steady = mongod.ready_at is not None and time.monotonic() - mongod.ready_at > STEADY
        self._crashes = 1 if steady else self._crashes + 1
        return min(5.0, 0.1 * ((1 << min(self._crashes, 10) - 1) - 1))

    def _report(self, code: int, log: str) -> None:
        for user in self._users:
            say(user, code=code, log=log)

    def _give_up(self, code: int, log: str) -> None:
        self._report(code, log)
        self._users.clear()

    def _close(self) -> None:
        self._listener.close()
        with suppress(OSError):
            Path(SOCKET).unlink()
        if self._mongod is not None:
            self._mongod.stop(self._grace())
        if self._plan.ephemeral:
            remove_directory()
        for user in self._leaving:
            user.detach()  # the kernel closes the connection, which is what they wait for, after all else

    def _grace(self) -> float:
        if self._plan.ephemeral:
            return 0
        return GRACE_AFTER_CRASH if self._deserted else GRACE


def say(user: socket.socket, **message: Any) -> None:  # noqa: ANN401
    """Send a line to a user, who may be gone already."""
    with suppress(OSError):
        user.sendall(json.dumps(message).encode() + b"\n")


def remembered_port() -> int:
    """The port of the last time, so that URIs live as long as possible; 0 if there is none."""
    try:
        return int(Path(PORT).read_text())
    except (OSError, ValueError):
        return 0


def any_port() -> int:
    """A port that is probably free; mongod will tell."""
    return PORTS[int.from_bytes(os.urandom(4), "big") % len(PORTS)]


def remove_directory() -> None:
    """Delete the current directory."""
    import shutil

    with suppress(FileNotFoundError):
        shutil.rmtree(Path.cwd(), ignore_errors=True)


def end(*_: object) -> NoReturn:
    """Stop mongod and end, on a signal."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(0)


def main(plan: str) -> None:
    """Be the keeper, in a process that no user is the parent of and has to wait for."""
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end)
    Keeper(Plan(**json.loads(plan))).run()
