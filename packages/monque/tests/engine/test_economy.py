"""What Monque asks of the server, counted and bounded. Nothing here is timed: a slow machine asks for no more.

The bounds follow from how jobs are meant to travel, not from what was counted once. A job needs four things: to be
seen, taken, read and settled. Each is one command for as many jobs as there are slots, and each finds them by an index.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener

from monque import ChangeStreamConnectedEvent, Concurrency, Job, JobCompleteEvent, JobStartEvent, Monque, Options
from monque._store import indexes
from monque.testing import eventually

from .support import NO_POLLS, Gate, Record, working

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent

    from .support import Bench, Document, Lab

# To see, to take, to read and to settle; what is read may come in two parts, and so may what is seen.
STEPS = 6
# A slot is filled again as soon as it is free, so a batch need not have one job for each; half of that, on average.
HALF_FULL = 2
# Looking ahead, looking in vain, polling once: what is asked at the beginning and at the end, however many jobs.
AROUND = 30
# Between two ranges of an index is a key that is met in vain; the values of `priority` are ranges, and absent is one.
RANGES = 2 * 22
SETTLED, AHEAD = 20_000, 20_000


class Traffic(CommandListener):
    """What one client has asked about jobs, and been told."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.hints: list[int] = []
        self.claims: list[int] = []
        self._asked: dict[int, Any] = {}

    def started(self, event: CommandStartedEvent) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        if "monque_jobs" in event.command.values():
            self.names.append(event.command_name)
            self._asked[event.request_id] = event.command

    def succeeded(self, event: CommandSucceededEvent) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        command: Document = self._asked.pop(event.request_id, {})
        reply: Document = dict(event.reply)
        if "getMore" in command and "postBatchResumeToken" in reply["cursor"]:
            self.hints.append(len(reply["cursor"]["nextBatch"]))
        elif any(_is_claim(update) for update in command.get("updates", ())):
            self.claims.append(reply["nModified"])

    def failed(self, event: CommandFailedEvent) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        self._asked.pop(event.request_id, None)

    def count(self, *names: str) -> int:
        """How many commands, without those that listen."""
        return sum(name in names if names else name != "getMore" for name in self.names)


def _is_claim(update: Any) -> bool:
    return "claimToken" in dict(update["u"]).get("$set", {}) if isinstance(update["u"], dict) else False


@asynccontextmanager
async def counted(bench: Bench, **options: Any) -> AsyncGenerator[tuple[Monque, Traffic]]:
    """An instance that is not connected yet, and what it will have asked."""
    traffic = Traffic()
    async with AsyncMongoClient[dict[str, Any]](bench.uri, tz_aware=True, event_listeners=[traffic]) as client:
        yield Monque(client, Options(polling=NO_POLLS, **options)), traffic


async def _return_at_once(job: Job[Any]) -> None: ...


async def _completed(bench: Bench, number: int) -> None:
    await eventually(lambda: bench.count(status="completed") >= number, timeout=60, poll=0.05)


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("concurrency", "jobs"), [(1, 100), (100, 1000), (500, 1000)])
async def test_a_batch_of_jobs_costs_as_many_commands_as_one(bench: Bench, concurrency: int, jobs: int) -> None:
    bench.insert_many([{"name": "greet"}] * jobs)
    async with counted(bench, concurrency=Concurrency(concurrency)) as (monque, traffic):
        monque.worker("greet", _return_at_once)
        async with working(monque):
            await _completed(bench, jobs)
    batches = jobs / concurrency * (1 if concurrency == 1 else HALF_FULL)
    assert traffic.count() <= batches * STEPS + AROUND


async def test_what_ends_together_is_settled_together(bench: Bench) -> None:
    bench.insert_many([{"name": "greet"}] * 300)
    async with counted(bench, concurrency=Concurrency(300)) as (monque, traffic):
        runs = Gate()
        monque.worker("greet", runs)
        async with working(monque):
            await runs.reached(300)
            before = traffic.count("update", "bulkWrite")
            runs.open()
            await _completed(bench, 300)
    # The first to end may go alone, and those that end while it is written make up the next.
    assert traffic.count("update", "bulkWrite") - before <= 3


async def test_many_jobs_are_enqueued_in_one_command(bench: Bench) -> None:
    async with counted(bench) as (monque, traffic), monque:
        traffic.names.clear()
        await monque.enqueue_many(("greet", number) for number in range(1000))
        assert traffic.names == ["insert"]
        keyed: list[Document] = [{"name": "greet", "unique_key": str(number)} for number in range(1000)]
        await monque.enqueue_many(keyed)
        assert traffic.names == ["insert"] * 2
        await monque.enqueue_many(keyed)
        # One to be told that all keys are taken; who has them comes in parts, of which the second is without bounds.
        assert traffic.count("insert") == 3
        assert len(traffic.names) <= 5


