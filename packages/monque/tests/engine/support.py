"""What the engine's tests share: instances on a database of their own, what they say, and a server that fails."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from bson import ObjectId
from pymongo import MongoClient
from pymongo.monitoring import CommandListener

from monque import Monque, Options, Polling
from monque.events import EventName
from monque.testing import eventually
from monque.testing.plugin import drop, with_database

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable

    from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent
    from typing_extensions import override

    from monque import Job
else:

    def override(method: Any) -> Any:
        return method


E = TypeVar("E")
Document = dict[str, Any]

# Nothing that a test waits for is found by a poll that is this far away.
NO_POLLS = Polling(interval=60, safety=60)
FOREVER = 3600.0


class Bench:
    """A database of a test's own."""

    def __init__(self, server: str) -> None:
        self.database_name = f"monque_test_{uuid.uuid4().hex[:12]}"
        # Failures are made for this name only, so that nobody else's commands fail.
        self.app = f"app-{uuid.uuid4().hex[:12]}"
        uri = with_database(server, self.database_name)
        self.uri = f"{uri}{'&' if '?' in uri else '?'}appName={self.app}"
        self.client = MongoClient[Document](server, tz_aware=True)
        self.database = self.client[self.database_name]
        self.jobs = self.database.monque_jobs

    def monque(self, uri: str | None = None, /, **options: Any) -> Monque:
        return Monque(uri or self.uri, Options(**options))

    def now(self) -> datetime:
        moment: datetime = self.client.admin.command("hello")["localTime"]
        return moment.replace(tzinfo=UTC)

    def insert(self, job_name: str, /, **fields: Any) -> ObjectId:
        return self.insert_many([{"name": job_name, **fields}])[0]

    def insert_many(self, jobs: Iterable[Document]) -> list[ObjectId]:
        """Store jobs as another producer would, without Monque."""
        documents = self.plain(jobs)
        self.jobs.insert_many(documents)
        return [document["_id"] for document in documents]

    def plain(self, jobs: Iterable[Document]) -> list[Document]:
        """Documents of jobs that are due, but for what is said of them."""
        now = self.now()
        return [{**_plain(now), **fields} for fields in jobs]

    def insert_claimed(self, name: str, /, *, age: float, **fields: Any) -> ObjectId:
        """Store a job that a dead instance holds, whose lease of 30 s was renewed last `age` seconds ago."""
        then = self.now() - timedelta(seconds=age)
        claim = {
            "status": "processing",
            "claimedBy": "dead",
            "claimToken": "dead",
            "lockedAt": then,
            "lastHeartbeat": then,
            "heartbeatInterval": 10_000,
            "attempts": 1,
        }
        return self.insert(name, **{**claim, **fields})

    def find(self, job: ObjectId | Job[Any]) -> Document:
        document = self.jobs.find_one({"_id": job if isinstance(job, ObjectId) else job.id})
        assert document is not None
        return document

    def glance(self, job: ObjectId) -> Document:
        """What can be read of a job that as a whole cannot."""
        document = self.jobs.find_one({"_id": job}, {"status": 1, "failReason": 1})
        assert document is not None
        return document

    def count(self, **query: Any) -> int:
        return self.jobs.count_documents(query)

    def statuses(self) -> Counter[str]:
        return Counter(document["status"] for document in self.jobs.find({}, {"status": 1}))

    def steal(self, job: ObjectId | Job[Any], **fields: Any) -> None:
        """Let a claim end as if its lease had run out and another instance had taken the job back."""
        claim = ["claimedBy", "claimToken", "lockedAt", "lastHeartbeat", "heartbeatInterval"]
        self.jobs.update_one(
            {"_id": job if isinstance(job, ObjectId) else job.id},
            {"$set": {"status": "pending", **fields}, "$unset": dict.fromkeys(claim, "")},
        )

    def close(self) -> None:
        drop(self.database)
        self.client.close()


class Lab(Bench):
    """The same on a server that nobody else uses, so that it can be made to fail."""

    @contextmanager
    def failing(self, *commands: str, times: int | None = None, **how: Any) -> Generator[None]:
        """Make commands of this test's instances fail: the next `times`, or all while the block lasts."""
        self.fail(*commands, times=times, **how)
        try:
            yield
        finally:
            self.heal()

    def fail(self, *commands: str, times: int | None = None, **how: Any) -> None:
        """The same from now on."""
        mode: Any = "alwaysOn" if times is None else {"times": times}
        if {*commands} <= {"find", "update"}:
            # Those about jobs; instances say how they are by the same commands.
            how.setdefault("namespace", f"{self.database_name}.monque_jobs")
        self._fail({"mode": mode, "data": {"failCommands": list(commands), "appName": self.app, **how}})

    def end_transactions(self) -> None:
        """Have the server end those that this test's instances have left open."""
        idle = self.client.admin.aggregate([{"$currentOp": {"idleSessions": True, "localOps": True}}])
        sessions = [
            {"id": one["lsid"]["id"]} for one in idle if one.get("appName") == self.app and "transaction" in one
        ]
        self.client.admin.command("killSessions", sessions)

    def heal(self) -> int:
        """Let nothing fail any more; how often something has, over the life of the server."""
        return int(self._fail({"mode": "off"})["count"])

    def _fail(self, how: Document) -> Document:
        return self.client.admin.command({"configureFailPoint": "failCommand", **how})

    def doing(self) -> list[Document]:
        """What the server does for this test's instances at this moment."""
        operations = self.client.admin.aggregate([{"$currentOp": {"idleCursors": True, "localOps": True}}])
        return [operation for operation in operations if operation.get("appName") == self.app]

    def is_doing(self, command: str) -> bool:
        return any(command in operation.get("command", {}) for operation in self.doing())

    def streams(self) -> list[Document]:
        """The change streams of this test's instances, on jobs."""
        streams = [operation for operation in self.doing() if operation.get("cursor", {}).get("tailable")]
        return [stream for stream in streams if stream["ns"].endswith(".monque_jobs")]


