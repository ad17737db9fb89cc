"""Processes, servers and a network of the tests' own, to be killed, frozen and cut."""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from monque.embedded import find_mongod
from monque.testing import Program, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pymongo import AsyncMongoClient
    from pymongo.database import Database

T = TypeVar("T")
PROGRAM = Path(__file__).with_name("worker_program.py")
# Long enough for a machine that does ten other things; whoever waits for it in vain has failed anyway.
PATIENCE = 60.0


async def patiently(condition: Callable[[], T]) -> T:
    return await eventually(condition, timeout=PATIENCE, poll=0.05)


# --- processes of Monque --------------------------------------------------------------------------------------------


class Process(Program):
    """A run of `worker_program.py`."""

    def __init__(self, **given: Any) -> None:
        super().__init__(PROGRAM, json.dumps(given))

    def told(self, what: str) -> list[dict[str, Any]]:
        """What it has said of that kind so far."""
        lines = self.output.splitlines(keepends=True)
        said: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith("\n")]
        return [fact for fact in said if fact["what"] == what]

    def is_healthy(self) -> bool:
        """What it said of itself last."""
        return bool(self.told("health")[-1:] and self.told("health")[-1]["healthy"])

    async def until_told(self, what: str) -> list[dict[str, Any]]:
        def told() -> list[dict[str, Any]]:
            ended = self.exit_code
            assert self.told(what) or ended is None, f"it ended with {ended}: {self.errors}"
            return self.told(what)

        return await patiently(told)

    def go(self) -> None:
        """Let a producer begin."""
        self.tell("")

    def is_running(self) -> bool:
        return self.exit_code is None

    async def ended(self) -> int | None:
        """Its exit code, once it has one."""
        await patiently(lambda: self.exit_code is not None)
        return self.exit_code

    async def stopped(self) -> None:
        """End it the way an operator would."""
        self.terminate()
        assert await self.ended() == 0


# --- what is in the database ----------------------------------------------------------------------------------------


def statuses(database: Database[Any]) -> dict[str, int]:
    """How many jobs there are, by status."""
    rows = database.monque_jobs.aggregate([{"$group": {"_id": "$status", "count": {"$sum": 1}}}])
    return {row["_id"]: row["count"] for row in rows}


def fail_once(client: AsyncMongoClient[Any], name: str, command: str, **how: Any) -> Awaitable[Any]:
    """Let the next `command` of the client that calls itself `name` go wrong."""
    data = {"failCommands": [command], "appName": name, **how}
    return client.admin.command("configureFailPoint", "failCommand", mode={"times": 1}, data=data)


def entries(database: Database[Any]) -> Counter[Any]:
    """How often a handler was entered, by job."""
    return Counter(row["job"] for row in database.entries.find({}, {"job": 1}))


# --- servers --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Mongod:
    """A server process that can be killed, frozen, and started again on the same port and data."""

    def __init__(self, directory: Path, replica_set: str) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._directory = directory
        self._replica_set = replica_set
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._popen = subprocess.Popen(
            [
                find_mongod(),
                "--quiet",
                "--nounixsocket",
                "--bind_ip=127.0.0.1",
                f"--port={self.port}",
                f"--dbpath={self._directory}",
                f"--replSet={self._replica_set}",
                f"--logpath={self._directory / 'mongod.log'}",
                "--logappend",
                "--oplogSize=64",
                "--wiredTigerCacheSizeGB=0.25",
                "--setParameter=enableTestCommands=1",
                "--setParameter=diagnosticDataCollectionEnabled=false",
            ],
            stdout=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  one call to the kernel, and no thread of ours holds a lock
        )

    def client(self) -> MongoClient[dict[str, Any]]:
        """To this one, whatever it is in its replica set."""
        return MongoClient(self.address, directConnection=True)

    def send(self, number: signal.Signals) -> None:
        assert self._popen is not None
        self._popen.send_signal(number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        assert self._popen is not None
        self._popen.kill()
        self._popen.wait()


class ReplicaSet:
    """Servers that elect a primary among them, quickly."""

    def __init__(self, directory: Path, members: int) -> None:
        self.name = "acceptance"
        self.members = [Mongod(_made(directory / str(number)), self.name) for number in range(members)]

    @property
    def uri(self) -> str:
        addresses = ",".join(member.address for member in self.members)
        return f"mongodb://{addresses}/?replicaSet={self.name}"

    def start(self) -> None:
        for member in self.members:
            member.start()
        configuration = {
            "_id": self.name,
            "members": [{"_id": number, "host": member.address} for number, member in enumerate(self.members)],
            "settings": {"electionTimeoutMillis": 1500, "heartbeatIntervalMillis": 300},
        }
        for member in self.members:
            # All have to be there when the first is told of them.
            with member.client() as client:
                client.admin.command("ping")
        with self.members[0].client() as client:
            client.admin.command("replSetInitiate", configuration)
        self.until_writable()

    def until_writable(self) -> None:
        deadline = time.monotonic() + PATIENCE
        with self.client() as client:
            while time.monotonic() < deadline:
                with suppress(PyMongoError):
                    client.admin.command("hello")
                    client.get_database("admin").probe.insert_one({})
                    return
        raise AssertionError("no primary")

    def client(self) -> MongoClient[dict[str, Any]]:
        return MongoClient(self.uri, tz_aware=True, serverSelectionTimeoutMS=2000, w="majority")

    def step_down(self) -> None:
        """Let the primary hand over; a set that is busy electing refuses, and that is as good."""
        with self.client() as client, suppress(PyMongoError):
            client.admin.command("replSetStepDown", 2, secondaryCatchUpPeriodSecs=1)

    def kill_primary(self) -> None:
        with self.client() as client:
            port = client.admin.command("hello")["me"].rpartition(":")[2]
        next(member for member in self.members if str(member.port) == port).kill()

    def end(self) -> None:
        for member in self.members:
            member.kill()


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


# --- a network ------------------------------------------------------------------------------------------------------


class Proxy:
    """Forwards connections to a server, until it is told to cut them, to let them go dead, or to refuse new ones."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._links: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._dead: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0

    async def accept(self) -> None:
        """Take connections, on the same port as before."""
        self._server = await asyncio.start_server(self._link, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    def refuse(self) -> None:
        """Take no connections, and cut those there are."""
        assert self._server is not None
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset the connections there are."""
        for writers in self._links.values():
            for writer in writers:
                writer.transport.abort()

    def deaden(self) -> None:
        """Forward nothing any more on the connections there are, and tell neither side."""
        self._dead.update(self._links)

    def stall(self) -> None:
        """Forward nothing on any connection, old or new, until `flow()`."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = [writer]
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            self._links[task].append(back)
            await asyncio.wait(
                [
                    asyncio.ensure_future(self._pump(task, reader, back)),
                    asyncio.ensure_future(self._pump(task, there, writer)),
                ]
            )
        except OSError:
            pass  # the server is not there
        finally:
            for end in self._links.pop(task):
                end.transport.abort()

    async def _pump(self, link: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                if link not in self._dead:
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()

    async def end(self) -> None:
        self.refuse()
        self._flowing.set()
        while self._links:
            await asyncio.wait(list(self._links))
