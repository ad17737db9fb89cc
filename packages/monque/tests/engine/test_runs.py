"""How handlers run, in their places, and what is written of it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from monque import (
    Job,
    JobCompleteEvent,
    JobErrorEvent,
    JobFailEvent,
    JobLostEvent,
    Lease,
    MonqueError,
    Retry,
    RetryIn,
    StuckHandlerError,
    Timeout,
)
from monque._shutdown import Shutdown
from monque.testing import eventually

from .support import NO_POLLS, Record, working

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from .support import Bench, Document

PATIENCE = 60
CLAIM = {"claimedBy", "claimToken", "lockedAt", "lastHeartbeat", "heartbeatInterval"}


@pytest.fixture
def little_time_to_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shutdown, "clean_up", 0.3)


async def lines(path: Path, number: int = 1) -> list[str]:
    """What a handler has noted, once it is that much."""

    def written() -> list[str]:
        return path.read_text().splitlines() if path.exists() else []

    await eventually(lambda: len(written()) >= number, timeout=PATIENCE)
    return written()


async def settled(bench: Bench, job: Job[Any], status: str = "completed") -> Document:
    await eventually(
        lambda: bench.find(job)["status"] == status and not CLAIM & bench.find(job).keys(), timeout=PATIENCE
    )
    return bench.find(job)


async def has_settled(bench: Bench, job: Job[Any]) -> Document:
    """What is written of a job, whatever that is, once it has run."""
    await eventually(lambda: "settledBy" in bench.find(job), timeout=PATIENCE)
    return bench.find(job)


async def was_renewed_for(bench: Bench, job: Job[Any], seconds: float) -> None:
    def age() -> float:
        document = bench.find(job)
        return float((document["lastHeartbeat"] - document["lockedAt"]).total_seconds())

    await eventually(lambda: age() > seconds, timeout=PATIENCE)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def errors(record: Record) -> list[BaseException]:
    return [event.error for event in record.of(JobErrorEvent)]


# --- threads ----------------------------------------------------------------------------------------------------------


class Threads:
    """A plain handler whose runs wait for each other's permission to end; they ignore being told to."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.go = threading.Event()
        self.now = self.most = self.ended = 0
        self.told: list[bool] = []

    def __call__(self, job: Job[Any]) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        assert self.go.wait(PATIENCE)
        with self.lock:
            self.now -= 1
            self.ended += 1
            self.told.append(job.should_stop)


async def test_plain_functions_run_in_threads_and_no_more_of_them_than_there_are_slots(bench: Bench) -> None:
    monque = bench.monque()
    runs = Threads()
    monque.worker("plain", runs, concurrency=3)
    async with working(monque):
        await monque.enqueue_many([("plain", None)] * 12)
        await eventually(lambda: runs.now == 3)
        runs.go.set()
        await eventually(lambda: bench.statuses() == {"completed": 12})
    assert runs.most == 3


async def test_what_a_middleware_has_set_is_seen_in_threads(bench: Bench) -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    monque = bench.monque()

    @monque.use
    @asynccontextmanager
    async def tenants(job: Job[Any]) -> AsyncGenerator[None]:
        tenant.set(job.data["tenant"])
        yield

    @monque.worker("plain", store_result=True)
    def plain(job: Job[Any]) -> list[object]:
        return [tenant.get(), threading.current_thread() is threading.main_thread()]

    async with working(monque):
        job = await monque.enqueue("plain", {"tenant": "acme"})
        assert (await settled(bench, job))["result"] == ["acme", False]


async def test_a_thread_is_told_that_its_time_is_up(bench: Bench) -> None:
    monque = bench.monque()

    @monque.worker("plain", timeout=Timeout(0.05, 30), store_result=True)
    def plain(job: Job[Any]) -> str:
        while not job.should_stop:
            threading.Event().wait(0.01)
        return "stopped"

    async with working(monque):
        job = await monque.enqueue("plain")
        assert (await settled(bench, job))["result"] == "stopped"


