"""What handlers are given, how it is opened, shared and closed, run by run."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import ContextVar
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.exceptions import FastAPIError, RequestValidationError
from fastapi.security import SecurityScopes
from pydantic import BaseModel
from starlette.requests import HTTPConnection

from monque import Job, JobStatus, Monque, Options, Retry, Snooze, WorkerRegistrationError, current_job
from monque.testing import eventually
from monque_fastapi import DependencyError, JobDep, MonqueDep, MonqueModule, get_job, job, job_controller

from .support import (
    PATIENCE,
    QUICK,
    Notes,
    Number,
    PlainSession,
    Session,
    ended,
    get_number,
    living,
    run_one,
)

ONCE = Options(retry=Retry(max_retries=1))


class Email(BaseModel):
    to: str


# --- what there is --------------------------------------------------------------------------------------------------


@job("everything", store_result=True)
async def everything(
    to: str,
    notes: Notes,
    number: Number,
    session: Session,
    plain: PlainSession,
    old_style: int = Depends(get_number),
    *,
    monque: Monque,
    the_job: Job[Any],
    request: Request,
    connection: HTTPConnection,
    response: Response,
    scopes: SecurityScopes,
    copies: int = 1,
) -> dict[str, Any]:
    assert request.app is connection.app
    assert request.app.state.notes is notes
    assert response.status_code is None
    assert scopes.scopes == []
    assert await request.body() == b""
    assert not await request.is_disconnected()
    assert the_job.id == current_job().id
    return {
        "to": to,
        "copies": copies,
        "values": [number, old_style, session, plain],
        "job": the_job.name,
        "monque": monque.instance_id,
    }


async def test_a_handler_is_given_all_that_a_route_is(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[everything], options=ONCE)
    done, notes = await run_one(module, "everything", {"to": "ada", "copies": 2})
    assert done.result == {
        "to": "ada",
        "copies": 2,
        "values": [42, 42, "session 42", "plain session"],
        "job": "everything",
        "monque": module.monque.instance_id,
    }
    assert notes == ["number made", "session opened for everything", "plain session closed", "session closed"]


async def test_what_is_left_of_the_parameters_is_the_payload(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[everything])
    async with module.monque:
        with pytest.raises(Exception, match=r"data\['to'\]: expected a value"):
            await module.monque.enqueue("everything", {})
        with pytest.raises(Exception, match=r"data\['number'\]: expected nothing of this name"):
            await module.monque.enqueue("everything", {"to": "ada", "number": 1})
        handle = await everything.with_(delay=60).enqueue("ada", copies=3)
        assert handle.job.data == {"to": "ada", "copies": 3}


@job("typed")
async def typed(the_job: Job[Email], notes: Notes, the_same: JobDep) -> None:
    notes.append(f"{type(the_job.data).__name__} to {the_job.data.to}, {the_same.data}")


async def test_a_job_with_typed_data_can_be_the_payload(monque_uri: str) -> None:
    assert typed.new(Email(to="ada")).data == {"to": "ada"}
    _, notes = await run_one(MonqueModule(monque_uri, jobs=[typed], options=ONCE), "typed", {"to": "ada"})
    assert notes == ["Email to ada, {'to': 'ada'}"]


@job("anything")
async def anything(the_job: Any, notes: Notes) -> None:
    notes.append(repr(the_job.data))


async def test_a_parameter_alone_that_may_be_anything_is_the_job(monque_uri: str) -> None:
    assert (await run_one(MonqueModule(monque_uri, jobs=[anything], options=ONCE), "anything", {"x": 1}))[1] == [
        "{'x': 1}"
    ]


@job("background")
async def background(notes: Notes, session: Session, tasks: BackgroundTasks) -> None:
    tasks.add_task(notes.append, "in the background")
    notes.append(session)


async def test_background_tasks_run_within_the_run(monque_uri: str) -> None:
    _, notes = await run_one(MonqueModule(monque_uri, jobs=[background], options=ONCE), "background")
    assert notes[2:] == ["session 42", "in the background", "session closed"]


def get_scopes(scopes: SecurityScopes) -> list[str]:
    return scopes.scopes


@job("secured")
async def secured(notes: Notes, scopes: Annotated[list[str], Security(get_scopes, scopes=["jobs"])]) -> None:
    notes.append(f"{scopes}")


async def test_security_dependencies_have_their_scopes(monque_uri: str) -> None:
    assert (await run_one(MonqueModule(monque_uri, jobs=[secured], options=ONCE), "secured"))[1] == ["['jobs']"]


tenant: ContextVar[str] = ContextVar("tenant")


async def set_tenant() -> AsyncGenerator[None]:
    token = tenant.set("acme")
    yield
    tenant.reset(token)


@job("tenant", run_in="thread")
def in_thread(notes: Notes, _: Annotated[None, Depends(set_tenant)]) -> None:
    notes.append(f"{threading.current_thread().name} {current_job().name}")


@job("plain-on-loop", run_in="loop")
def on_loop(notes: Notes, _: Annotated[None, Depends(set_tenant)]) -> None:
    notes.append(f"{threading.current_thread().name} {tenant.get()}")


async def test_plain_handlers_run_in_threads_or_on_the_loop(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[in_thread, on_loop], options=ONCE)
    assert (await run_one(module, "tenant"))[1] == ["monque-in_thread tenant"]
    assert (await run_one(module, "plain-on-loop"))[1] == ["MainThread acme"]


@job("pay", transaction=True)
async def pay(amount: int, session: Session, the_job: Job[Any], monque: Monque) -> None:
    accounts = the_job.session.client.get_default_database()["accounts"]
    await accounts.insert_one({"amount": amount, "session": session}, session=the_job.session)
    await monque.enqueue("paid", session=the_job.session)
    if the_job.attempts == 1:
        raise RuntimeError("not yet")


async def test_a_run_can_be_a_transaction(monque_uri: str, monque_database: Any) -> None:
    done, _ = await run_one(MonqueModule(monque_uri, jobs=[pay], options=QUICK), "pay", {"amount": 5})
    assert (done.status, done.attempts) == (JobStatus.COMPLETED, 2)
    (stored,) = monque_database["accounts"].find()
    assert (stored["amount"], stored["session"]) == (5, "session 42")
    assert monque_database["monque_jobs"].count_documents({"name": "paid"}) == 1


# --- endings --------------------------------------------------------------------------------------------------------


@job("ends")
async def ends(how: str, notes: Notes, session: Session) -> None:
    if how == "fails":
        raise RuntimeError("mine")
    if how == "is refused":
        raise HTTPException(403, "no")
    if how == "is invalid":
        raise RequestValidationError([])
    if how == "snoozes" and current_job().fail_count == 0 and "snoozed" not in notes:
        notes.append("snoozed")
        raise Snooze(0.001)
    notes.append(session)


@job("waits")
async def waits(notes: Notes, session: Session) -> None:
    notes.append(session)
    await asyncio.sleep(PATIENCE)


@pytest.mark.parametrize(
    ("how", "seen", "reason"),
    [
        ("fails", "RuntimeError", "mine"),
        ("is refused", "HTTPException", "403: no"),
        ("is invalid", "RequestValidationError", None),
    ],
)
async def test_what_was_opened_is_closed_however_the_run_ends(
    monque_uri: str, how: str, seen: str, reason: str | None
) -> None:
    failed, notes = await run_one(MonqueModule(monque_uri, jobs=[ends], options=ONCE), "ends", {"how": how})
    assert failed.status is JobStatus.FAILED
    assert notes[-2:] == [f"session saw {seen}", "session closed"]
    assert reason is None or reason in str(failed.fail_reason)


async def test_a_verdict_passes_through(monque_uri: str) -> None:
    done, notes = await run_one(MonqueModule(monque_uri, jobs=[ends], options=ONCE), "ends", {"how": "snoozes"})
    assert (done.status, done.fail_count) == (JobStatus.COMPLETED, 0)
    assert notes[2:5] == ["snoozed", "session saw Snooze", "session closed"]


async def test_what_was_opened_is_closed_when_the_job_takes_too_long(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[waits], options=ONCE)
    async with living(module) as app:
        failed = await ended(module, (await waits.with_(timeout=2).enqueue()).job)
    assert failed.status is JobStatus.FAILED
    assert app.state.notes[-2:] == ["session saw CancelledError", "session closed"]


async def test_what_was_opened_is_closed_when_the_job_is_cancelled(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[waits])
    async with living(module) as app:
        handle = await waits.enqueue()
        await eventually(lambda: "session 42" in app.state.notes, timeout=PATIENCE)
        await module.monque.jobs.cancel(handle.id)
        await eventually(lambda: "session closed" in app.state.notes, timeout=PATIENCE)
        assert (await ended(module, handle.job)).status is JobStatus.CANCELLED
    assert app.state.notes[-2:] == ["session saw CancelledError", "session closed"]


async def test_what_was_opened_is_closed_when_the_application_stops(monque_uri: str, monque_database: Any) -> None:
    module = MonqueModule(monque_uri, jobs=[waits], options=Options(shutdown_timeout=0.1))
    async with living(module) as app:
        await waits.enqueue()
        await eventually(lambda: "session 42" in app.state.notes, timeout=PATIENCE)
    assert app.state.notes[-2:] == ["session saw CancelledError", "session closed"]
    assert monque_database["monque_jobs"].find_one()["status"] == "pending"


async def get_swallowing() -> AsyncGenerator[str]:
    with suppress(Exception):
        yield "swallowing"


async def get_converting() -> AsyncGenerator[str]:
    try:
        yield "converting"
    except Exception as error:
        raise LookupError("converted") from error


async def get_late() -> AsyncGenerator[str]:
    yield "late"
    raise ArithmeticError("the commit has failed")


async def get_broken() -> str:
    raise PermissionError("there is none")


@job("swallowed")
async def swallowed(_: Annotated[str, Depends(get_swallowing)]) -> None:
    raise RuntimeError("mine")


@job("converted")
async def converted(_: Annotated[str, Depends(get_converting)]) -> None:
    raise RuntimeError("mine")


@job("late")
async def late(_: Annotated[str, Depends(get_late)]) -> None:
    pass


@job("broken")
async def broken(_: Annotated[str, Depends(get_broken)]) -> None:
    pass


async def get_broken_within(_: Annotated[str, Depends(get_swallowing)]) -> str:
    raise PermissionError("there is none")


@job("broken-within")
async def broken_within(_: Annotated[str, Depends(get_broken_within)]) -> None:
    pass


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("swallowed", "mine"),
        ("converted", "converted"),
        ("late", "the commit has failed"),
        ("broken", "there is none"),
        ("broken-within", "is not raising the exception again"),
    ],
)
async def test_what_goes_wrong_in_dependencies_makes_the_run_a_failure(monque_uri: str, name: str, reason: str) -> None:
    jobs = [swallowed, converted, late, broken, broken_within]
    failed, _ = await run_one(MonqueModule(monque_uri, jobs=jobs, options=ONCE), name)
    assert failed.status is JobStatus.FAILED
    assert reason in str(failed.fail_reason)


# --- overrides ------------------------------------------------------------------------------------------------------


@job("overridden")
async def overridden(notes: Notes, number: Number) -> None:
    notes.append(f"number {number}")


async def test_dependency_overrides_of_the_application_hold(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[overridden, Mailing], options=ONCE)
    app = FastAPI(lifespan=module.lifespan)
    app.dependency_overrides[get_number] = lambda: 7
    async with living(module, app):
        await ended(module, (await overridden.enqueue()).job)
        app.dependency_overrides = {get_number: lambda: 8}
        await ended(module, (await overridden.enqueue()).job)
        app.dependency_overrides = {Mailing: StubMailing}
        await ended(module, (await Mailing.send.enqueue(to="ada")).job)
    assert app.state.notes[:2] == ["number 7", "number 8"]
    assert "['ada'] a stub session 42" in app.state.notes


# --- controllers ----------------------------------------------------------------------------------------------------


@job_controller("mailing")
class Mailing:
    def __init__(
        self,
        session: Session,
        the_job: Job[Any],
        monque: Monque,
        sender: str = "office",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        assert not args
        assert not kwargs
        self.sent: list[str] = []
        self.about = f"{session} {the_job.name} {sender} {isinstance(monque, Monque)}"

    @job("send")
    async def send(self, to: str, session: Session, notes: Notes) -> None:
        self.sent.append(to)
        notes.append(f"{self.sent} {self.about} {session}")

    @job("plain")
    def plain(self, notes: Notes) -> None:
        notes.append(f"{threading.current_thread().name} {self.sent}")


class StubMailing:
    sent: list[str] = []  # noqa: RUF012
    about = "a stub"


async def test_a_controller_is_made_anew_for_each_run(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[Mailing], options=ONCE)
    for to in ("ada", "grace"):
        _, notes = await run_one(module, "mailing.send", {"to": to})
        # Opened once for the controller and its method.
        assert notes == [
            "number made",
            "session opened for mailing.send",
            f"['{to}'] session 42 mailing.send office True session 42",
            "session closed",
        ]
    assert (await run_one(module, "mailing.plain"))[1][2] == "monque-plain []"


async def test_the_methods_of_a_controller_can_be_called() -> None:
    class Quiet(Mailing):
        def __init__(self) -> None:
            self.sent, self.about = [], "quiet"

    notes: list[str] = []
    mailing = Quiet()
    await mailing.send("ada", "a session", notes)
    mailing.plain(notes)
    assert notes == ["['ada'] quiet a session", "MainThread ['ada']"]


# --- what cannot be had ---------------------------------------------------------------------------------------------


async def needs_header(x_token: Annotated[str, Header()]) -> str:
    return x_token


async def needs_body(email: Email) -> Email:
    return email


@job("header")
async def header(_: Annotated[str, Depends(needs_header)]) -> None:
    pass


@job("body")
async def body(_: Annotated[Email, Depends(needs_body)]) -> None:
    pass


@pytest.mark.parametrize(("name", "wanted"), [("header", r"x-token (header)"), ("body", r"the body (body)")])
async def test_what_only_a_request_has_makes_the_run_a_failure_that_says_so(
    monque_uri: str, name: str, wanted: str
) -> None:
    failed, _ = await run_one(MonqueModule(monque_uri, jobs=[header, body], options=ONCE), name)
    assert failed.fail_reason is not None
    assert wanted in failed.fail_reason
    assert "a dependency reads it from the HTTP request, and a job has none" in failed.fail_reason


class Unknown:
    pass


async def needs_unknown(unknown: Unknown) -> Unknown:
    return unknown


def test_what_fastapi_cannot_understand_is_refused_at_start_up(monque_uri: str) -> None:
    @job("unknown")
    async def unknown(_: Annotated[Unknown, Depends(needs_unknown)]) -> None: ...

    with pytest.raises(WorkerRegistrationError, match=r"unknown.*FastAPI cannot fill its parameters: ") as caught:
        MonqueModule(monque_uri, jobs=[unknown])
    assert isinstance(caught.value.__cause__, FastAPIError)


def test_a_route_has_no_job() -> None:
    with pytest.raises(DependencyError, match="cannot provide the job: this is a route"):
        get_job(HTTPConnection({"type": "http"}))


async def test_a_job_with_dependencies_needs_a_module(monque_uri: str) -> None:
    monque = Monque(monque_uri, ONCE)
    monque.add(overridden)
    async with monque:
        await monque.start()
        handle = await overridden.enqueue()

        async def failed() -> bool:
            return (await handle.refresh()).status is JobStatus.FAILED

        await eventually(failed, timeout=PATIENCE)
    assert "by way of a MonqueModule; give it to one" in str(handle.job.fail_reason)


async def test_a_job_with_dependencies_needs_an_application(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[overridden], options=ONCE)
    async with module.monque:
        await module.monque.start()
        failed = await ended(module, (await overridden.enqueue()).job)
    assert "a module whose lifespan has begun" in str(failed.fail_reason)


@job("follow-up")
async def follow_up(monque: MonqueDep) -> None:
    await overridden.enqueue()
    await monque.enqueue("overridden")


async def test_handlers_enqueue_jobs(monque_uri: str) -> None:
    module = MonqueModule(monque_uri, jobs=[follow_up, overridden], options=QUICK)
    async with living(module) as app:
        await follow_up.enqueue()
        await eventually(lambda: app.state.notes.count("number 42") == 2, timeout=PATIENCE)


def test_a_job_can_be_called_like_its_function() -> None:
    notes: list[str] = []
    asyncio.run(overridden(notes, 1))
    assert notes == ["number 1"]
