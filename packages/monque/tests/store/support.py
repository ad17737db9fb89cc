"""What the tests of the storage share."""

from __future__ import annotations

import asyncio
import socket
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from bson import ObjectId
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable

    from pymongo import MongoClient
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.collection import Collection
    from pymongo.database import Database
    from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent

Document = dict[str, Any]

PAST = datetime(2024, 1, 1, tzinfo=UTC)
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)
CLAIM_FIELDS = {"claimedBy", "claimToken", "lockedAt", "lastHeartbeat", "heartbeatInterval"}


def stored(status: str = "pending", **changes: Any) -> Document:
    """A job's document, as it lies in the collection; fields that are given as None are absent."""
    document: Document = {
        "_id": ObjectId(),
        "name": "work",
        "data": {},
        "status": status,
        "nextRunAt": PAST,
        "failCount": 0,
        "createdAt": PAST,
        "updatedAt": PAST,
    }
    if status == "processing":
        document |= {
            "claimedBy": "somebody",
            "claimToken": "token",
            "lockedAt": PAST,
            "lastHeartbeat": PAST,
            "heartbeatInterval": 10_000,
            "attempts": 1,
        }
    return {field: value for field, value in {**document, **changes}.items() if value is not None}


def from_node(**changes: Any) -> Document:
    """A document as @monque/core 1.10 writes it: whole numbers are doubles, and it knows nothing of other fields."""
    return {
        "_id": ObjectId(),
        "name": "work",
        "data": {"to": "a@b.c", "count": 3.0},
        "status": "pending",
        "nextRunAt": PAST,
        "failCount": 0.0,
        "createdAt": PAST,
        "updatedAt": PAST,
        **changes,
    }


class Commands(CommandListener):
    """Remembers the commands a client sends.

    Attributes:
        sent: The commands so far.
        before: Called with each before it is sent.
        after: Called when one of this name has succeeded, with its answer.
    """

    def __init__(self) -> None:
        self.sent: list[Document] = []
        self.before: Callable[[Document], object] | None = None
        self.after: dict[str, Callable[[Any], object]] = {}

    def started(self, event: CommandStartedEvent) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        self.sent.append(dict(event.command))
        if self.before is not None:
            self.before(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        if event.command_name in self.after:
            self.after[event.command_name](event.reply)

    def failed(self, event: CommandFailedEvent) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        pass

    def named(self, *names: str) -> list[Document]:
        return [command for command in self.sent if next(iter(command)) in names]


@dataclass
class Plan:
    """How the server ran a command.

    Attributes:
        stages: The kinds of its steps.
        indexes: The indexes it used.
        keys: Index keys examined.
        documents: Documents examined.
    """

    stages: set[str]
    indexes: set[str]
    keys: int
    documents: int


_OF_THE_SESSION = {"$db", "lsid", "$clusterTime", "txnNumber", "readConcern", "writeConcern", "$readPreference"}


def explain(database: Database[Document], command: Document) -> Plan:
    """How the server runs a command that a client sent."""
    plain = {key: value for key, value in command.items() if key not in _OF_THE_SESSION}
    answer = database.command({"explain": plain, "verbosity": "executionStats"})
    parts = list(_walk(answer))
    found = [part["executionStats"] for part in parts if "executionStats" in part]
    executed = list(_walk(found))
    return Plan(
        stages={part["stage"] for part in executed if isinstance(part.get("stage"), str)},
        indexes={part["indexName"] for part in executed if "indexName" in part},
        keys=sum(stats["totalKeysExamined"] for stats in found),
        documents=sum(stats["totalDocsExamined"] for stats in found),
    )


def statements(command: Document) -> list[Document]:
    """A command for each statement of one about jobs: the server explains no more than one at a time."""
    if command[next(iter(command))] != "monque_jobs":
        return []
    part = {"update": "updates", "delete": "deletes"}.get(next(iter(command)))
    return [command] if part is None else [{**command, part: [statement]} for statement in command[part]]


def _walk(value: object) -> Generator[Document]:
    parts: Iterable[object] = ()
    if isinstance(value, dict):
        yield cast("Document", value)
        parts = cast("Document", value).values()
    elif isinstance(value, list):
        parts = cast("list[object]", value)
    for part in parts:
        yield from _walk(part)


class Lab:
    """A database on a server that nobody else uses, so that it can be made to fail."""

    def __init__(self, client: MongoClient[Document], database: Database[Document], uri: str) -> None:
        self.client = client
        self.database = database
        self.jobs = database["monque_jobs"]
        # Failures are made for this name only: the test's own client is to see the truth.
        self._app = f"app-{uuid.uuid4().hex[:12]}"
        self.uri = uri

    @asynccontextmanager
    async def connected(self, **settings: Any) -> AsyncGenerator[AsyncDatabase[Document]]:
        async with AsyncMongoClient[Document](self.uri, appname=self._app, tz_aware=True, **settings) as client:
            yield client.get_default_database()

    @contextmanager
    def failing(self, *commands: str, mode: Any = "alwaysOn", **how: Any) -> Generator[None]:
        """Let commands of those who are `connected` fail: all, the next so many, or all after so many."""
        data = {"failCommands": list(commands), "appName": self._app, **how}
        self.client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
        try:
            yield
        finally:
            self.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def refuse(database: Database[Document], **condition: Any) -> None:
    """Let the collection refuse, from now on, documents to which the condition applies."""
    database.command({"collMod": "monque_jobs", "validator": {"$nor": [condition]}})


def spoil_text(jobs: Collection[Document], job_id: ObjectId) -> None:
    """Make the text `valid` somewhere in a document one that is no UTF-8."""
    codec = jobs.codec_options.with_options(document_class=RawBSONDocument)
    found = jobs.with_options(codec_options=codec).find_one_and_delete({"_id": job_id})
    valid = bytes(cast("RawBSONDocument", found).raw)
    jobs.insert_one(cast("Any", RawBSONDocument(valid.replace(b"valid\0", b"va\xffid\0"))))


class Proxy:
    """A way to the server on which an answer can be lost."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._lose: bytes | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = 0

    def lose_answer_to(self, command: str) -> None:
        """Let the next `command` through, but cut the connection instead of passing on what the server answers."""
        self._lose = b"\x02" + command.encode() + b"\0"

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[AsyncMongoClient[Document]]:
        """A client that goes this way."""
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        uri = f"mongodb://127.0.0.1:{server.sockets[0].getsockname()[1]}/?directConnection=true"
        try:
            async with AsyncMongoClient[Document](uri, tz_aware=True) as client:
                yield client
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self._host, self._port)
        asked = asyncio.Event()
        for work in (self._ask(reader, there_writer, asked), self._answer(there_reader, writer, asked)):
            task = asyncio.create_task(work)
            self._tasks.add(task)

    async def _ask(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while data := await source.read(65536):
            if self._lose is not None and self._lose in data:
                self._lose = None
                asked.set()
            target.write(data)
        target.close()

    async def _answer(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while (data := await source.read(65536)) and not asked.is_set():
            target.write(data)
        self.lost += asked.is_set()
        target.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port