@pytest.mark.parametrize("is_async", [False, True], ids=["thread", "loop"])
async def test_a_stuck_handler_is_reported_and_settled_once_and_keeps_its_slot(bench: Bench, is_async: bool) -> None:
    monque = bench.monque(retry=Retry(max_retries=1), polling=NO_POLLS)
    record = Record(monque)
    runs = Threads()

    async def swallows(job: Job[Any]) -> None:
        await _shielded(asyncio.to_thread(runs, job))

    monque.worker("stuck", swallows if is_async else runs, concurrency=1, timeout=Timeout(0.05, 0.2))
    async with working(monque):
        job = await monque.enqueue("stuck")
        document = await settled(bench, job, "failed")
        (error,) = errors(record)
        assert isinstance(error, StuckHandlerError)
        assert error.job.id == job.id
        assert document["failReason"].startswith("JobTimeoutError: the run of job")
        other = await monque.enqueue("stuck")
        # Another worker's job, enqueued later, has come and gone: there was time enough to start the one that waits.
        monque.worker("quick", _nothing)
        await settled(bench, await monque.enqueue("quick"))
        assert (bench.find(other)["status"], runs.now) == ("pending", 1)
        runs.go.set()
        await settled(bench, other)
    assert bench.find(job) == document
    assert runs.told[0]
    assert [event.job.id for event in record.of(JobFailEvent)] == [job.id]
    assert not record.of(JobLostEvent)


async def _nothing(job: Job[Any]) -> None:
    """Nothing to do."""


async def _shielded(work: Any) -> None:
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            continue


# --- the event loop ---------------------------------------------------------------------------------------------------


async def test_an_async_handler_is_cancelled_when_its_time_is_up_and_retried(bench: Bench) -> None:
    monque = bench.monque(retry=Retry(base=0.001))
    record = Record(monque)
    ended: list[int] = []

    @monque.worker("slow", timeout=Timeout(0.05, 30))
    async def slow(job: Job[Any]) -> None:
        if job.fail_count:
            return
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(job.attempts)

    async with working(monque):
        job = await monque.enqueue("slow")
        document = await settled(bench, job)
    assert ended == [1]
    assert not errors(record)
    assert document["failCount"] == 1
    (failure,) = document["errors"]
    assert failure["error"].startswith("JobTimeoutError")


async def test_the_time_limit_of_a_document_is_heeded(bench: Bench) -> None:
    monque = bench.monque(retry=Retry(max_retries=1))

    @monque.worker("slow", timeout=3600)
    async def slow(job: Job[Any]) -> None:
        await asyncio.Event().wait()

    async with working(monque):
        job = bench.insert("slow", timeout=50)
        await eventually(lambda: bench.find(job)["status"] == "failed")
    assert bench.find(job)["failReason"].endswith("took longer than 0.05 s")


# --- processes --------------------------------------------------------------------------------------------------------


async def test_a_handler_runs_in_a_process_and_is_heard(bench: Bench, handlers: Any) -> None:
    monque = bench.monque()
    monque.worker("far", handlers.whereabouts, run_in="process", store_result=True)
    async with working(monque):
        job = await monque.enqueue("far", {"a": 1})
        document = await settled(bench, job)
        pid, in_main_thread, data = document["result"]
        assert is_alive(pid)
    assert pid != os.getpid()
    assert (in_main_thread, data) == (True, {"a": 1})
    assert document["progress"]["fraction"] == 0.5
    assert not is_alive(pid)


async def test_a_process_is_told_that_its_time_is_up_and_can_clean_up(
    bench: Bench, handlers: Any, tmp_path: Path
) -> None:
    monque = bench.monque(retry=Retry(max_retries=1))
    monque.worker("far", handlers.clean_up, run_in="process", timeout=Timeout(3, 60))
    async with working(monque):
        job = await monque.enqueue("far", {"at": str(tmp_path / "notes")})
        document = await settled(bench, job, "failed")
    assert document["failReason"].startswith("JobTimeoutError")
    assert (await lines(tmp_path / "notes", 2))[1] == "cleaned up: 3"


