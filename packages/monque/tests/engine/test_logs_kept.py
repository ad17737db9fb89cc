from __future__ import annotations

import asyncio
import logging
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from monque import Job, LogLine, Retry
from monque import _records as records
from monque.testing import eventually

from .process_handlers import log_something
from .support import NO_POLLS, Gate, working

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from monque import Monque

    from .support import Bench

logger = logging.getLogger("handlers")


@pytest.fixture(autouse=True)
def _loggers_let_through(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "handlers")


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Any:
    yield
    assert records._keeper not in logging.getLogger().handlers
    assert records._runs == 0


async def kept(monque: Monque, name: str, data: Any = None) -> list[tuple[str, str, str]]:
    """What is kept of a job that has ended."""
    job = await monque.enqueue(name, data)
    await ended(monque, job)
    return lines(await monque.jobs.get(job.id))


async def ended(monque: Monque, job: Job[Any]) -> None:
    async def has_ended() -> bool:
        now = await monque.jobs.get(job.id)
        return now is not None and now.status in {"completed", "failed"}

    await eventually(has_ended, timeout=30)


def lines(job: Job[Any] | None) -> list[tuple[str, str, str]]:
    assert job is not None
    return [(line.level, line.logger, line.message) for line in job.logs]


class Unspeakable:
    """Cannot be put into words."""

    def __str__(self) -> str:  # type: ignore[explicit-override]
        raise ValueError("no words")

    __repr__ = __str__


def say_all() -> None:
    logger.debug("too quiet")
    logger.info("%s of %d", "one", 2)
    logging.getLogger("handlers.deep").warning("from below")
    logger.error("x" * 1001)
    logger.info("\ud800")
    logger.info("%d", "no number")
    logger.info(Unspeakable())
    logger.info("%s", Unspeakable())
    try:
        raise ValueError("no such\nrow")
    except ValueError:
        logger.exception("failed")
    logger.info("no exception", exc_info=True)  # noqa: LOG014


ALL = [
    ("INFO", "handlers", "one of 2"),
    ("WARNING", "handlers.deep", "from below"),
    ("ERROR", "handlers", "x" * 999 + "…"),
    ("INFO", "handlers", "?"),
    ("INFO", "handlers", "%d (its arguments do not fit)"),
    ("INFO", "handlers", "(cannot be shown)"),
    ("INFO", "handlers", "%s (its arguments do not fit)"),
    ("ERROR", "handlers", "failed\nValueError: no such\nrow"),
    ("INFO", "handlers", "no exception"),
]


def ignore(_: object) -> None: ...