class Commands(CommandListener):
    """The commands that an instance sends for its jobs, by name."""

    def __init__(self) -> None:
        self.names: list[str] = []

    @override
    def started(self, event: CommandStartedEvent) -> None:
        if "monque_jobs" in event.command.values():
            self.names.append(event.command_name)

    @override
    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Not counted."""

    @override
    def failed(self, event: CommandFailedEvent) -> None:
        """Not counted."""


class Record:
    """What an instance has said, in order."""

    def __init__(self, monque: Monque) -> None:
        self.events: list[Any] = []
        self.times: list[float] = []
        for name in get_args(EventName):
            monque._events.on(name, self._note)

    def _note(self, event: object) -> None:
        self.events.append(event)
        self.times.append(time.monotonic())

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def has(self, kind: type[E]) -> Callable[[], list[E]]:
        return lambda: self.of(kind)


class Gate:
    """A handler that lets no run end before it is opened, and keeps count; a stubborn one cannot be cancelled."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.started: list[Job[Any]] = []
        self.ended: list[Job[Any]] = []
        self.cancelled: list[Job[Any]] = []
        self.now = 0
        self.most = 0
        self._stubborn = stubborn
        self._open = asyncio.Event()

    async def __call__(self, job: Job[Any]) -> None:
        self.started.append(job)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self._pass(job)
        finally:
            self.now -= 1
        self.ended.append(job)

    def open(self) -> None:
        self._open.set()

    async def reached(self, number: int = 1) -> None:
        await eventually(lambda: len(self.started) >= number, timeout=20)

    async def _pass(self, job: Job[Any]) -> None:
        while True:
            try:
                await self._open.wait()
            except asyncio.CancelledError:
                self.cancelled.append(job)
                if not self._stubborn:
                    raise
            else:
                return


class Proxy:
    """A way to the server that can be cut, or fall silent."""

    def __init__(self, server: str) -> None:
        host = MongoClient[Document](server, connect=False)
        self._to = next(iter(host.topology_description.server_descriptions()))
        host.close()
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._speaking = asyncio.Event()
        self._speaking.set()
        self.mute_streams = False
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Proxy]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            # One that is about to make a connection would go on otherwise, and nobody would close that any more.
            while self._tasks:
                for task in self._tasks:
                    task.cancel()
                await asyncio.wait(self._tasks)
            self.cut()

    def uri(self, bench: Bench, **settings: Any) -> str:
        more = "".join(f"&{name}={value}" for name, value in settings.items())
        return f"mongodb://127.0.0.1:{self.port}/{bench.database_name}?directConnection=true&heartbeatFrequencyMS=1000&appName={bench.app}{more}"

    def fall_silent(self) -> None:
        """Connections stay open, and nothing comes through any more."""
        self._speaking.clear()

    def speak(self) -> None:
        self._speaking.set()

    def cut(self) -> None:
        """Every connection ends."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._remember(asyncio.current_task())
        self._writers.append(writer)
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._to)
        except OSError:
            writer.close()
            return
        self._writers.append(there_writer)
        line = _Line()
        for source, target, outward in ((reader, there_writer, True), (there_reader, writer, False)):
            self._remember(asyncio.create_task(self._pump(source, target, line, outward=outward)))

    def _remember(self, task: asyncio.Task[Any] | None) -> None:
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, line: _Line, *, outward: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                await self._speaking.wait()
                if outward:
                    # A connection is anybody's again once its request was answered.
                    line.streams = b"$changeStream" in data or b"getMore" in data
                if not (self.mute_streams and line.streams):
                    target.write(data)
                    await target.drain()
        except OSError:
            pass
        finally:
            target.close()


class _Line:
    """One connection; whether what was asked last was to open a change stream, or to read on."""

    def __init__(self) -> None:
        self.streams = False


@asynccontextmanager
async def working(*monques: Monque) -> AsyncGenerator[None]:
    """Instances at work, in the order given."""
    if not monques:
        yield
        return
    first, *others = monques
    async with first:
        await first.start()
        async with working(*others):
            yield


def other_tasks() -> set[asyncio.Task[Any]]:
    """What else runs on this event loop."""
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def our_tasks() -> list[str]:
    """What Monque runs on this event loop, by name."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in other_tasks()]
    return [name for name in names if name.split(".")[0] in _OURS]


_OURS = {"Engine", "Claims", "Runs", "Wakeup", "Batcher", "Events", "_repeat", "_wait_for_running"}


def _plain(now: datetime) -> Document:
    return {
        "_id": ObjectId(),
        "data": {},
        "status": "pending",
        "nextRunAt": now,
        "failCount": 0,
        "createdAt": now,
        "updatedAt": now,
    }
