"""Containers of dishka, beside FastAPI's own dependencies."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from dishka import FromComponent, Provider, Scope, from_context, make_async_container, provide  # pyright: ignore[reportUnknownVariableType]
from dishka.integrations.fastapi import FromDishka, inject, setup_dishka
from fastapi import Depends, FastAPI

from monque import Job, JobStatus, Monque, Options, Retry
from monque_fastapi import MonqueModule, job, job_controller

from .support import Notes, ended, living, run_one

ONCE = Options(retry=Retry(max_retries=1))
log: list[str] = []


class Mailer:
    def __init__(self, name: str) -> None:
        self.name = name


class Services(Provider):
    job = from_context(Job, scope=Scope.REQUEST)
    monque = from_context(Monque, scope=Scope.REQUEST)

    @provide(scope=Scope.APP)
    def number(self) -> int:
        return 42

    @provide(scope=Scope.REQUEST)
    async def mailer(self, number: int, job: Job[Any], monque: Monque) -> AsyncGenerator[Mailer, Any]:
        log.append("opened")
        error = yield Mailer(f"{number} {job.name} {isinstance(monque, Monque)}")
        log.append(f"closed after {error!r}")


class Other(Provider):
    component = "other"

    @provide(scope=Scope.REQUEST)
    def number(self) -> int:
        return 7


@inject
async def get_greeting(mailer: FromDishka[Mailer]) -> str:
    return f"hello from {mailer.name}"


@job("send")
async def send(
    to: str,
    mailer: FromDishka[Mailer],
    other: Annotated[int, FromComponent("other")],
    greeting: Annotated[str, Depends(get_greeting)],
    notes: Notes,
) -> None:
    notes.append(f"to {to} by {mailer.name}, {other}, {greeting}")
    if to == "nobody":
        raise LookupError(to)


@job_controller("mail")
class Mails:
    def __init__(self, mailer: FromDishka[Mailer], notes: Notes) -> None:
        self.mailer, self.notes = mailer, notes

    @job("send")
    async def send(self, mailer: FromDishka[Mailer]) -> None:
        self.notes.append(f"{self.mailer is mailer} {mailer.name}")


async def test_jobs_and_controllers_are_given_what_a_container_provides(monque_uri: str) -> None:
    log.clear()
    container = make_async_container(Services(), Other())
    module = MonqueModule(monque_uri, jobs=[send, Mails], options=ONCE)
    app = FastAPI(lifespan=module.lifespan)
    setup_dishka(container, app)
    async with living(module, app):
        for enqueued in (await send.enqueue(to="ada"), await Mails.send.enqueue(), await send.enqueue(to="nobody")):
            found = await ended(module, enqueued.job)
            assert found.status is (JobStatus.FAILED if found.data.get("to") == "nobody" else JobStatus.COMPLETED)
    await container.close()
    greeting = "42 send True, 7, hello from 42 send True"
    assert sorted(app.state.notes) == sorted(
        [
            f"to ada by {greeting}",
            "True 42 mail.send True",
            f"to nobody by {greeting}",
        ]
    )
    assert sorted(log) == ["closed after LookupError('nobody')", *["closed after None"] * 2, *["opened"] * 3]


async def test_without_a_container_a_job_that_needs_one_fails_and_says_so(monque_uri: str) -> None:
    failed, _ = await run_one(MonqueModule(monque_uri, jobs=[Mails], options=ONCE), "mail.send")
    assert "there is no container; call setup_dishka(container, app)" in str(failed.fail_reason)
