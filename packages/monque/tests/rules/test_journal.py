from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from monque import Job, Progress
from monque import _journal as journals
from monque._clock import ServerClock
from monque._journal import Journal
from monque._scope import Scope, enter
from monque.job import from_document, to_document
from monque.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from monque._transitions import Transition

MOMENT = datetime(2026, 3, 1, tzinfo=UTC)


class Paper:
    """Where it is written."""

    def __init__(self) -> None:
        self.written: list[list[Transition]] = []
        self.troubles: list[BaseException] = []
        self.dry = asyncio.Event()
        self.dry.set()
        self.error: Exception | None = None

    async def write(self, changes: list[Transition]) -> None:
        self.written.append(changes)
        await self.dry.wait()
        if self.error is not None:
            raise self.error

    def fractions(self) -> list[list[float]]:
        return [[change.update["$set"]["progress"]["fraction"] for change in changes] for changes in self.written]


@pytest.fixture
def paper() -> Paper:
    return Paper()


@pytest.fixture
async def journal(paper: Paper) -> Journal:
    return Journal(paper.write, paper.troubles.append, ServerClock())


@pytest.fixture
def run(make_job: Callable[..., Job[Any]]) -> Scope:
    return Scope(make_job(claim_token="T"))  # noqa: S106


def say(journal: Journal, run: Scope, fraction: float) -> None:
    journal.note(run, Progress(fraction, None, run.job.created_at))


def claim(run: Scope) -> Any:
    return (run.job.id, "T")


async def test_a_flush_waits_for_what_is_being_written(journal: Journal, paper: Paper, run: Scope) -> None:
    paper.dry.clear()
    say(journal, run, 0.1)
    first = asyncio.create_task(journal.flush([claim(run)]))
    await eventually(lambda: paper.written)
    assert not journal.is_blank
    second = asyncio.create_task(journal.flush([claim(run)]))
    await asyncio.wait([second], timeout=0.05)
    assert not second.done()
    paper.dry.set()
    await asyncio.gather(first, second)
    assert journal.is_blank
    assert paper.fractions() == [[0.1]]
    await journal.close()


async def test_nothing_is_written_for_who_said_nothing(journal: Journal, paper: Paper, run: Scope) -> None:
    await journal.flush([claim(run)])
    assert journal.tear_out(claim(run)) is None
    await journal.close()
    assert paper.written == []


async def test_what_was_torn_out_is_not_written_again(journal: Journal, paper: Paper, run: Scope) -> None:
    say(journal, run, 0.1)
    torn = journal.tear_out(claim(run))
    assert torn is not None
    assert torn.update["$set"]["progress"]["fraction"] == 0.1
    assert torn.filter == {"_id": run.job.id, "status": "processing", "claimToken": "T"}
    assert journal.is_blank
    await journal.close()
    assert paper.written == []


async def test_jobs_that_are_held_back_wait(paper: Paper, run: Scope, make_job: Callable[..., Job[Any]]) -> None:
    held = {run.job.id}
    journal = Journal(paper.write, paper.troubles.append, ServerClock(), held_back=held)
    other = Scope(make_job(claim_token="T"))  # noqa: S106
    say(journal, run, 0.1)
    say(journal, other, 0.2)
    await eventually(lambda: paper.written)
    assert paper.fractions() == [[0.2]]
    held.clear()
    await eventually(lambda: journal.is_blank)
    assert paper.fractions() == [[0.2], [0.1]]
    await journal.close()


async def test_trouble_is_reported_and_the_next_word_is_written(journal: Journal, paper: Paper, run: Scope) -> None:
    paper.error = ValueError("no ink")
    say(journal, run, 0.1)
    await journal.flush([claim(run)])
    assert paper.troubles == [paper.error]
    paper.error = None
    say(journal, run, 0.2)
    await eventually(lambda: journal.is_blank)
    assert paper.fractions() == [[0.1], [0.2]]
    await journal.close()


async def test_a_closed_journal_takes_nothing_down(journal: Journal, paper: Paper, run: Scope) -> None:
    await journal.close()
    say(journal, run, 0.1)
    assert journal.is_blank
    assert paper.written == []


async def test_one_that_is_closed_before_it_has_begun_writes_nothing(
    journal: Journal, paper: Paper, run: Scope
) -> None:
    say(journal, run, 0.1)
    await journal.close()
    await asyncio.sleep(0)
    assert journal._task is None
    assert paper.written == []


def test_whoever_speaks_when_the_loop_is_closed_is_not_heard(paper: Paper, run: Scope) -> None:
    async def make() -> Journal:
        return Journal(paper.write, paper.troubles.append, ServerClock())

    journal = asyncio.run(make())
    say(journal, run, 0.1)
    gc.collect()
    assert paper.written == []


async def test_what_is_neither_is_passed_over(journal: Journal, run: Scope) -> None:
    journal.note(run, "something")
    torn = journal.tear_out(claim(run))
    assert torn is None


async def test_a_run_without_a_journal_may_say_what_it_likes(run: Scope) -> None:
    enter(run)
    run.job.progress(0.5)
    assert run.journal is None


async def test_words_of_one_run_are_written_at_intervals(
    journal: Journal, paper: Paper, run: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "_INTERVAL", 3600)
    for number in range(100):
        say(journal, run, number / 100)
        await asyncio.sleep(0)
    assert paper.written == []
    await journal.close()
    assert paper.fractions() == [[0.99]]


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ({"fraction": 0.5, "message": "half", "at": MOMENT}, Progress(0.5, "half", MOMENT)),
        ({"fraction": 0.5, "at": MOMENT}, Progress(0.5, None, MOMENT)),
        ({"fraction": 0.5, "message": None, "at": MOMENT}, Progress(0.5, None, MOMENT)),
        ({"message": "half"}, None),
        ("half", None),
        (None, None),
    ],
    ids=["all", "no message", "null", "no fraction", "text", "nothing"],
)
def test_progress_is_read_as_it_was_written(
    stored: object, read: Progress | None, make_job: Callable[..., Job[Any]]
) -> None:
    document = to_document(make_job(progress_report=read))
    assert "progress" not in document  # it is no part of a new job
    assert from_document({**document, "progress": stored}).progress_report == read
