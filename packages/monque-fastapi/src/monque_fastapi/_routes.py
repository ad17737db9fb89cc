"""Routes for those who wait for jobs: `202 Accepted`, where a job stands, its result, and its progress as it goes."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Annotated, Any, Self

from bson import ObjectId
from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel
from starlette.responses import Response
from starlette.routing import NoMatchFound

from monque import ConfigurationError, InvalidJobIdentifierError, Job, JobHandle, JobStatus, Monque
from monque_fastapi._dependencies import get_monque
from monque_fastapi.errors import DependencyError

__all__ = ["JobView", "accepted", "job_routes"]

_ROUTE = "monque_job"
_UNDER_WAY = (JobStatus.PENDING, JobStatus.PROCESSING)


class JobView(BaseModel):
    """What a job shows to those who wait for it: neither its data nor why it has failed.

    Attributes:
        id: Its id.
        name: Its name.
        status: Where it stands.
        created_at: When it was enqueued.
        run_at: When it is, or was, due.
        attempts: How often it was begun.
        progress: How far its run has come, between 0 and 1, if it says so.
        message: What it says beside that.
    """

    id: str
    name: str
    status: JobStatus
    created_at: AwareDatetime
    run_at: AwareDatetime
    attempts: int
    progress: float | None
    message: str | None

    @classmethod
    def of(cls, job: Job[Any]) -> Self:
        """What a job shows.

        Args:
            job: The job.
        """
        report = job.progress_report
        return cls(
            id=str(job.id),
            name=job.name,
            status=job.status,
            created_at=job.created_at,
            run_at=job.next_run_at,
            attempts=job.attempts,
            progress=None if report is None else report.fraction,
            message=None if report is None else report.message,
        )


def accepted(request: Request, job: Job[Any] | JobHandle[Any]) -> JSONResponse:
    """The answer of a route that has enqueued a job: `202 Accepted`, what the job shows, and where to ask for it.

    Args:
        request: The request.
        job: The job, or its handle.

    Raises:
        DependencyError: The application has no `job_routes`.

    Example:
        >>> from fastapi import FastAPI
        >>> from monque_fastapi import job
        >>> @job("send-email")
        ... async def send_email(to: str) -> None: ...
        >>> app = FastAPI()
        >>> app.include_router(job_routes())
        >>> @app.post("/emails")
        ... async def post_email(request: Request, to: str) -> JSONResponse:
        ...     return accepted(request, await send_email.enqueue(to=to))
    """
    found = job.job if isinstance(job, JobHandle) else job
    try:
        # The path only: what the client takes for the host is its own affair.
        url = request.url_for(_ROUTE, job_id=str(found.id)).path
    except NoMatchFound:
        raise DependencyError("the URL of the job", "there is no such route; include job_routes() first") from None
    return JSONResponse(_shown(found), 202, {"Location": url})


def job_routes(
    *,
    prefix: str = "/jobs",
    names: Collection[str] | None = None,
    dependencies: Sequence[Any] = (),
    monque: Callable[..., Monque] = get_monque,
    events: bool = True,
) -> APIRouter:
    """Routes that show jobs: `/jobs/{id}`, `/jobs/{id}/result` and `/jobs/{id}/events`.

    The result is answered as it is stored, with 200; with 202 while the job is under way; with 409 if there will be
    none, since it has failed or was cancelled. The events are server-sent, one at each change.

    Args:
        prefix: What their paths begin with.
        names: The names of the jobs that are shown; None for all there are in the collection.
        dependencies: As for `fastapi.APIRouter`: who may ask is for the application to say.
        monque: The dependency that provides the Monque, `module.get_monque` where there are several.
        events: Whether there are server-sent events, for which `monque-fastapi[sse]` has to be installed.

    Returns:
        The router to include.

    Raises:
        ConfigurationError: There are to be events, and what they need is not installed.

    Example:
        >>> from fastapi import FastAPI
        >>> app = FastAPI()
        >>> app.include_router(job_routes(names={"send-email"}))
    """
    router = APIRouter(prefix=prefix, dependencies=dependencies, tags=["jobs"])
    responses: dict[int | str, dict[str, Any]] = {404: {"description": "There is no such job"}}

    async def find(job_id: str, queue: Annotated[Monque, Depends(monque)]) -> Job[Any]:
        try:
            found = await queue.jobs.get(job_id)
        except InvalidJobIdentifierError:
            found = None
        if found is None or (names is not None and found.name not in names):
            raise HTTPException(404, "there is no such job")
        return found

    @router.get("/{job_id}", name=_ROUTE, responses=responses)
    async def status(found: Annotated[Job[Any], Depends(find)]) -> JobView:
        return JobView.of(found)

    @router.get("/{job_id}/result", name=f"{_ROUTE}_result", response_model=None, responses=responses)
    async def result(found: Annotated[Job[Any], Depends(find)]) -> Response:
        return _result(found)

    if events:
        respond = _event_source()

        @router.get("/{job_id}/events", name=f"{_ROUTE}_events", response_model=None, responses=responses)
        async def stream(
            found: Annotated[Job[Any], Depends(find)], queue: Annotated[Monque, Depends(monque)]
        ) -> Response:
            return respond(changes(queue, found))

    return router


def _shown(job: Job[Any]) -> dict[str, Any]:
    return JobView.of(job).model_dump(mode="json")


def _result(job: Job[Any]) -> Response:
    if job.status in _UNDER_WAY:
        return JSONResponse(_shown(job), 202, {"Retry-After": "1"})
    if job.status is not JobStatus.COMPLETED or job.result_error is not None:
        return JSONResponse(_shown(job), 409)
    return JSONResponse(jsonable_encoder({"result": job.result}, custom_encoder={ObjectId: str}))


async def changes(queue: Monque, job: Job[Any]) -> AsyncGenerator[dict[str, str]]:
    """What a job shows, now and whenever that has changed, until it has ended."""
    shown: JobView | None = None
    while True:
        view = JobView.of(job)
        if view != shown:
            yield {"event": view.status, "data": view.model_dump_json()}
            shown = view
        if job.status not in _UNDER_WAY:
            return
        await asyncio.sleep(_POLL)
        found = await queue.jobs.get(job.id)
        if found is None:
            yield {"event": "deleted", "data": view.model_dump_json()}
            return
        job = found


# How long a change may go unnoticed, in seconds.
_POLL = 0.25


def _event_source() -> Callable[[AsyncGenerator[dict[str, str]]], Response]:
    try:
        from sse_starlette import EventSourceResponse
    except ImportError:
        expected = 'False, or what they need: pip install "monque-fastapi[sse]"'
        raise ConfigurationError("events", True, expected) from None
    return EventSourceResponse
