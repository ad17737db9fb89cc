"""The blocking face: the same as the asynchronous one, from any thread."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson.codec_options import CodecOptions, TypeRegistry
from pymongo import AsyncMongoClient, MongoClient

import monque as asynchronous
from monque import (
    BlockingCallError,
    ConfigurationError,
    ConnectionError,
    InvalidArgumentError,
    InvalidCronError,
    Job,
    JobFilter,
    JobStateError,
    JobStatus,
    MonqueError,
    NewJob,
    Options,
    PayloadTooLargeError,
    Retry,
    Router,
    Severity,
    UniqueKeyConflictError,
    _monque,
)
from monque.sync import Fleet, Jobs, Monque

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator

    from pymongo.database import Database

    from monque import JobCancelledEvent

Data = dict[str, Any]


class Heard:
    """What a listener or handler was told, for another thread to wait for."""

    def __init__(self) -> None:
        self.things: list[Any] = []
        self._told = threading.Condition()

    def __call__(self, thing: Any) -> None:
        with self._told:
            self.things.append(thing)
            self._told.notify_all()

    def wait(self, number: int = 1) -> None:
        with self._told:
            assert self._told.wait_for(lambda: len(self.things) >= number, 20), self.things


# --- enqueueing -----------------------------------------------------------------------------------------------------


def test_jobs_are_enqueued_in_every_way(monque: Monque, monque_database: Database[Data]) -> None:
    later = datetime(2100, 1, 1, tzinfo=UTC)
    jobs = [
        monque.enqueue(
            "a", {"n": 1}, run_at=later, unique_key="k", priority=3, timeout=30, retry=Retry(base=3, cap=9), tags=["t"]
        ),
        monque.enqueue(NewJob(name="b", delay=60)),
        monque.now("c", [1]),
        monque.schedule("@daily", "d", {"kind": 1}, timezone="Europe/Berlin", unique_key="daily", timeout=5, tags="x"),
        *monque.enqueue_many([("e", 1), {"name": "f", "data": 2}]),
        *monque.enqueue_many(("g", number) for number in range(2)),
    ]
    assert [job.name for job in jobs] == ["a", "b", "c", "d", "e", "f", "g", "g"]
    assert (jobs[0].next_run_at, jobs[0].unique_key, jobs[0].priority) == (later, "k", 3)
    assert (jobs[0].timeout, jobs[0].retry) == (30.0, Retry(base=3, cap=9))
    assert (jobs[3].repeat_interval, jobs[3].timezone, jobs[3].timeout) == ("@daily", "Europe/Berlin", 5.0)
    assert (jobs[0].tags, jobs[3].tags) == (("t",), ("x",))
    assert [monque.jobs.get(job.id) for job in jobs] == jobs
    assert monque_database["monque_jobs"].count_documents({}) == 8
    assert monque.enqueue("a", unique_key="k") == jobs[0]
    assert monque.enqueue("a", 2, unique_key="k", on_conflict="replace").data == 2
    assert monque.enqueue_many([NewJob(name="a", data=3, unique_key="k", on_conflict="replace")])[0].data == 3
    with pytest.raises(UniqueKeyConflictError):
        monque.enqueue("a", unique_key="k", on_conflict="raise")


def test_a_stream_gives_back_what_is_stored(monque: Monque, monque_database: Database[Data]) -> None:
    stored = 0
    for jobs in monque.enqueue_stream(("work", number) for number in range(2100)):
        stored += len(jobs)
        assert monque_database["monque_jobs"].count_documents({}) == stored
    assert stored == 2100
    assert monque.enqueue_many([]) == []
    assert list(monque.enqueue_stream([])) == []


def test_what_is_enqueued_is_read_in_the_thread_that_calls(monque: Monque) -> None:
    threads: set[threading.Thread] = set()

    def items() -> Generator[tuple[str, int]]:
        for number in range(1001):
            threads.add(threading.current_thread())
            yield "work", number

    assert len(monque.enqueue_many(items())) == 1001
    assert threads == {threading.current_thread()}


async def items() -> AsyncIterator[tuple[str, int]]:
    yield "work", 1


MISTAKES: dict[str, tuple[Callable[[Any], object], type[MonqueError], str]] = {
    "name": (lambda monque: monque.enqueue("bad name"), InvalidArgumentError, "name: expected"),
    "NewJob": (lambda monque: monque.enqueue(NewJob(name="a"), 1), InvalidArgumentError, "nothing beside a NewJob"),
    "size": (lambda monque: monque.enqueue("a", "x" * 101), PayloadTooLargeError, "at most 100 bytes"),
    "cron": (lambda monque: monque.schedule("* * *", "a"), InvalidCronError, "cron expression"),
    "list": (lambda monque: monque.enqueue_many([("a", 1), "b"]), InvalidArgumentError, r"^jobs\[1\]: .*nothing was"),
    "generator": (
        lambda monque: monque.enqueue_many(iter(["b"])),
        InvalidArgumentError,
        r"^jobs\[0\]: .*0 jobs",
    ),
    "None": (lambda monque: monque.enqueue_many(None), InvalidArgumentError, "jobs: expected a list"),
    "async": (lambda monque: monque.enqueue_many(items()), InvalidArgumentError, "jobs: expected a list"),
    "stream": (lambda monque: monque.enqueue_stream(1), InvalidArgumentError, "jobs: expected a list"),
    "id": (lambda monque: monque.jobs.get("no id"), InvalidArgumentError, "job_id: expected"),
}


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_errors_come_out_as_they_are(
    monque_uri: str, call: Callable[[Any], object], error: type[MonqueError], message: str
) -> None:
    with Monque(monque_uri, Options(max_payload_bytes=100)) as monque, pytest.raises(error, match=message):
        call(monque)


def test_stored_jobs_are_managed(monque: Monque) -> None:
    job = monque.enqueue("work")
    with pytest.raises(JobStateError, match="cannot retry"):
        monque.jobs.retry(job.id)
    rescheduled = monque.jobs.reschedule(job.id, datetime(2100, 1, 1, tzinfo=UTC))
    cancelled = monque.jobs.cancel(job.id)
    retried = monque.jobs.retry(job.id)
    assert rescheduled is not None
    assert cancelled is not None
    assert retried is not None
    assert (rescheduled.next_run_at.year, cancelled.status, retried.status) == (2100, "cancelled", "pending")
    assert monque.jobs.cancel_many(JobFilter(name="work")).count == 1
    assert monque.jobs.retry_many(JobFilter(name="work")).count == 1
    assert monque.jobs.delete(job.id)
    assert monque.jobs.delete_many(JobFilter(name="work")).count == 0
    assert monque.jobs.get(job.id) is None


def test_many_threads_share_one_connection(monque_uri: str, monque_database: Database[Data]) -> None:
    monque = Monque(monque_uri)
    ready = threading.Barrier(20)

    def enqueue(number: int) -> list[Job[Any]]:
        ready.wait(30)
        return [monque.enqueue("work", number * 100 + each) for each in range(10)]

    with ThreadPoolExecutor(20) as threads:
        jobs = [job for some in threads.map(enqueue, range(20)) for job in some]
    assert len(monque._link._portals) == 1
    monque.close()
    assert len({job.id for job in jobs}) == 200
    assert {row["_id"] for row in monque_database["monque_jobs"].find()} == {job.id for job in jobs}


# --- connecting -----------------------------------------------------------------------------------------------------


def background() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "monque"]


def test_it_connects_at_the_first_call_and_again_after_it_was_closed(monque_uri: str) -> None:
    before = background()
    monque = Monque(monque_uri)
    assert background() == before
    assert not monque.is_healthy()
    for _ in range(2):
        monque.now("work")
        assert monque.is_healthy()
        assert len(background()) == len(before) + 1
        monque.close()
        monque.close()
        assert not monque.is_healthy()
        assert background() == before


def test_a_block_connects_and_closes(monque_uri: str) -> None:
    with Monque(monque_uri) as monque:
        assert monque.is_healthy()
        identity = monque._link.inner.instance_id
    assert not monque.is_healthy()
    with monque:
        assert monque._link.inner.instance_id != identity


def test_a_label_stays_and_the_identity_is_fresh(monque_uri: str) -> None:
    monque = Monque(monque_uri, Options(instance_id="web"))
    with monque:
        first = monque._link.inner.instance_id
    with monque:
        second = monque._link.inner.instance_id
    assert first != second
    assert [name.split(":")[0] for name in (first, second)] == ["web", "web"]


def test_a_server_that_cannot_be_reached_is_told_at_each_call() -> None:
    monque = Monque("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50")
    for _ in range(2):
        with pytest.raises(ConnectionError, match="cannot connect to MongoDB"):
            monque.now("work")
    assert not monque.is_healthy()
    monque.close()


def test_what_holds_for_the_first_call_does_not_hold_for_what_runs_in_the_background(
    monque: Monque, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = ContextVar("caller", default="nobody")
    clock, handler, connected = Heard(), Heard(), Heard()
    monque.on("changestream:connected", connected)

    async def keep_clock(_: object) -> None:
        clock(caller.get())

    monkeypatch.setattr(_monque._Connected, "keep_clock", keep_clock)
    monkeypatch.setattr(_monque, "_CLOCK_INTERVAL", 0.01)

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        handler(caller.get())

    token = caller.set("the first")
    monque.now("work")
    monque.start()
    caller.reset(token)
    clock.wait()
    handler.wait()
    connected.wait()  # what is closed while it connects leaves a socket to be collected
    assert {*clock.things, *handler.things} == {"nobody"}


# --- on an event loop -----------------------------------------------------------------------------------------------


CALLS: dict[str, Callable[[Monque], object]] = {
    "enqueue": lambda monque: monque.enqueue("a"),
    "enqueue_many": lambda monque: monque.enqueue_many([("a", 1)]),
    "enqueue_stream": lambda monque: monque.enqueue_stream([("a", 1)]),
    "jobs": lambda monque: monque.jobs.get("0" * 24),
    "initialize": Monque.initialize,
    "start": Monque.start,
    "run": Monque.run,
    "stop": Monque.stop,
    "close": Monque.close,
    "with": Monque.__enter__,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_on_an_event_loop_every_call_is_refused(monque_uri: str, call: Callable[[Monque], object]) -> None:
    monque = Monque(monque_uri)
    with pytest.raises(BlockingCallError, match=r"use monque\.Monque and await"):
        call(monque)
    assert monque._link.here() is None


async def test_in_a_thread_beside_the_loop_it_is_fine(monque_uri: str) -> None:
    def enqueue() -> Job[Any]:
        with Monque(monque_uri) as monque:
            return monque.now("work")

    assert (await asyncio.to_thread(enqueue)).name == "work"


# --- sources --------------------------------------------------------------------------------------------------------


def test_a_client_and_a_database_are_sources_and_stay_open(
    monque_uri: str, monque_client: MongoClient[Data], monque_database: Database[Data]
) -> None:
    with MongoClient[Data](monque_uri) as client:
        for source in (client, monque_database):
            with Monque(source) as monque:
                job = monque.now("work")
            assert monque_database["monque_jobs"].find_one({"_id": job.id})
        assert client.admin.command("ping")


def test_without_a_source_the_uri_comes_from_the_environment(
    monque_uri: str, monque_database: Database[Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONQUE_URI", monque_uri)
    with Monque() as monque:
        monque.now("work")
    assert monque_database["monque_jobs"].count_documents({}) == 1


def test_the_codecs_of_a_database_come_along(monque_database: Database[Data]) -> None:
    codec: CodecOptions[Data] = CodecOptions(type_registry=TypeRegistry(fallback_encoder=str))
    database = monque_database.with_options(codec)
    with Monque(database) as monque, database.client.start_session() as session:
        jobs = [monque.enqueue("work", {"n": 1j}), monque.enqueue("work", {"n": 1j}, session=session)]
        assert [job and job.data for job in (monque.jobs.get(job.id) for job in jobs)] == [{"n": "1j"}] * 2


@pytest.mark.parametrize("source", [1, b"mongodb://localhost", "localhost", []], ids=repr)
def test_what_is_no_source_is_refused_at_once(source: Any) -> None:
    with pytest.raises(ConfigurationError, match="option source: expected a"):
        Monque(source)


async def test_what_is_asynchronous_is_refused_at_once(monque_uri: str) -> None:
    async with AsyncMongoClient[Data](monque_uri) as client:
        for source in (client, client["app"]):
            with pytest.raises(ConfigurationError, match=r"what is asynchronous is for monque\.Monque"):
                Monque(source)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_a_client_whose_settings_are_hidden_is_refused_at_once(
    monque_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MongoClient[Data](monque_uri) as client:
        monkeypatch.delattr(client, "_init_kwargs")
        for source in (client, client["app"]):
            with pytest.raises(ConfigurationError, match="pass the URI instead"):
                Monque(source)


def test_settings_that_cannot_be_used_are_told(monque_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with MongoClient[Data](monque_uri) as client:
        monkeypatch.setattr(client, "_init_kwargs", {"host": 1})
        monque = Monque(client)
        with pytest.raises(ConfigurationError, match="pass the URI instead"):
            monque.now("work")
        monque.close()


# --- working --------------------------------------------------------------------------------------------------------


def test_it_works_in_the_background(monque: Monque) -> None:
    completed = Heard()
    monque.on("job:complete", completed)

    @monque.worker("double")
    async def double(job: Job[int]) -> None:
        await asyncio.sleep(0)

    job = monque.enqueue("double", 2)
    monque.start()
    completed.wait()
    assert [event.job.id for event in completed.things] == [job.id]
    monque.stop()
    monque.stop()
    waiting = monque.now("double", 3)
    found = monque.jobs.get(waiting.id)
    assert found is not None
    assert found.status is JobStatus.PENDING


def test_a_worker_declared_while_it_works_is_told_of_new_jobs(monque_uri: str) -> None:
    options = Options(polling=asynchronous.Polling(interval=60, safety=60))
    with Monque(monque_uri, options) as monque, asynchronous_producer(monque_uri) as produce:
        monque.start()
        heard = Heard()

        @monque.worker("late")
        async def late(job: Job[Any]) -> None:
            heard(job.data)

        produce("late", 1)
        heard.wait()


class asynchronous_producer:  # noqa: N801  used as a function
    """Another instance, of which the first one hears through the database only."""

    def __init__(self, uri: str) -> None:
        self._monque = Monque(uri)

    def __enter__(self) -> Callable[[str, Any], object]:
        return self._monque.now

    def __exit__(self, *_: object) -> None:
        self._monque.close()


def test_the_workers_of_a_router_are_included(monque: Monque) -> None:
    router, heard = Router(), Heard()

    @router.worker("work")
    async def work(job: Job[Any]) -> None:
        heard(job.data)

    monque.include(router)
    monque.enqueue(work.new(7))
    monque.start()
    heard.wait()
    assert heard.things == [7]


def test_middleware_surrounds_runs(monque: Monque) -> None:
    heard = Heard()

    @monque.use
    @asynccontextmanager
    async def middleware(job: Job[Any]) -> AsyncGenerator[None]:
        heard("before")
        yield

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        heard("work")

    monque.now("work")
    monque.start()
    heard.wait(2)
    assert heard.things == ["before", "work"]


def test_a_handler_enqueues_by_awaiting(monque: Monque) -> None:
    heard = Heard()

    @monque.worker("second")
    async def second(number: int) -> None:
        heard(number)

    @monque.worker("first")
    async def first(number: int) -> None:
        await second.enqueue(number=number + 1)

    monque.enqueue(first.new(number=1))
    monque.start()
    heard.wait()
    assert heard.things == [2]


def test_a_hurried_stop_gives_jobs_back(monque: Monque) -> None:
    heard = Heard()

    @monque.worker("endless")
    async def endless(job: Job[Any]) -> None:
        heard(job.id)
        await asyncio.Event().wait()

    job = monque.now("endless")
    monque.start()
    heard.wait()
    monque.stop(hurry=True)
    found = monque.jobs.get(job.id)
    assert found is not None
    assert found.status is JobStatus.PENDING


def test_stopping_what_was_never_begun_does_nothing(monque_uri: str) -> None:
    monque = Monque(monque_uri)
    monque.stop()
    assert monque._link.here() is None


def test_run_in_a_thread_ends_with_stop(monque: Monque) -> None:
    heard = Heard()

    @monque.worker("work")
    async def work(job: Job[Any]) -> None:
        heard(job)

    monque.initialize()
    thread = threading.Thread(target=monque.run)
    thread.start()
    monque.now("work")
    heard.wait()
    monque.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert monque.is_healthy()


def test_there_is_no_end_to_wait_for_without_work(monque: Monque) -> None:
    monque.initialize()
    monque._link.call(type(monque._link.inner).end_of_work)


def test_listeners_are_called_in_the_background_and_may_change_the_listeners(monque: Monque) -> None:
    heard, once = Heard(), Heard()

    def listener(event: JobCancelledEvent) -> None:
        monque.off("job:cancelled", listener)
        heard(threading.current_thread())

    monque.once("job:cancelled", once)
    monque.initialize()
    monque.on("job:cancelled", listener)
    for _ in range(2):
        monque.jobs.cancel(monque.now("work").id)
    assert heard.things == [monque._link.portal()._thread]
    assert len(once.things) == 1
    monque.on("job:cancelled", heard)
    monque.off("job:cancelled", heard)
    with pytest.raises(InvalidArgumentError, match="event: expected one of"):
        monque.on("job:begin", heard)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_a_listener_that_blocks_is_reported(monque: Monque) -> None:
    errors = Heard()
    monque.on("job:error", lambda event: errors(event.error))

    def blocks(_: JobCancelledEvent) -> None:
        monque.now("other")

    monque.on("job:cancelled", blocks)
    monque.jobs.cancel(monque.now("work").id)
    errors.wait()
    assert isinstance(errors.things[0], BlockingCallError)


def test_async_listeners_of_an_event_loop_that_is_gone_are_not_waited_for(monque: Monque) -> None:
    forgotten: list[asyncio.Task[None]] = []
    monque.initialize()
    events = monque._link.inner._events

    def forget() -> None:
        forgotten.append(asyncio.ensure_future(asyncio.sleep(3600)))
        events._tasks.update(forgotten)
        events.forget_tasks()

    monque._link.portal().run(forget)
    monque.close()
    assert forgotten[0].cancelled()


# --- the same as the asynchronous one -------------------------------------------------------------------------------


def parameters(method: Any) -> dict[str, tuple[Any, Any]]:
    """Names, kinds and defaults of parameters, but for the session's, which is of the other driver."""
    found = dict(inspect.signature(method).parameters)
    found.pop("session", None)
    return {name: (each.kind, each.default) for name, each in found.items()}