# --- keys and documents -----------------------------------------------------------------------------------------------


def _crowd(bench: Bench, names: list[str], fields: Iterable[Document]) -> int:
    """Jobs that ended and jobs of the future, and among them some that are due; how many of those."""
    bench.jobs.create_indexes(indexes.models())
    far = bench.now().replace(year=2999)
    bench.insert_many({"name": names[n % len(names)], "status": "completed"} for n in range(SETTLED))
    bench.insert_many({"name": names[n % len(names)], "nextRunAt": far} for n in range(AHEAD))
    return len(bench.insert_many(fields))


def _examined(lab: Bench) -> Document:
    """What the server has gone through for this test's instances."""
    sums = {
        "keys": {"$sum": "$keysExamined"},
        "documents": {"$sum": "$docsExamined"},
        "returned": {"$sum": "$nreturned"},
    }
    # Opening a stream reads nothing.
    asked: Document = {"appName": lab.app, "command.pipeline.$changeStream": {"$exists": False}}
    return next(lab.database.system.profile.aggregate([{"$match": asked}, {"$group": {"_id": None, **sums}}]))


async def _profiled_drain(bench: Bench, names: list[str], jobs: int, **options: Any) -> tuple[Document, Traffic]:
    async with counted(bench, **options) as (monque, traffic):
        for name in names:
            monque.worker(name, _return_at_once)
        async with monque:
            # Its entries are kept in a collection of limited size, which has to be large enough for all of them.
            bench.database.create_collection("system.profile", capped=True, size=64 * 1024 * 1024)
            bench.database.command("profile", 2)
            await monque.start()
            await eventually(lambda: _done_quietly(bench, jobs), timeout=60, poll=0.2)
            await monque.stop()
            bench.database.command("profile", 0)
    return _examined(bench), traffic


def _done_quietly(bench: Bench, jobs: int) -> bool:
    return bench.jobs.count_documents({"settledBy": {"$exists": True}}) == jobs


@pytest.mark.parametrize("priorities", [False, True])
async def test_a_job_is_found_among_thousands_of_others_by_its_own_keys(lab: Lab, priorities: bool) -> None:
    due = [{"name": "greet", **({"priority": n % 21 - 10} if priorities and n % 21 != 10 else {})} for n in range(1000)]
    jobs = _crowd(lab, ["greet"], due)
    examined, traffic = await _profiled_drain(lab, ["greet"], jobs, concurrency=Concurrency(100))
    # Each step meets a job's key, and the next one to find that it is another's; a look may begin further on in the
    # line, where nobody else takes jobs, and passes those before: not more of them than it takes.
    assert examined["keys"] <= jobs * (2 * 4 + 2) + traffic.count("find", "aggregate") * RANGES
    # Nor does a job that is not due have to be read to find that out.
    assert examined["documents"] <= jobs * (4 + 2) + traffic.count("find", "aggregate") * RANGES


async def test_thirty_names_that_share_a_limit_are_found_by_their_own_keys(lab: Lab) -> None:
    names = [f"name-{number}" for number in range(30)]
    limit = 20
    jobs = _crowd(lab, names, [{"name": names[n % 30]} for n in range(600)])
    examined, traffic = await _profiled_drain(lab, names, jobs, concurrency=Concurrency(5, limit))
    # What a look returns is what it examines. As many names as there are slots may each fill all of them, and the look
    # is for them to take turns: that many at most for a slot, and never those that are not due.
    looks = traffic.count("find", "aggregate")
    assert examined["returned"] <= jobs * (limit + 3) * HALF_FULL
    assert examined["keys"] <= 2 * examined["returned"] + 4 * jobs + looks * 2 * 2 * len(names)


# --- wake-ups ---------------------------------------------------------------------------------------------------------


async def _listen(monque: Monque, record: Record) -> None:
    await monque.start()
    await eventually(record.has(ChangeStreamConnectedEvent))


async def test_jobs_of_foreign_names_are_not_even_sent(bench: Bench) -> None:
    async with counted(bench) as (monque, traffic):
        record, runs = Record(monque), Gate()
        monque.worker("greet", runs)
        async with monque:
            await _listen(monque, record)
            bench.insert_many([{"name": "foreign"}] * 1000)
            bench.insert("greet")
            # What is sent comes in order: with this one, all that came before it has come.
            await runs.reached(1)
            runs.open()
    assert sum(traffic.hints) == 1


