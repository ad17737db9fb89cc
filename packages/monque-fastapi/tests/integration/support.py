"""What the tests share: an application whose state takes notes, and dependencies that write them."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

from monque import Job, JobStatus, Options, Retry
from monque.testing import eventually
from monque_fastapi import JobDep, MonqueModule, cron, job

PATIENCE = 30
QUICK = Options(retry=Retry(max_retries=2, base=0.001))


def get_notes(request: Request) -> list[str]:
    notes: list[str] = request.app.state.notes
    return notes


Notes = Annotated[list[str], Depends(get_notes)]


def get_number(notes: Notes) -> int:
    notes.append("number made")
    return 42


Number = Annotated[int, Depends(get_number)]


async def get_session(notes: Notes, number: Number, job: JobDep) -> AsyncGenerator[str]:
    notes.append(f"session opened for {job.name}")
    try:
        yield f"session {number}"
    except BaseException as error:
        notes.append(f"session saw {type(error).__name__}")
        raise
    finally:
        notes.append("session closed")


Session = Annotated[str, Depends(get_session)]


def get_plain_session(notes: Notes) -> Generator[str]:
    try:
        yield "plain session"
    finally:
        notes.append("plain session closed")


PlainSession = Annotated[str, Depends(get_plain_session)]


@job("note")
async def note(text: str, notes: Notes) -> None:
    notes.append(text)


@cron("0 9 * * *", "report", timezone="Europe/Berlin")
async def report(notes: Notes) -> None:
    notes.append("report")


@asynccontextmanager
async def living(module: MonqueModule, app: FastAPI | None = None) -> AsyncGenerator[FastAPI]:
    """An application with the module, alive."""
    app = app or FastAPI(lifespan=module.lifespan)
    app.state.notes = list[str]()
    async with app.router.lifespan_context(app):
        yield app


async def ended(module: MonqueModule, job: Job[Any]) -> Job[Any]:
    """The job, once it has ended."""

    async def look() -> Job[Any] | None:
        found = await module.monque.jobs.get(job.id)
        return found if found and found.status not in {JobStatus.PENDING, JobStatus.PROCESSING} else None

    found: Job[Any] | None = await eventually(look, timeout=PATIENCE)
    assert found is not None
    return found


async def run_one(module: MonqueModule, name: str, data: object = None) -> tuple[Job[Any], list[str]]:
    """Run one job in an application of its own: what became of it, and the notes taken."""
    async with living(module) as app:
        enqueued = await module.monque.enqueue(name, data)
        notes: list[str] = app.state.notes
        return await ended(module, enqueued), notes
