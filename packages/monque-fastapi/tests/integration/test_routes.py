"""Routes that show jobs."""

import asyncio
import json
import sys
from typing import Any

import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener, CommandStartedEvent
from typing_extensions import override

from monque import ConfigurationError, Options, Retry, current_job
from monque.testing import eventually
from monque_fastapi import DependencyError, MonqueDep, MonqueModule, accepted, job, job_routes
from monque_fastapi._routes import changes

from .support import PATIENCE, ended, living

ONCE = Options(retry=Retry(max_retries=1))
go_on = asyncio.Event()


@job("add", store_result=True)
async def add(one: int, other: int) -> int:
    return one + other


@job("fail")
async def fail() -> None:
    raise RuntimeError("a secret")


@job("steps", store_result=True)
async def steps(monque: MonqueDep) -> str:
    current_job().progress(0.5, "half")
    await go_on.wait()
    return "done"


@job("odd", store_result=True)
async def odd() -> object:
    return object()


def application(module: MonqueModule, **options: Any) -> FastAPI:
    app = FastAPI(lifespan=module.lifespan)
    app.include_router(job_routes(**options))

    @app.post("/sums")
    async def post_sum(request: Request, one: int, other: int) -> JSONResponse:
        return accepted(request, await add.enqueue(one, other))

    @app.post("/jobs-of/{name}")
    async def post_job(request: Request, name: str, monque: MonqueDep) -> JSONResponse:
        return accepted(request, await monque.enqueue(name))

    return app


def client_of(app: FastAPI) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test")


@pytest.fixture
def module(monque_uri: str) -> MonqueModule:
    return MonqueModule(monque_uri, jobs=[add, fail, steps, odd], options=ONCE)


async def test_a_route_accepts_and_says_where_to_ask(module: MonqueModule) -> None:
    app = application(module)
    async with living(module, app), client_of(app) as client:
        answer = await client.post("/sums", params={"one": 1, "other": 2})
        assert (answer.status_code, answer.json()["status"], answer.json()["name"]) == (202, "pending", "add")
        url = answer.headers["location"]
        assert url == f"/jobs/{answer.json()['id']}"

        async def status() -> Any:
            return (await client.get(url)).json()

        async def is_completed() -> bool:
            return bool((await status())["status"] == "completed")

        await eventually(is_completed, timeout=PATIENCE)
        view = await status()
        assert set(view) == {"id", "name", "status", "created_at", "run_at", "attempts", "progress", "message"}
        assert view["attempts"] == 1
        result = await client.get(f"{url}/result")
        assert (result.status_code, result.json()) == (200, {"result": 3})


async def test_a_result_that_there_is_not_yet_or_never(module: MonqueModule) -> None:
    app = application(module)
    async with living(module, app), client_of(app) as client:
        later = await module.monque.enqueue("add", {"one": 1, "other": 2}, delay=60)
        answer = await client.get(f"/jobs/{later.id}/result")
        assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
        for name in ("fail", "odd"):
            url = (await client.post(f"/jobs-of/{name}")).headers["location"]
            await ended(module, await found(module, url))
            answer = await client.get(f"{url}/result")
            assert answer.status_code == 409
            assert "secret" not in answer.text
        await module.monque.jobs.cancel(later.id)
        answer = await client.get(f"/jobs/{later.id}/result")
        assert (answer.status_code, answer.json()["status"]) == (409, "cancelled")


async def found(module: MonqueModule, url: str) -> Any:
    return await module.monque.jobs.get(url.rpartition("/")[2])


async def test_a_job_that_there_is_not_or_that_is_not_shown(module: MonqueModule) -> None:
    app = application(module, names={"add"})
    async with living(module, app), client_of(app) as client:
        hidden = (await client.post("/jobs-of/fail")).headers["location"]
        for url in ("/jobs/nonsense", "/jobs/0123456789abcdef01234567", hidden):
            for what in ("", "/result", "/events"):
                assert (await client.get(url + what)).status_code == 404


async def test_who_may_ask_is_for_the_application_to_say(module: MonqueModule) -> None:
    def nobody() -> None:
        raise HTTPException(401)

    app = application(module, dependencies=[Depends(nobody)], prefix="/tasks", monque=module.get_monque)
    async with living(module, app), client_of(app) as client:
        url = (await client.post("/sums", params={"one": 1, "other": 2})).headers["location"]
        assert url.startswith("/tasks/")
        assert (await client.get(url)).status_code == 401


async def events_of(client: httpx2.AsyncClient, url: str) -> list[tuple[str, dict[str, Any]]]:
    text = (await client.get(f"{url}/events", timeout=PATIENCE)).text
    lines = text.splitlines()
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return list(zip(names, data, strict=True))


async def test_progress_is_sent_as_it_goes(module: MonqueModule) -> None:
    go_on.clear()
    app = application(module)
    async with living(module, app), client_of(app) as client:
        url = (await client.post("/jobs-of/steps")).headers["location"]
        listening = asyncio.create_task(events_of(client, url))

        async def is_half_done() -> bool:
            return bool((await client.get(url)).json()["message"] == "half")

        await eventually(is_half_done, timeout=PATIENCE)
        go_on.set()
        events = await listening
    names = [name for name, _ in events]
    assert names[-1] == "completed"
    assert set(names) <= {"pending", "processing", "completed"}
    assert events[-1][1]["progress"] == 0.5


class Looks(CommandListener):
    """Counts how often a job was looked at."""

    count = 0

    @override
    def started(self, event: CommandStartedEvent) -> None:
        self.count += event.command_name == "find"

    @override
    def succeeded(self, event: object) -> None: ...

    @override
    def failed(self, event: object) -> None: ...


async def test_nothing_is_sent_while_nothing_changes_and_the_end_when_a_job_is_deleted(monque_uri: str) -> None:
    looks = Looks()
    async with AsyncMongoClient[Any](monque_uri, event_listeners=[looks]) as client:
        module = MonqueModule(client, work=False)
        async with living(module):
            later = await module.monque.enqueue("add", {"one": 1, "other": 2}, delay=60)
            events = changes(module.monque, later)
            assert (await anext(events))["event"] == "pending"
            rest = asyncio.create_task(anext(events))
            before = looks.count
            await eventually(lambda: looks.count >= before + 3, timeout=PATIENCE)
            assert not rest.done()
            await module.monque.jobs.delete(later.id)
            assert (await rest)["event"] == "deleted"
            assert [event async for event in events] == []


def test_events_need_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sse_starlette", None)
    with pytest.raises(ConfigurationError, match=r'pip install "monque-fastapi\[sse\]"'):
        job_routes()
    assert len(job_routes(events=False).routes) == 2


def test_where_there_are_no_such_routes_nothing_can_be_accepted() -> None:
    app = FastAPI()
    request = Request({"type": "http", "app": app, "router": app.router, "headers": [], "path": "/"})
    with pytest.raises(DependencyError, match=r"there is no such route; include job_routes\(\) first"):
        accepted(request, one_job())


def one_job() -> Any:
    from datetime import UTC, datetime

    from bson import ObjectId

    from monque.job import JobStatus, make_job

    now = datetime.now(UTC)
    return make_job(
        {
            "id": ObjectId(),
            "name": "add",
            "data": {},
            "status": JobStatus.PENDING,
            "next_run_at": now,
            "fail_count": 0,
            "created_at": now,
            "updated_at": now,
        }
    )