async def test_claims_and_settles_are_not_even_sent(bench: Bench) -> None:
    # With room for all of them: an instance that has to leave some to later does not listen meanwhile.
    async with counted(bench, concurrency=Concurrency(1000)) as (monque, traffic):
        record = Record(monque)
        monque.worker("greet", _return_at_once)
        async with monque:
            await _listen(monque, record)
            bench.insert_many([{"name": "greet"}] * 200)
            await _completed(bench, 200)
            bench.insert("greet")
            await eventually(lambda: sum(traffic.hints) >= 201)
    assert sum(traffic.hints) == 201


async def test_a_burst_of_jobs_is_one_reason_to_look_and_not_a_thousand(bench: Bench) -> None:
    async with counted(bench, concurrency=Concurrency(1000)) as (monque, traffic):
        record, runs = Record(monque), Gate()
        monque.worker("greet", runs)
        async with monque:
            await _listen(monque, record)
            await _until_idle(traffic)
            before = traffic.count()
            _insert_at_one_moment(bench, 1000)
            await runs.reached(1000)
            await eventually(lambda: sum(traffic.hints) == 1000)
            await _until_idle(traffic)
            asked = traffic.count() - before
            runs.open()
    # All become visible at one moment. Hints that come before a look are answered by it; those that come meanwhile,
    # in further parts of what is sent, by the next.
    assert asked <= STEPS * (len(traffic.hints) + 1)
    assert len(traffic.hints) <= 10


async def test_an_instance_without_free_slots_looks_for_nothing(bench: Bench) -> None:
    async with counted(bench, concurrency=Concurrency(1)) as (monque, traffic):
        record, runs = Record(monque), Gate()
        monque.worker("greet", runs)
        async with monque:
            await _listen(monque, record)
            bench.insert("greet")
            await runs.reached(1)
            await _until_idle(traffic)
            before = traffic.count()
            bench.insert_many([{"name": "greet"}] * 1000)
            await _until_idle(traffic)
            asked = traffic.count() - before
            runs.open()
    assert asked == 0


async def _until_idle(traffic: Traffic) -> None:
    """Wait until nothing has been asked for a while."""
    seen = -1

    def is_quiet() -> bool:
        nonlocal seen
        before, seen = seen, len(traffic.names)
        return before == seen

    await eventually(is_quiet, poll=0.3)


def _insert_at_one_moment(bench: Bench, jobs: int) -> None:
    with bench.client.start_session() as session, session.start_transaction():
        documents = bench.plain({"name": "greet"} for _ in range(jobs))
        bench.jobs.insert_many(documents, session=session)


# --- conflicts --------------------------------------------------------------------------------------------------------


async def test_instances_that_drain_one_name_together_stay_out_of_each_others_way(lab: Lab) -> None:
    jobs = 2000
    lab.insert_many([{"name": "greet"}] * jobs)

    def conflicts() -> int:
        return int(lab.client.admin.command("serverStatus")["metrics"]["operation"]["writeConflicts"])

    before = conflicts()
    async with AsyncExitStack() as stack:
        instances = [await stack.enter_async_context(counted(lab, concurrency=Concurrency(20))) for _ in range(4)]
        for monque, _ in instances:
            monque.worker("greet", _return_at_once)
        async with working(*(monque for monque, _ in instances)):
            await _completed(lab, jobs)
    claims = Counter(taken > 0 for _, traffic in instances for taken in traffic.claims)
    assert sum(taken for _, traffic in instances for taken in traffic.claims) == jobs
    # Whoever claims in vain was beaten to it by somebody just then, and so may the three others be, but not again:
    # the next look shows other jobs.
    assert claims[False] <= 3 * claims[True]
    # A conflict is two writing one document at the same moment. That may happen, and is not to be the rule.
    assert conflicts() - before <= jobs


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [JobStartEvent, JobCompleteEvent])
async def test_an_event_nobody_listens_to_is_not_made(
    bench: Bench, kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    make = kind.__init__

    def note(event: Any, *facts: Any) -> None:
        made.append(event)
        make(event, *facts)

    monkeypatch.setattr(kind, "__init__", note)
    monque = bench.monque(polling=NO_POLLS)
    monque.worker("greet", _return_at_once)
    async with working(monque):
        await monque.enqueue_many([("greet", None)] * 50)
        await _completed(bench, 50)
        assert made == []
        monque._events.on(kind.name, made.append)
        await monque.enqueue("greet")
        await eventually(lambda: made)