def public(face: type) -> set[str]:
    # Of `Jobs`, also what its parts have.
    names: list[str] = dir(face) if face in (Jobs, asynchronous.Jobs) else [*vars(face)]
    return {name for name in names if not name.startswith("_")}


def test_both_faces_have_the_same_methods_with_the_same_parameters() -> None:
    for blocking, awaited in ((Monque, asynchronous.Monque), (Jobs, asynchronous.Jobs), (Fleet, asynchronous.Fleet)):
        # These are those of the asynchronous one, and attributes; and those are for whoever watches one.
        names = public(awaited) - {"worker", "use", "use_producer"} - {"server", "ask_for_backlog"}
        assert public(blocking) == names
        for name in names - {"on", "once", "off", "jobs", "fleet"}:
            assert parameters(getattr(blocking, name)) == parameters(getattr(awaited, name)), name


def test_every_method_says_what_it_does_and_no_example_awaits() -> None:
    for face in (Monque, Jobs, Fleet):
        for name in public(face):
            assert "await " not in (inspect.getdoc(getattr(face, name)) or "await "), name


# --- looking at jobs ------------------------------------------------------------------------------------------------


def test_jobs_are_found_paged_through_and_counted(monque: Monque) -> None:
    made = monque.enqueue_many([("work", number) for number in range(5)])
    assert monque.jobs.find(order="created", limit=2) == made[:2]
    page = monque.jobs.page(JobFilter(name="work"), order="created", size=3)
    assert monque.jobs.page(JobFilter(name="work"), order="created", cursor=page.next).jobs == made[3:]
    assert monque.jobs.count(JobFilter(name="work")) == 5
    assert monque.jobs.stats().created == 5
    later = datetime(2100, 1, 1, tzinfo=UTC)
    assert monque.jobs.reschedule_many(JobFilter(name="work"), later).count == 5
    job = monque.jobs.run_now(made[0].id)
    assert job is not None
    assert job.next_run_at < later
    assert monque.jobs.run_now_many(JobFilter(name="work")).count == 5


def test_jobs_are_watched(monque: Monque, monque_database: Database[Data]) -> None:
    changes = monque.jobs.watch(JobFilter(name="work"))
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(next(changes)))
    thread.start()
    deadline = time.monotonic() + 30
    while not seen and time.monotonic() < deadline:
        monque.enqueue("work")
        thread.join(0.05)
    thread.join()
    assert [change.kind for change in seen] == ["created"]
    changes.close()
    with pytest.raises(StopIteration):
        next(changes)


def test_the_doctor_waits_too(monque_uri: str, monque_database: Database[Data]) -> None:
    with Monque(monque_uri, Options(create_indexes=False)) as monque:
        monque.enqueue("work", delay=60)
        assert monque.diagnose().severity is Severity.ERROR
        assert len(monque.fix_indexes().created) > 5
        assert monque.diagnose().severity is Severity.OK
    assert "monque_claim" in monque_database["monque_jobs"].index_information()