@pytest.fixture
def _broken_records_are_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handlers of the test runner would raise what a record that cannot be shown raises."""
    for handler in logging.getLogger().handlers:
        monkeypatch.setattr(handler, "emit", ignore)


@pytest.mark.usefixtures("_broken_records_are_no_matter")
@pytest.mark.parametrize("place", ["loop", "thread"])
async def test_what_is_logged_in_a_handler_is_kept(bench: Bench, place: str) -> None:
    monque = bench.monque(polling=NO_POLLS)

    async def work(_: Job[Any]) -> None:
        say_all()

    def work_in_thread(_: Job[Any]) -> None:
        say_all()

    monque.worker("work", work if place == "loop" else work_in_thread, keep_logs=True)
    async with working(monque):
        assert await kept(monque, "work") == ALL


async def test_records_have_their_time_and_the_document_its_names(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)

    @monque.worker("work", keep_logs=True)
    async def work(_: Job[Any]) -> None:
        logger.info("here")

    async with working(monque):
        job = await monque.enqueue("work")
        await ended(monque, job)
        now = await monque.jobs.get(job.id)
    assert now is not None
    (document,) = bench.find(job)["logs"]
    assert document.keys() == {"at", "level", "logger", "message"}
    assert now.logs == (LogLine(document["at"], "INFO", "handlers", "here"),)
    assert bench.find(job)["createdAt"] <= document["at"] <= bench.now()


async def test_tasks_and_threads_of_a_handler_belong_to_it(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)

    @monque.worker("work", keep_logs=True)
    async def work(job: Job[Any]) -> None:
        async def in_a_task() -> None:
            logger.info("in a task of %s", job.data)

        await asyncio.create_task(in_a_task())
        await asyncio.to_thread(logger.info, "in a thread of %s", job.data)

    async with working(monque):
        jobs = await monque.enqueue_many([("work", number) for number in range(10)])
        for job in jobs:
            await ended(monque, job)
            messages = [line[2] for line in lines(await monque.jobs.get(job.id))]
            assert messages == [f"in a task of {job.data}", f"in a thread of {job.data}"]


async def test_no_more_are_kept_than_was_said_the_latest(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS, retry=Retry(base=0.01))

    @monque.worker("work", keep_logs=5)
    async def work(job: Job[Any]) -> None:
        for number in range(3 if job.attempts == 1 else 4):
            logger.info("%d.%d", job.attempts, number)
        if job.attempts == 1:
            raise ValueError

    async with working(monque):
        messages = [message for _, _, message in await kept(monque, "work")]
    assert messages == ["1.2", "2.0", "2.1", "2.2", "2.3"]


async def test_logs_can_be_read_elsewhere_while_the_job_runs(bench: Bench) -> None:
    here, there = bench.monque(polling=NO_POLLS), bench.monque()
    gate = Gate()

    @here.worker("work", keep_logs=True)
    async def work(job: Job[Any]) -> None:
        logger.info("begun")
        await gate(job)

    async with there, working(here):
        job = await there.enqueue("work")

        async def has_them() -> bool:
            return lines(await there.jobs.get(job.id)) == [("INFO", "handlers", "begun")]

        await eventually(has_them, timeout=20)
        assert bench.find(job)["status"] == "processing"
        gate.open()


async def test_a_process_keeps_logs_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1]), *sys.path])
    monque = bench.monque(polling=NO_POLLS)
    monque.worker("work", log_something, run_in="process", keep_logs=True)
    monque.worker("other", log_something, run_in="process")
    async with working(monque):
        assert await kept(monque, "work", {"what": "a"}) == [("WARNING", "handlers", "in a process: a")]
        assert await kept(monque, "other", {"what": "b"}) == []


async def test_who_keeps_none_has_none_and_nobody_listens(bench: Bench) -> None:
    monque = bench.monque(polling=NO_POLLS)
    keeping, plain = Gate(), Gate()

    @monque.worker("keeping", keep_logs=True)
    async def keep(job: Job[Any]) -> None:
        logger.info("kept")
        await keeping(job)

    @monque.worker("plain")
    async def work(job: Job[Any]) -> None:
        logger.info("not kept")
        await plain(job)

    root = logging.getLogger()
    async with working(monque):
        job = await monque.enqueue("plain")
        await plain.reached()
        assert records._keeper not in root.handlers
        other = await monque.enqueue("keeping")
        await keeping.reached()
        assert records._keeper in root.handlers
        logger.info("outside")
        plain.open()
        keeping.open()
        await ended(monque, job)
        await ended(monque, other)
        assert lines(await monque.jobs.get(job.id)) == []
        assert lines(await monque.jobs.get(other.id)) == [("INFO", "handlers", "kept")]


async def test_two_instances_in_a_process_keep_what_is_theirs(bench: Bench) -> None:
    one, other = bench.monque(polling=NO_POLLS), bench.monque(polling=NO_POLLS)
    first = Gate()

    @one.worker("one", keep_logs=True)
    async def work(job: Job[Any]) -> None:
        await first(job)
        logger.info("one")

    @other.worker("other", keep_logs=True)
    async def work_too(_: Job[Any]) -> None:
        logger.info("other")

    async with working(one, other):
        job = await one.enqueue("one")
        await first.reached()
        assert await kept(other, "other") == [("INFO", "handlers", "other")]
        first.open()
        await ended(one, job)
        assert lines(await one.jobs.get(job.id)) == [("INFO", "handlers", "one")]


async def test_what_its_own_writing_logs_is_no_record_of_the_run(bench: Bench) -> None:
    """A refusal is logged, and were that log line a remark of the run, there would be no end of them."""
    monque = bench.monque(polling=NO_POLLS)
    reports: list[Any] = []
    gate = Gate()
    monque.on("job:error", reports.append)

    @monque.worker("work", keep_logs=True)
    async def work(job: Job[Any]) -> None:
        logger.info("begun")
        await gate(job)

    async with working(monque):
        bench.database.command({"collMod": "monque_jobs", "validator": {"logs": {"$exists": False}}})
        job = await monque.enqueue("work")
        await eventually(lambda: reports)
        assert monque._connected is not None
        assert monque._connected.engine is not None
        assert monque._connected.engine._settler.journal.is_blank
        gate.open()
        await ended(monque, job)
    assert len(reports) == 1


class Listening(logging.Handler):
    """Hears everything."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:  # type: ignore[explicit-override]
        self.heard.append(record.getMessage())


@contextmanager
def silence() -> Generator[Listening]:
    """As if nobody had configured logging; this is the last resort then."""
    last = Listening()
    last.setLevel(logging.WARNING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger(), "handlers", [])
        patch.setattr(logging, "lastResort", last)
        yield last


def test_that_somebody_keeps_records_does_not_make_them_unheard() -> None:
    with silence() as last, records.kept():
        logger.info("too quiet for the last resort")
        logger.warning("nobody else listens")
        own = Listening()
        logger.addHandler(own)
        try:
            logger.warning("somebody listens")
        finally:
            logger.removeHandler(own)
    assert last.heard == ["nobody else listens"]
    assert own.heard == ["somebody listens"]


def test_there_need_be_no_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    with silence() as last, records.kept():
        monkeypatch.setattr(logging, "lastResort", None)
        logger.warning("nobody listens")
        monkeypatch.undo()
    assert last.heard == []


def test_whoever_configures_logging_meanwhile_does_not_end_it() -> None:
    root = logging.getLogger()
    with silence(), records.kept():
        logging.basicConfig(force=True)
        assert records._keeper not in root.handlers
        with records.kept():
            assert records._keeper in root.handlers
        assert records._keeper in root.handlers
    assert records._keeper not in root.handlers


def test_threads_count_their_runs_together() -> None:
    def many(action: Callable[[], object]) -> None:
        threads = [threading.Thread(target=action) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def run() -> None:
        for _ in range(100):
            with records.kept():
                pass

    with records.kept():
        many(run)
        assert records._runs == 1


@pytest.mark.parametrize("keep", [0, 3])
def test_a_child_listens_if_it_is_told_to(keep: int) -> None:
    told: list[Any] = []
    with records.in_child({"job": None, "keep_logs": keep}, told.append):
        logger.info("here")
    assert [note.message for note in told] == (["here"] if keep else [])
