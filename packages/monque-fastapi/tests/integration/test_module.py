"""The module in an application: how it boots, works, produces and stops."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient
from pymongo.database import Database

from monque import ConfigurationError, Job, JobStatus, Monque, Options, Router, WorkerRegistrationError
from monque.testing import eventually
from monque_fastapi import DependencyError, MonqueDep, MonqueModule, job, job_controller

from .support import PATIENCE, QUICK, Notes, ended, living, note, report, run_one

Documents = Database[dict[str, Any]]


# --- lifespans ------------------------------------------------------------------------------------------------------


async def test_a_lifespan_of_its_own(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[note])
    done, notes = await run_one(module, "note", {"text": "hello"})
    assert (done.status, notes) == (JobStatus.COMPLETED, ["hello"])
    assert not module.monque.is_healthy()


@asynccontextmanager
async def own_lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    app.state.notes.append("own began")
    yield {"greeting": "hello"}
    app.state.notes.append("own ended")


async def generator_lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Any]]:
    async with own_lifespan(app) as state:
        yield state


@job("greet")
async def greet(request: Request, notes: Notes) -> None:
    notes.append(request.state.greeting)


@pytest.mark.parametrize("own", [own_lifespan, generator_lifespan])
async def test_a_lifespan_that_is_wrapped_begins_first_ends_last_and_gives_its_state(monque_uri: str, own: Any) -> None:
    module = MonqueModule(monque_uri, jobs=[greet])
    app = FastAPI(lifespan=module.wrap(own))

    @app.get("/")
    def root(request: Request) -> str:
        greeting: str = request.state.greeting
        return greeting

    notes: list[str] = []
    app.state.notes = notes
    with TestClient(app) as client:
        assert client.get("/").json() == "hello"
    async with living(module, app):
        await ended(module, await greet_one(module))
    assert notes == ["own began", "own ended"]
    assert app.state.notes == ["own began", "hello", "own ended"]


async def greet_one(module: MonqueModule) -> Job[Any]:
    return await module.monque.enqueue("greet")


async def test_a_module_is_installed_into_the_lifespan_there_is(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[greet])
    app = FastAPI(lifespan=own_lifespan)
    module.install(app)
    async with living(module, app):
        await ended(module, await greet_one(module))
    assert app.state.notes == ["own began", "hello", "own ended"]


async def test_an_application_can_live_again(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[note])
    for _ in range(2):
        assert (await run_one(module, "note", {"text": "again"}))[1] == ["again"]


def test_an_application_can_live_again_on_another_event_loop(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[note])
    app = FastAPI(lifespan=module.lifespan)

    @app.post("/")
    async def post(monque: MonqueDep) -> str:
        return str((await monque.enqueue("note", {"text": "x"})).status)

    for _ in range(2):
        app.state.notes = list[str]()
        with TestClient(app) as client:
            assert client.post("/").json() == "pending"


async def test_a_module_lives_in_one_application_at_a_time(monque_uri: str) -> None:
    module = MonqueModule(monque_uri)
    async with living(module):
        with pytest.raises(ConfigurationError, match="one application at a time"):
            async with living(module):
                pytest.fail("lives")
        assert module.monque.is_healthy()


# --- several modules ------------------------------------------------------------------------------------------------


@job("which")
async def which(monque: MonqueDep, notes: Notes) -> None:
    notes.append(monque.instance_id.partition(":")[0])


def other_which() -> Any:
    @job("which")
    async def other(monque: Monque, notes: Notes) -> None:
        notes.append(monque.instance_id.partition(":")[0])

    return other


async def test_several_modules_live_in_one_application(monque_uri: str) -> None:
    one = MonqueModule(monque_uri, jobs=[which], options=Options(instance_id="one", collection="ones"))
    other = MonqueModule(monque_uri, jobs=[other_which()], options=Options(instance_id="other", collection="others"))
    app = FastAPI(lifespan=one.wrap(other.lifespan))

    @app.get("/one")
    def get_one(monque: Annotated[Monque, Depends(one.get_monque)]) -> str:
        return monque.instance_id

    @app.get("/any")
    def get_any(monque: MonqueDep) -> str:
        return monque.instance_id

    async with living(one, app):
        for module in (one, other):
            await ended(module, await module.monque.enqueue("which"))
    assert app.state.notes == ["one", "other"]
    app.state.notes = list[str]()
    with TestClient(app) as client:
        assert client.get("/one").json() == one.monque.instance_id
        with pytest.raises(DependencyError, match=r"there are 2; name one: Depends\(module.get_monque\)"):
            client.get("/any")


def test_an_application_without_a_module_has_no_monque() -> None:
    app = FastAPI()

    @app.get("/")
    def root(monque: MonqueDep) -> str:
        return monque.instance_id

    with pytest.raises(DependencyError, match="no MonqueModule is at work in this application"):
        TestClient(app).get("/")


# --- working and producing ------------------------------------------------------------------------------------------


async def test_a_module_that_only_produces_runs_nothing(monque_uri: str, monque_database: Documents) -> None:
    producer = MonqueModule(monque_uri, jobs=[note, report], work=False)
    async with living(producer):
        await note.enqueue(text="hello")
    stored = list(monque_database["monque_jobs"].find())
    assert [(job["name"], job["status"]) for job in stored] == [("note", "pending")]  # and no cron job
    worker = MonqueModule(monque_uri, jobs=[note])
    async with living(worker) as app:
        await eventually(lambda: app.state.notes == ["hello"], timeout=PATIENCE)


@job("slow")
async def slow(notes: Notes) -> None:
    notes.append("began")
    await asyncio.sleep(0.3)
    notes.append("ended")


async def test_stopping_waits_for_a_job_that_is_running(monque_uri: str, monque_database: Documents) -> None:
    module = MonqueModule(monque_uri, jobs=[slow])
    async with living(module) as app:
        await slow.enqueue()
        await eventually(lambda: app.state.notes == ["began"], timeout=PATIENCE)
    assert app.state.notes == ["began", "ended"]
    assert [job["status"] for job in monque_database["monque_jobs"].find()] == ["completed"]


@job("fragile")
async def fragile(notes: Notes) -> str:
    notes.append("ran")
    if len(notes) == 1:
        raise RuntimeError("not yet")
    return "done"


async def test_a_job_that_fails_once_completes_then(monque_uri: str) -> None:
    done, notes = await run_one(MonqueModule(monque_uri, jobs=[fragile], options=QUICK), "fragile")
    assert (done.status, done.fail_count, notes) == (JobStatus.COMPLETED, 1, ["ran", "ran"])


async def test_an_error_is_logged_with_the_name_of_its_job(monque_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await run_one(MonqueModule(monque_uri, jobs=[fragile], options=QUICK), "fragile")
    assert any("fragile" in line and "not yet" in line for line in caplog.messages)


async def test_a_unique_key_holds_through_what_is_injected(monque_uri: str) -> None:
    @job("twice")
    async def twice(monque: Monque) -> None:
        for _ in range(2):
            await monque.enqueue("later", unique_key="one", delay=60)

    module = MonqueModule(monque_uri, jobs=[twice])
    async with living(module):
        await ended(module, await twice_job(module))
        first, second = [await module.monque.enqueue("later", unique_key="one") for _ in range(2)]
        assert first.id == second.id
        assert first.next_run_at > first.created_at


async def twice_job(module: MonqueModule) -> Job[Any]:
    return await module.monque.enqueue("twice")


# --- without a web server -------------------------------------------------------------------------------------------


async def stopped_once(condition: Any) -> None:
    await eventually(condition, timeout=PATIENCE)
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("way", ["own", "wrapped", "installed", "by its Monque"])
async def test_a_module_works_without_a_web_server(monque_uri: str, way: str) -> None:
    notes: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        app.state.notes = notes
        yield

    module = MonqueModule(monque_uri, jobs=[note], work=False)
    if way == "own":
        module.monque.use(nothing_but(notes))
        module.include(plain)
    elif way == "wrapped":
        FastAPI(lifespan=module.wrap(lifespan))
    else:
        module.install(FastAPI(lifespan=lifespan))
    name = "plain" if way == "own" else "note"
    async with Monque(monque_uri) as producer:
        await producer.enqueue(name, {"text": "hello"})
    stopping = asyncio.create_task(stopped_once(lambda: "hello" in notes))
    await (module.monque if way == "by its Monque" else module).run()
    await stopping
    assert notes == ["hello"]
    assert not module.is_alive


plain = Router()


@plain.worker("plain")
async def plain_handler(text: str) -> None:
    assert text == "hello"


def nothing_but(notes: list[str]) -> Any:
    @asynccontextmanager
    async def middleware(job: Job[Any]) -> AsyncGenerator[None]:
        yield
        notes.append(job.data["text"])

    return middleware


async def test_in_a_worker_process_only_the_module_that_is_run_works(
    monque_uri: str, monque_database: Documents
) -> None:
    one = MonqueModule(monque_uri, jobs=[note, report])
    other = MonqueModule(monque_uri, jobs=[which], options=Options(collection="others"))
    app = FastAPI()
    app.state.notes = list[str]()
    other.install(app)
    one.install(app)

    async def produced() -> bool:
        if not (one.monque.is_healthy() and other.monque.is_healthy()):
            return False
        await other.monque.enqueue("which")
        await one.monque.enqueue("note", {"text": "hello"})
        return True

    async def signalled() -> None:
        await eventually(produced, timeout=PATIENCE)
        await stopped_once(lambda: app.state.notes)

    stopping = asyncio.create_task(signalled())
    await one.run()
    await stopping
    assert app.state.notes == ["hello"]
    assert [job["status"] for job in monque_database["others"].find()] == ["pending"]
    assert monque_database["monque_jobs"].find_one({"name": "report"}) is not None


# --- declaring ------------------------------------------------------------------------------------------------------


@job_controller("email")
class EmailJobs:
    @job("send")
    async def send(self, to: str, notes: Notes) -> None:
        notes.append(f"to {to}")


def test_duplicates_are_refused_at_start_up(monque_uri: str) -> None:
    @job("email.send")
    async def twin(to: str) -> None: ...

    @job_controller("email")
    class Twin:
        @job("send")
        async def send(self) -> None: ...

    for other in (twin, Twin):
        with pytest.raises(WorkerRegistrationError, match=r"email\.send.*there is a worker for this name already"):
            MonqueModule(monque_uri, jobs=[EmailJobs, other])
    MonqueModule(monque_uri, jobs=[EmailJobs, EmailJobs, EmailJobs.send])


async def test_jobs_are_found_in_python_modules_routers_and_lists(monque_uri: str) -> None:
    found = ModuleType("found")
    vars(found).update(EmailJobs=EmailJobs, sys=sys, imported=note)
    found.__name__ = EmailJobs.__module__
    module = MonqueModule(monque_uri, jobs=[found, plain])
    async with living(module) as app:
        await ended(module, await module.monque.enqueue("email.send", {"to": "ada"}))
        await ended(module, await module.monque.enqueue("plain", {"text": "hello"}))
        assert app.state.notes == ["to ada"]
        assert (await module.monque.enqueue("note", {"no such": "parameter"})).data == {"no such": "parameter"}


@pytest.mark.parametrize("what", [None, "jobs", 5, print, object, FastAPI])
def test_what_is_no_job_is_refused(monque_uri: str, what: Any) -> None:
    with pytest.raises(ConfigurationError, match="option jobs: expected functions under @job or @cron, classes"):
        MonqueModule(monque_uri, jobs=[what])


async def test_a_monque_can_be_given(monque_uri: str) -> None:
    monque = Monque(monque_uri)
    module = MonqueModule(monque, jobs=[note])
    assert module.monque is monque
    assert (await run_one(module, "note", {"text": "hello"}))[1] == ["hello"]
    with pytest.raises(ConfigurationError, match="option options: expected nothing beside a Monque"):
        MonqueModule(monque, options=Options())


# --- cron jobs ------------------------------------------------------------------------------------------------------


async def test_a_cron_job_exists_once_however_often_and_wherever_it_is_declared(
    monque_uri: str, monque_database: Documents
) -> None:
    modules = [MonqueModule(monque_uri, jobs=[report]) for _ in range(5)]

    async def boot(module: MonqueModule) -> None:
        async with living(module):
            pass

    for _ in range(2):
        await asyncio.gather(*map(boot, modules))
    (stored,) = monque_database["monque_jobs"].find()
    assert (stored["name"], stored["repeatInterval"], stored["timezone"]) == ("report", "0 9 * * *", "Europe/Berlin")


async def test_a_cron_job_follows_its_expression(monque_uri: str, monque_database: Documents) -> None:
    for expression in ("0 9 * * *", "30 7 * * 1-5"):
        module = MonqueModule(monque_uri, jobs=[daily(expression)])
        async with living(module):
            (stored,) = monque_database["monque_jobs"].find()
            assert stored["repeatInterval"] == expression
            assert stored["nextRunAt"].minute == int(expression.split()[0])


def daily(expression: str) -> Any:
    from monque_fastapi import cron

    @job_controller("daily")
    class Daily:
        @cron(expression)
        async def report(self) -> None: ...

    return Daily


async def test_a_cron_job_runs(monque_uri: str, monque_database: Documents) -> None:
    module = MonqueModule(monque_uri, jobs=[report])
    async with living(module) as app:
        (stored,) = monque_database["monque_jobs"].find()
        found = await module.monque.jobs.reschedule(stored["_id"], stored["createdAt"])
        assert found is not None
        await eventually(lambda: app.state.notes == ["report"], timeout=PATIENCE)
