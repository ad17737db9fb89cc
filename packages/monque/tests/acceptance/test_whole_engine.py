"""Two whole instances on one collection, random jobs with scripts of what their handlers do, starts and stops."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pymongo import AsyncMongoClient
from typing_extensions import override

from monque import Concurrency, Job, Lease, Monque, Options, Polling, Retry
from monque.testing import eventually

if TYPE_CHECKING:
    from bson import ObjectId
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.asynchronous.database import AsyncDatabase

Document = dict[str, Any]

PATIENCE = 60
MAX_RETRIES = 3
NAMES = ("a", "b", "c")
PER_WORKER, PER_INSTANCE = 2, 3
OPTIONS = Options(
    concurrency=Concurrency(per_worker=PER_WORKER, per_instance=PER_INSTANCE),
    retry=Retry(max_retries=MAX_RETRIES, base=0.001),
    lease=Lease(timeout=30),
    polling=Polling(interval=0.5, safety=0.5),
    shutdown_timeout=0.2,
)


class OddError(BaseException):
    """What no handler should raise."""


class WordlessError(Exception):
    @override
    def __str__(self) -> str:
        raise RuntimeError("no words")


ERRORS: dict[str, type[BaseException]] = {
    "fail": ValueError,
    "leave": SystemExit,
    "cancelled": asyncio.CancelledError,
    "odd": OddError,
    "wordless": WordlessError,
}
ENDS = st.sampled_from(["succeed", "succeed", *ERRORS])


@dataclass(frozen=True)
class Script:
    """One job.

    Attributes:
        name: Its name.
        runs: How its runs end; the last one's end is that of all further ones.
        wait: Whether its handler waits until the actions are over.
        steal: Whether the claim is taken away from its first run.
    """

    name: str
    runs: tuple[str, ...]
    wait: bool
    steal: bool

    @property
    def failures(self) -> int:
        ends = [self.end_of(number) for number in range(MAX_RETRIES)]
        return ends.index("succeed") if "succeed" in ends else MAX_RETRIES

    @property
    def status(self) -> str:
        return "completed" if self.succeeds else "failed"

    @property
    def succeeds(self) -> bool:
        return self.failures < MAX_RETRIES

    def end_of(self, number: int) -> str:
        return self.runs[min(number, len(self.runs) - 1)]


SCRIPTS = st.builds(
    Script,
    name=st.sampled_from(NAMES),
    runs=st.lists(ENDS, min_size=1, max_size=MAX_RETRIES).map(tuple),
    wait=st.booleans(),
    steal=st.integers(0, 9).map(lambda number: number == 0),
)
ACTIONS = st.sampled_from(["start 0", "start 1", "stop 0", "stop 1"])
CLAIM = ("claimedBy", "claimToken", "lockedAt", "lastHeartbeat", "heartbeatInterval")
# What is written when a lease has run out.
TAKE_BACK: Document = {"$set": {"status": "pending"}, "$unset": dict.fromkeys(CLAIM, "")}


class Scene:
    """What the handlers of all instances do, and what is seen of it."""

    def __init__(self, jobs: AsyncCollection[Document]) -> None:
        self.jobs = jobs
        self.scripts: dict[ObjectId, Script] = {}
        self.entered: Counter[ObjectId] = Counter()
        self.cut_short: Counter[ObjectId] = Counter()
        self.completed: Counter[ObjectId] = Counter()
        self.failed: Counter[ObjectId] = Counter()
        self.stolen: set[ObjectId] = set()
        self.excess: list[str] = []
        self.gate = asyncio.Event()

    def make_instance(self, database: AsyncDatabase[Document]) -> Monque:
        monque = Monque(database, OPTIONS)
        running: Counter[str] = Counter()

        async def handle(job: Job[Document]) -> None:
            running[job.name] += 1
            if running[job.name] > PER_WORKER or running.total() > PER_INSTANCE:
                self.excess.append(f"{job.name}: {running}")
            try:
                await self._act(job)
            finally:
                running[job.name] -= 1

        for name in NAMES:
            monque.worker(name, handle)
        monque.on("job:complete", lambda event: self.completed.update([event.job.id]))
        monque.on("job:fail", lambda event: self.failed.update([event.job.id]))
        return monque

    async def enqueue(self, monque: Monque, scripts: list[Script]) -> None:
        jobs = await monque.enqueue_many((script.name, asdict(script)) for script in scripts)
        self.scripts.update((job.id, script) for job, script in zip(jobs, scripts, strict=True))

    async def is_over(self) -> bool:
        return not await self.jobs.count_documents({"status": {"$in": ["pending", "processing"]}})

    async def _act(self, job: Job[Document]) -> None:
        script = Script(job.name, tuple(job.data["runs"]), job.data["wait"], job.data["steal"])
        self.entered[job.id] += 1
        try:
            if script.steal and job.id not in self.stolen:
                self.stolen.add(job.id)
                await self.jobs.update_one({"_id": job.id}, TAKE_BACK)
            elif script.wait:
                await self.gate.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cut_short[job.id] += 1
            raise
        end = script.end_of(job.fail_count)
        if end != "succeed":
            raise ERRORS[end]


async def play(database: AsyncDatabase[Document], scripts: list[Script], actions: list[str]) -> Scene:
    """Do the actions, a few jobs with each, then let everything come to its end."""
    scene = Scene(database.monque_jobs)
    waiting = list(scripts)
    async with scene.make_instance(database) as one, scene.make_instance(database) as other:
        for number, action in enumerate([*actions, "start 0", "start 1"]):
            some = (len(waiting) + len(actions)) // (len(actions) + 1)
            await scene.enqueue((one, other)[number % 2], waiting[:some])
            del waiting[:some]
            await _do(action, one, other)
        await scene.enqueue(one, waiting)
        scene.gate.set()
        await eventually(scene.is_over, timeout=PATIENCE, poll=0.05)
    return scene


async def _do(action: str, one: Monque, other: Monque) -> None:
    what, _, which = action.partition(" ")
    instance = (one, other)[int(which)]
    await (instance.start() if what == "start" else instance.stop())


async def check(scene: Scene) -> None:
    documents = {one["_id"]: one async for one in scene.jobs.find()}
    assert documents.keys() == scene.scripts.keys()
    assert not scene.excess
    for job, script in scene.scripts.items():
        document = documents[job]
        assert (document["status"], document["failCount"]) == (script.status, script.failures)
        # What is announced is what is written, also where a claim was taken away.
        assert (scene.completed[job], scene.failed[job]) == (script.succeeds, script.failures)
        runs = scene.entered[job] - scene.cut_short[job]
        if job in scene.stolen:
            assert runs >= 1
        else:
            assert runs == document["attempts"] == script.failures + script.succeeds


@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(scripts=st.lists(SCRIPTS, min_size=5, max_size=40), actions=st.lists(ACTIONS, max_size=6))
def test_every_job_ends_as_its_handler_says(monque_server: str, scripts: list[Script], actions: list[str]) -> None:
    async def example() -> None:
        name = f"monque_test_whole_{uuid.uuid4().hex[:12]}"
        async with AsyncMongoClient[Document](monque_server, tz_aware=True) as client:
            try:
                await check(await play(client[name], scripts, actions))
            finally:
                await client.drop_database(name)

    asyncio.run(example())