async def test_a_process_that_does_not_end_is_killed_and_its_job_retried(
    bench: Bench, handlers: Any, tmp_path: Path
) -> None:
    monque = bench.monque(retry=Retry(base=0.001))
    record = Record(monque)
    monque.worker("far", handlers.ignore_once, run_in="process", timeout=Timeout(3, 4))
    async with working(monque):
        job = await monque.enqueue("far", {"at": str(tmp_path / "notes")})
        document = await settled(bench, job)
    assert document["failCount"] == 1
    assert document["errors"][0]["error"].startswith("JobTimeoutError")
    pid, *told = await lines(tmp_path / "notes", 2)
    assert told == ["JobTimeoutError"]
    assert not is_alive(int(pid))
    assert not errors(record)


async def test_a_process_that_dies_fails_its_job_alone(bench: Bench, handlers: Any, tmp_path: Path) -> None:
    monque = bench.monque(retry=Retry(base=0.001))
    at, beside, go = (str(tmp_path / name) for name in ("at", "beside", "go"))
    monque.worker("dies", handlers.die_once, run_in="process")
    monque.worker("waits", handlers.wait_for, run_in="process")
    async with working(monque):
        other = await monque.enqueue("waits", {"at": beside, "go": go})
        await lines(Path(beside))
        job = await monque.enqueue("dies", {"at": at})
        document = await settled(bench, job)
        (tmp_path / "go").touch()
        assert (await settled(bench, other))["failCount"] == 0
    assert [failure["error"].split(":")[0] for failure in document["errors"]] == ["ProcessDiedError"]
    assert "SIGKILL" in document["errors"][0]["error"]


async def test_leases_are_renewed_while_threads_and_processes_block(
    bench: Bench, handlers: Any, tmp_path: Path
) -> None:
    monque = bench.monque(lease=Lease(timeout=1))
    record = Record(monque)
    runs = Threads()
    monque.worker("near", runs)
    monque.worker("far", handlers.wait_for, run_in="process")
    go = tmp_path / "go"
    async with working(monque, bench.monque(lease=Lease(timeout=1))):
        near = await monque.enqueue("near")
        far = await monque.enqueue("far", {"at": str(tmp_path / "at"), "go": str(go)})
        await lines(tmp_path / "at")
        for job in (near, far):
            await was_renewed_for(bench, job, 2)
        go.touch()
        runs.go.set()
        for job in (near, far):
            assert (await settled(bench, job))["attempts"] == 1
    assert not record.of(JobLostEvent)
    assert len(record.of(JobCompleteEvent)) == 2


@pytest.mark.parametrize("handler", ["hold", "ignore"])
@pytest.mark.parametrize("hurry", [False, True], ids=["late", "hurry"])
@pytest.mark.usefixtures("little_time_to_clean_up")
async def test_a_stop_ends_a_busy_process_and_releases_its_job(
    bench: Bench, handlers: Any, tmp_path: Path, handler: str, hurry: bool
) -> None:
    monque = bench.monque(shutdown_timeout=60 if hurry else 0.1)

    @monque.use
    @asynccontextmanager
    async def leaves_slowly(job: Job[Any]) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0.1)

    monque.worker("far", getattr(handlers, handler), run_in="process")
    async with working(monque):
        job = await monque.enqueue("far", {"at": str(tmp_path / "at")})
        (pid,) = await lines(tmp_path / "at")
        await monque.stop(hurry=hurry)
        document = bench.find(job)
        assert not is_alive(int(pid))
    assert (document["status"], document["attempts"], document["failCount"]) == ("pending", 0, 0)
    assert not CLAIM & document.keys()


async def test_a_stop_waits_for_a_busy_process(bench: Bench, handlers: Any, tmp_path: Path) -> None:
    monque = bench.monque()
    monque.worker("far", handlers.wait_for, run_in="process")
    async with working(monque):
        job = await monque.enqueue("far", {"at": str(tmp_path / "at"), "go": str(tmp_path / "go")})
        await lines(tmp_path / "at")
        stopping = asyncio.create_task(monque.stop())
        await asyncio.sleep(0)
        (tmp_path / "go").touch()
        await stopping
        assert bench.find(job)["status"] == "completed"


# --- verdicts ---------------------------------------------------------------------------------------------------------

WRITTEN: dict[str, Document] = {
    "snooze": {"status": "pending", "failCount": 0, "failReason": None},
    "retry": {"status": "pending", "failCount": 1, "failReason": "RetryIn: busy"},
    "cancel": {"status": "cancelled", "failCount": 0, "failReason": "gone"},
    "fail": {"status": "failed", "failCount": 1, "failReason": "ValueError: hopeless"},
}


