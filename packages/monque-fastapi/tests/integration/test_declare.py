"""Declaring jobs: names, options, and what makes no sense."""

from collections.abc import AsyncGenerator, Generator
from typing import Annotated, Any, assert_type, cast

import pytest
from fastapi import Body, Depends, Query

from monque import InvalidJobIdentifierError, Job, JobHandle, NewJob, Retry, Worker, WorkerRegistrationError
from monque_fastapi import DeclaredJob, cron, job, job_controller

from .support import Notes, Number


@job("send-email", concurrency=5, retry=Retry(max_retries=3))
async def send_email(to: str, notes: Notes, number: Number, copies: int = 1) -> str:
    return f"{to} {number} {copies}"


def test_a_job_is_a_worker_with_its_options() -> None:
    assert isinstance(send_email, Worker)
    assert (send_email.name, send_email.concurrency, send_email.retry) == ("send-email", 5, Retry(max_retries=3))
    assert [parameter.name for parameter in send_email.injected] == ["notes", "number"]
    assert (send_email.receiver, send_email.cron) == (None, None)
    assert send_email.new("ada", copies=2) == NewJob(name="send-email", data={"to": "ada", "copies": 2})
    assert send_email.with_(priority=3).new("ada").priority == 3


@job_controller("typed")
class TypedJobs:
    @job("add")
    async def add(self, one: int, other: int) -> int:
        return one + other

    @job("divide")
    def divide(self, one: int, other: int) -> float:
        return one / other


async def types() -> None:
    """For the type checkers only: what can be called is what was written, and results have their types."""
    assert_type(await send_email("ada", [], 1), str)
    assert_type(await send_email.enqueue(to="ada"), JobHandle[str])
    assert_type(await (await TypedJobs.add.with_(delay=5).enqueue(1, 2)).result(), int)
    assert_type(await TypedJobs().add(1, other=2), int)
    assert_type(TypedJobs().divide(1, 2), float)
    assert_type(await TypedJobs.divide.enqueue(1, 2), JobHandle[float])


def test_a_function_to_which_nothing_is_injected_is_any_worker() -> None:
    @job("resize", run_in="thread")
    def resize(page: int) -> None: ...

    assert (resize.run_in, resize.injected) == ("thread", ())
    assert resize.function is resize.declared


def test_a_controller_joins_names() -> None:
    @job_controller("email")
    class EmailJobs:
        @job("send", timeout=5)
        async def send_it(self, to: str) -> None: ...

        @cron("0 9 * * *", timezone="Europe/Berlin")
        async def digest(self) -> None: ...

        @cron("@daily", "tidy-up", store_result=True)
        def tidy(self) -> int:
            return 0

    send, digest, tidy = EmailJobs.send_it, EmailJobs.digest, EmailJobs.tidy
    assert [one.name for one in (send, digest, tidy)] == ["email.send", "email.digest", "email.tidy-up"]
    assert [one.receiver for one in (send, digest, tidy)] == [EmailJobs] * 3
    assert send.timeout is not None
    assert tidy.store_result
    assert [one.cron and (one.cron.expression, one.cron.timezone) for one in (send, digest, tidy)] == [
        None,
        ("0 9 * * *", "Europe/Berlin"),
        ("@daily", "UTC"),
    ]
    assert EmailJobs().tidy() == 0


def test_a_controller_need_not_have_a_prefix_and_may_inherit() -> None:
    class Base:
        @job("send")
        async def send(self, to: str) -> None: ...

    @job_controller()
    class EmailJobs(Base): ...

    @job_controller("other")
    class OtherJobs(Base): ...

    names = [cls.send.name for cls in (EmailJobs, OtherJobs)]
    assert names == ["send", "other.send"]


def test_a_cron_job_is_named_like_its_function_unless_it_says_so() -> None:
    @cron("0 9 * * *")
    async def report() -> None: ...

    @cron("0 9 * * *", "daily-report")
    async def other(notes: Notes) -> None: ...

    assert (report.name, other.name) == ("report", "daily-report")


class Unknown: ...


def test_a_controller_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(WorkerRegistrationError, match=r"email.*EmailJobs cannot be made: .* the parameter 'unknown'"):

        @job_controller("email")
        class EmailJobs:
            def __init__(self, unknown: Unknown) -> None: ...

            @job("send")
            async def send(self) -> None: ...


def test_a_controller_without_jobs_is_refused() -> None:
    with pytest.raises(WorkerRegistrationError, match=r"email.*has no method under @job or @cron"):

        @job_controller("email")
        class EmailJobs:
            async def send(self) -> None: ...


def generator() -> Generator[int]:
    yield 1


async def async_generator() -> AsyncGenerator[int]:
    yield 1


@pytest.mark.parametrize("what", [generator, async_generator, 5, Unknown, Unknown()])
def test_what_is_no_function_is_refused(what: Any) -> None:
    with pytest.raises(WorkerRegistrationError, match="expected a function that returns, async or plain, got"):
        job("send-email")(what)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidJobIdentifierError):

        @job("send email")
        async def send() -> None: ...


def test_an_option_that_makes_no_sense_is_refused() -> None:
    wrong: Any = {"size": 5}
    with pytest.raises(WorkerRegistrationError, match="there is no option 'size'"):

        @job("send-email", **wrong)
        async def send(notes: Notes) -> None: ...


@pytest.mark.parametrize("place", ["process", "cloud"])
def test_what_is_injected_cannot_go_to_a_process(place: Any) -> None:
    with pytest.raises(WorkerRegistrationError, match=f"expected run_in 'thread' or 'loop', got '{place}'"):

        @job("send-email", run_in=place)
        def send(notes: Notes) -> None: ...


@pytest.mark.parametrize("marker", [Query(), Body()], ids=repr)
def test_what_is_read_from_requests_is_refused(marker: Any) -> None:
    async def one(to: str = marker) -> None: ...

    async def other(to: Annotated[str, marker]) -> None: ...

    for function in (one, other):
        with pytest.raises(WorkerRegistrationError, match="the parameter 'to' is to be read from an HTTP request"):
            job("send-email")(function)


def test_annotations_written_as_text_are_read() -> None:
    class Local: ...

    def get_local() -> Local:
        return Local()

    async def send(to: "str", local: "Annotated[Local, Depends(get_local)]", the_job: "Job[Any]") -> "Missing": ...  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    function = cast("Any", send)
    declared: DeclaredJob[..., Any, ..., Any] = job("send-email")(function)
    assert [parameter.name for parameter in declared.injected] == ["local", "the_job"]
    assert declared.new(to="ada").data == {"to": "ada"}


def test_an_annotation_that_cannot_be_read_is_refused() -> None:
    async def send(to: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    function = cast("Any", send)
    with pytest.raises(WorkerRegistrationError, match="the annotation of the parameter 'to' cannot be resolved"):
        job("send-email")(function)