@pytest.mark.parametrize("aloud", [False, True], ids=["returned", "raised"])
@pytest.mark.parametrize("place", ["loop", "thread", "process"])
async def test_verdicts_are_understood_wherever_they_are_said(
    bench: Bench, handlers: Any, place: Any, aloud: bool
) -> None:
    monque = bench.monque()
    monque.worker("says", handlers.say_on_the_loop if place == "loop" else handlers.say, run_in=place, concurrency=1)
    async with working(monque):
        jobs = {verdict: await monque.enqueue("says", {"verdict": verdict, "aloud": aloud}) for verdict in WRITTEN}
        for verdict, job in jobs.items():
            written = WRITTEN[verdict]
            document = await has_settled(bench, job)
            assert {field: document.get(field) for field in written} == written
            is_later = (document["nextRunAt"] - document["createdAt"]).total_seconds() > 3000
            assert is_later == (written["status"] == "pending")


@pytest.mark.parametrize(("verdict", "status"), [("cancel", "cancelled"), ("fail", "pending")])
async def test_a_recurring_job_heeds_verdicts(bench: Bench, handlers: Any, verdict: str, status: str) -> None:
    monque = bench.monque()
    monque.worker("says", handlers.say, run_in="thread")
    async with working(monque):
        job = await monque.schedule("0 0 1 1 *", "says", {"verdict": verdict, "aloud": True})
        bench.jobs.update_one({"_id": job.id}, {"$set": {"nextRunAt": bench.now()}})
        monque._connection().notice([("says", bench.now())])
        await eventually(lambda: bench.find(job).get("settledBy"))
    assert bench.find(job)["status"] == status


@pytest.mark.parametrize("place", ["thread", "process"])
async def test_a_worker_says_what_its_exceptions_mean(bench: Bench, handlers: Any, place: Any) -> None:
    monque = bench.monque(retry=Retry(max_retries=1))
    retry = Retry(max_retries=5, on={ValueError: lambda error: RetryIn(3600, error)})
    monque.worker("fails", handlers.fail, run_in=place, retry=retry)
    async with working(monque):
        job = await monque.enqueue("fails", {"text": "no"})
        await eventually(lambda: bench.find(job).get("settledBy"), timeout=PATIENCE)
    document = bench.find(job)
    assert (document["status"], document["failReason"]) == ("pending", "ValueError: no")
    assert (document["nextRunAt"] - document["createdAt"]).total_seconds() > 3000


async def test_the_last_five_failures_are_remembered(bench: Bench, handlers: Any) -> None:
    monque = bench.monque(retry=Retry(max_retries=7, base=0.001, cap=0.001))
    monque.worker("fails", handlers.fail)
    async with working(monque):
        job = await monque.enqueue("fails", {"text": "no"})
        document = await settled(bench, job, "failed")
    assert [failure["attempt"] for failure in document["errors"]] == [3, 4, 5, 6, 7]
    assert all("in fail\n" in failure["traceback"] for failure in document["errors"])


# --- programs ---------------------------------------------------------------------------------------------------------

UNGUARDED = """
import asyncio, sys
from monque import Monque, Options, Retry

monque = Monque(sys.argv[1], Options(retry=Retry(max_retries=1)))

@monque.worker("far", run_in="process")
def far() -> None:
    print("never")

async def stop(event):
    await monque.stop()

monque.on("job:fail", stop)
asyncio.run(monque.run())
"""


async def test_a_program_without_a_guard_starts_no_second_instance(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "unguarded.py").write_text(UNGUARDED)
    job = bench.insert("far")
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(tmp_path / "unguarded.py"), bench.uri, stdout=-1, stderr=-1
    )
    output, complaint = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert b"never" not in output
    assert b'put what starts the program under `if __name__ == "__main__":`' in complaint
    assert bench.find(job)["failReason"].startswith(
        "ProcessDiedError: the process that ran the handler ended with exit"
    )


async def test_an_instance_does_not_start_where_a_process_is_only_being_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    async with bench.monque() as monque:
        with pytest.raises(MonqueError, match="is there to run a handler"):
            await monque.start()
