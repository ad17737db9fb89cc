from __future__ import annotations

import dataclasses
import functools
import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from monque import (
    InvalidArgumentError,
    InvalidJobIdentifierError,
    InvalidPayloadError,
    Job,
    Monque,
    NewJob,
    Retry,
    Router,
    Timeout,
    WorkerRegistrationError,
)
from monque.worker import AnyWorker, Declares, Worker, Workers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from somewhere import Missing  # type: ignore[import-not-found]  # pyright: ignore[reportMissingImports, reportUnknownVariableType]


async def handler(job: Job[Any]) -> None: ...


def data_of(job: Job[Any]) -> Any:
    return job.data


def made_of(function: Callable[..., Any], **options: Any) -> AnyWorker:
    return Worker("mail", function, **options)


def made(name: str, **options: Any) -> AnyWorker:
    return Worker(name, handler, **options)


async def with_more(prefix: str, job: Job[Any], *, loud: bool = False) -> None: ...


class Methods:
    """Handlers in a class."""

    async def method(self, job: Job[Any]) -> None: ...

    @classmethod
    async def of_class(cls, job: Job[Any]) -> None: ...

    @staticmethod
    async def static(job: Job[Any]) -> None: ...


class AsyncObject:
    """An object that can be called."""

    async def __call__(self, job: Job[Any]) -> None: ...


class Plain:
    """An object that can be called, but not awaited."""

    def __call__(self, job: Job[Any]) -> None: ...


def decorated(function: Callable[[Job[Any]], Awaitable[None]]) -> Callable[[Job[Any]], Awaitable[None]]:
    @functools.wraps(function)
    async def wrapper(job: Job[Any]) -> None:
        await function(job)

    return wrapper


@pytest.mark.parametrize(
    "handler",
    [
        handler,
        Methods().method,
        Methods.of_class,
        Methods.static,
        AsyncObject(),
        functools.partial(with_more, "prefix"),
        functools.partial(functools.partial(with_more, "prefix"), loud=True),
        functools.partial(AsyncObject()),
        decorated(handler),
    ],
    ids=[
        "function",
        "method",
        "class method",
        "static",
        "object",
        "partial",
        "nested partial",
        "partial of object",
        "decorated",
    ],
)
def test_a_handler_is_anything_async(handler: Any) -> None:
    assert Worker("mail", handler).handler is handler


def plain(job: Job[Any]) -> None: ...


def print_it(text: str) -> None:
    print(text)


async def generator(job: Job[Any]) -> AsyncGenerator[None]:
    yield


def plain_generator(job: Job[Any]) -> Generator[None]:
    yield


class GeneratorObject:
    async def __call__(self, job: Job[Any]) -> AsyncGenerator[Job[Any]]:
        yield job


NO_FUNCTIONS = {
    "None": None,
    "text": "handler",
    "number": 1,
    "class": Plain,
    "class of methods": Methods,
    "class of async objects": AsyncObject,
    "partial of class": functools.partial(Plain),
}


@pytest.mark.parametrize("handler", NO_FUNCTIONS.values(), ids=NO_FUNCTIONS)
def test_what_is_no_function_is_refused(handler: Any) -> None:
    with pytest.raises(WorkerRegistrationError) as caught:
        Worker("mail", handler)
    assert caught.value.job_name == "mail"
    assert str(caught.value) == f"worker 'mail': expected a function, async or plain, got {handler!r}"


@pytest.mark.parametrize(
    "handler", [generator, plain_generator, functools.partial(generator), GeneratorObject()], ids=range(4)
)
def test_generators_are_refused(handler: Any) -> None:
    with pytest.raises(WorkerRegistrationError, match="expected a function that returns, async or plain, got the gene"):
        Worker("mail", handler)


@pytest.mark.parametrize("name", ["", "two words", "a\n", None, 1])
def test_a_worker_needs_a_job_name(name: Any) -> None:
    with pytest.raises(InvalidJobIdentifierError):
        Worker(name, handler)


@pytest.mark.parametrize("concurrency", [1, 100, None])
def test_a_worker_may_have_a_limit_of_its_own(concurrency: int | None) -> None:
    assert Worker("mail", handler, concurrency=concurrency).concurrency == concurrency


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, 1.0, "5", True, False])
def test_a_limit_that_makes_no_sense_is_refused(concurrency: Any) -> None:
    with pytest.raises(WorkerRegistrationError) as caught:
        Worker("mail", handler, concurrency=concurrency)
    assert caught.value.job_name == "mail"
    assert str(caught.value) == (
        f"worker 'mail': option concurrency: expected a whole number, at least 1, got {concurrency!r}"
    )
    assert caught.value.__cause__ is None


def test_a_worker_cannot_be_changed() -> None:
    worker: AnyWorker = Worker("mail", handler)
    with pytest.raises(dataclasses.FrozenInstanceError):
        worker.concurrency = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_workers_are_found_by_name_in_the_order_they_were_added() -> None:
    workers = Workers()
    assert workers.names() == []
    mail, report = made("mail"), made("report")
    workers.add(report, replace=False)
    workers.add(mail, replace=True)
    assert workers.names() == ["report", "mail"]
    assert workers["mail"] is mail
    assert workers["report"] is report


def test_a_name_that_is_taken_is_refused() -> None:
    workers = Workers()
    first, second = made("mail"), made("mail")
    workers.add(first, replace=False)
    with pytest.raises(WorkerRegistrationError, match="there is a worker for this name already; pass replace=True"):
        workers.add(second, replace=False)
    assert workers["mail"] is first


def test_a_worker_can_be_replaced() -> None:
    workers = Workers()
    first, second = made("mail"), made("mail")
    workers.add(first, replace=False)
    workers.add(second, replace=True)
    assert workers["mail"] is second
    assert workers.names() == ["mail"]


def test_the_list_of_names_is_a_copy() -> None:
    workers = Workers()
    workers.names().append("mail")
    assert workers.names() == []


# --- options --------------------------------------------------------------------------------------------------------


async def send(to: str, subject: str = "Hello") -> str:
    """Send an email."""
    return f"{subject} {to}"


def test_a_worker_has_defaults() -> None:
    worker = made("mail")
    assert (worker.name, worker.function, worker.concurrency, worker.aliases) == ("mail", handler, None, ())
    assert (worker.run_in, worker.timeout, worker.retry) == ("loop", None, None)
    assert (worker.store_result, worker.keep_logs, worker.transaction) == (False, 0, False)


def test_a_worker_keeps_its_options() -> None:
    retry = Retry(max_retries=3)
    worker = made("mail", aliases=["post"], timeout=30, retry=retry, store_result=True, keep_logs=5, transaction=True)
    assert (worker.aliases, worker.names, worker.timeout) == (("post",), ("mail", "post"), Timeout(30))
    assert worker.retry is retry
    assert (worker.store_result, worker.keep_logs, worker.transaction) == (True, 5, True)
    assert made("mail", timeout=timedelta(minutes=1)).timeout == Timeout(timedelta(minutes=1))
    assert made("mail", timeout=Timeout(1, 2)).timeout == Timeout(1, 2)
    assert [made("mail", keep_logs=number).keep_logs for number in (True, False)] == [100, 0]
    assert Worker("mail", print_it, run_in="process").run_in == "process"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"timeout": -1}, "option timeout.soft: expected a timedelta or a number of seconds, at least 0.001"),
        ({"timeout": "30"}, "option timeout.soft: expected a timedelta"),
        ({"retry": 3}, "option retry: expected a Retry, got 3"),
        ({"store_result": "yes"}, "option store_result: expected a bool, got 'yes'"),
        ({"keep_logs": -1}, "option keep_logs: expected a whole number, at least 0, got -1"),
        ({"transaction": 1}, "option transaction: expected a bool, got 1"),
        ({"run_in": "fiber"}, "option run_in: expected 'loop', 'thread' or 'process', got 'fiber'"),
        ({"run_in": "thread"}, "run_in='thread' is for plain functions, and this one is async; write `def`, or leave"),
        ({"run_in": "process"}, "run_in='process' is for plain functions, and this one is async"),
        ({"aliases": "post"}, "option aliases: expected a list of names, got 'post'"),
        ({"aliases": 5}, "option aliases: expected a list of names, got 5"),
        ({"aliases": ["mail"]}, "option aliases: expected each name once, and not 'mail' itself, got ('mail',)"),
        ({"aliases": ["a", "a"]}, "option aliases: expected each name once"),
        (
            {"colour": 1},
            "there is no option 'colour'; there are concurrency, aliases, run_in, timeout, retry, retention, ",
        ),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(options: Any, problem: str) -> None:
    with pytest.raises(WorkerRegistrationError) as caught:
        made("mail", **options)
    assert str(caught.value).startswith(f"worker 'mail': {problem}")


def test_an_alias_is_a_job_name() -> None:
    with pytest.raises(InvalidJobIdentifierError):
        made("mail", aliases=["two words"])


@pytest.mark.parametrize("run_in", ["thread", "process"])
def test_a_transaction_needs_the_event_loop(run_in: Any) -> None:
    with pytest.raises(WorkerRegistrationError, match=f"this one runs in a {run_in}; make it an async function, or le"):
        Worker("mail", print_it, run_in=run_in, transaction=True)
    assert Worker("mail", print_it, run_in="loop", transaction=True).transaction


NOT_TO_BE_IMPORTED: list[Any] = [lambda: None, Plain(), functools.partial(plain)]


@pytest.mark.parametrize("function", NOT_TO_BE_IMPORTED, ids=range(3))
def test_a_process_needs_a_function_it_can_import(function: Any) -> None:
    def inside(job: Job[Any]) -> None: ...

    for unreachable in (function, inside):
        with pytest.raises(WorkerRegistrationError, match="define it with `def` at the level of a module"):
            Worker("mail", unreachable, run_in="process")


def does_nothing(job: Job[Any]) -> Missing: ...  # pyright: ignore[reportUnknownParameterType]


unresolvable: Any = does_nothing  # pyright: ignore[reportUnknownVariableType]


def test_a_result_that_is_to_be_stored_needs_a_type_that_is_known() -> None:
    assert not Worker("mail", unresolvable).payload.is_typed
    with pytest.raises(WorkerRegistrationError, match="the annotation of what it returns cannot be resolved"):
        Worker("mail", unresolvable, store_result=True)


# --- use ------------------------------------------------------------------------------------------------------------


async def test_a_worker_is_called_and_looks_like_its_function() -> None:
    worker: AnyWorker = Worker("mail", send)
    assert await worker("ada", subject="Dear") == "Dear ada"
    assert (worker.__doc__, getattr(worker, "__name__", "")) == ("Send an email.", "send")
    assert inspect.signature(worker) == inspect.signature(send)
    assert repr(worker) == f"<Worker 'mail': {send!r}>"
    assert repr(made_of(functools.partial(send, "ada"))).startswith("<Worker 'mail': functools.partial(")


async def test_a_worker_runs_jobs_with_what_its_function_takes(make_job: Callable[..., Job[Any]]) -> None:
    asynchronous: AnyWorker = Worker("mail", send)
    blocking = made_of(data_of, run_in="loop")
    assert await asynchronous.handler(make_job(data={"to": "ada"})) == "Hello ada"
    assert await blocking.handler(make_job(data=5)) == 5


def test_a_new_job_has_what_was_said_of_it() -> None:
    worker: AnyWorker = Worker("mail", send)
    assert worker.new("ada") == NewJob(name="mail", data={"to": "ada"})
    later = worker.with_(delay=5, unique_key="a", session=None).with_(priority=3, on_conflict="raise")
    assert type(later) is Worker
    expected = NewJob(name="mail", data={"to": "ada"}, delay=5, unique_key="a", priority=3, on_conflict="raise")
    assert later.new(to="ada") == expected
    assert later.with_(unique_key=None, on_conflict=None).new(to="ada").unique_key is None
    assert worker.new("ada").delay is None


def test_a_setting_that_does_not_exist_is_refused() -> None:
    setting: Any = {"later": 5}
    with pytest.raises(InvalidArgumentError, match=r"^later: expected one of the settings run_at, delay, unique_key"):
        made("mail").with_(**setting)


async def test_a_worker_that_belongs_nowhere_says_so() -> None:
    worker: AnyWorker = Router().worker("mail")(send)
    problem = "declared by a router, and that is not included anywhere.*; call `monque.include"
    with pytest.raises(WorkerRegistrationError, match=problem):
        await worker.enqueue("ada")
    with pytest.raises(WorkerRegistrationError, match=problem):
        await worker.enqueue_many([])
    with pytest.raises(WorkerRegistrationError, match=problem):
        await worker.schedule("@daily", "ada")
    with pytest.raises(InvalidPayloadError):
        await worker.enqueue()


def test_a_worker_can_be_declared_again_elsewhere() -> None:
    first = Router().worker("mail", send)
    second = Router().worker("post")(first)
    assert second.function is first.function is send
    assert (first.name, second.name) == ("mail", "post")


# --- registries -----------------------------------------------------------------------------------------------------


def test_aliases_are_names() -> None:
    workers = Workers()
    mail, report = made("mail", aliases=["post", "letter"]), made("report")
    workers.add(mail, report, replace=False)
    assert workers.names() == ["mail", "post", "letter", "report"]
    assert workers["post"] is mail
    assert "letter" in workers
    assert workers.all() == [mail, report]
    assert workers.siblings("post") == ("mail", "post", "letter")
    assert workers.siblings("report") == ("report",)


def test_names_and_aliases_must_not_clash() -> None:
    workers = Workers()
    mail = made("mail", aliases=["post"])
    workers.add(mail, replace=False)
    workers.add(mail, replace=False)
    for clashing in (made("post"), made("letter", aliases=["mail"]), made("letter", aliases=["post"])):
        with pytest.raises(WorkerRegistrationError, match="there is a worker for this name already"):
            workers.add(made("fine"), clashing, replace=False)
    assert workers.names() == ["mail", "post"]
    post = made("post")
    workers.add(post, replace=True)
    assert (workers["mail"], workers["post"]) == (mail, post)
    assert (workers.siblings("mail"), workers.siblings("post")) == (("mail",), ("post",))


def test_only_what_has_a_typed_worker_here_is_checked() -> None:
    workers = Workers()
    data = {"to": 5}
    assert workers.checked("mail", data) is data
    workers.add(Worker("mail", send, aliases=["post"]), made("report"), replace=False)
    assert workers.checked("report", data) is data
    assert workers.checked(["mail"], data) is data
    for name in ("mail", "post"):
        assert workers.checked(name, {"to": "ada"}) == {"to": "ada"}
        with pytest.raises(InvalidPayloadError, match=r"data\['to'\]: expected a valid string, got 5"):
            workers.checked(name, data)


# --- routers --------------------------------------------------------------------------------------------------------


class Collector:
    """Takes in workers as a `Monque` does."""

    def __init__(self, router: Router) -> None:
        self.workers: list[AnyWorker] = []
        router.attach(self.workers.extend)


def test_a_router_hands_on_its_workers_those_of_others_and_those_that_come_later() -> None:
    inner, middle, outer = Router(), Router(), Router()
    first = inner.worker("first", handler)
    middle.include(inner)
    outer.include(middle)
    outer.include(inner)
    there = Collector(outer)
    assert there.workers == [first]
    second = inner.worker("second")(handler)
    assert set(there.workers) == {first, second}
    third = outer.worker("third", handler)
    assert there.workers[-1] is third
    assert Collector(inner).workers == [first, second]


def test_names_of_routers_clash_as_usual() -> None:
    one, other = Router(), Router()
    first, second = one.worker("mail", handler), other.worker("mail", handler)
    with pytest.raises(WorkerRegistrationError, match="pass replace=True"):
        one.worker("mail", handler)
    with pytest.raises(WorkerRegistrationError, match="pass replace=True"):
        one.include(other)
    assert Collector(one).workers == [first]
    one.include(other, replace=True)
    assert Collector(one).workers == [second]
    assert one.worker("mail", handler, replace=True) is not first


@pytest.mark.parametrize("what", [None, "router", 5])
def test_only_routers_can_be_included(what: Any) -> None:
    for there in (Router(), Monque("mongodb://localhost")):
        with pytest.raises(InvalidArgumentError, match=r"^router: expected a Router, got"):
            there.include(what)


def test_routers_do_not_go_round_in_circles() -> None:
    one, other = Router(), Router()
    one.include(other)
    for there, what in ((one, one), (other, one)):
        with pytest.raises(InvalidArgumentError, match=r"^router: expected a router that does not include this one"):
            there.include(what)


def test_nothing_is_declared_nowhere() -> None:
    with pytest.raises(NotImplementedError):
        Declares().worker("mail", handler)


@pytest.mark.parametrize("home", [Monque, Router])
def test_a_worker_that_was_made_elsewhere_is_taken_in(home: type[Monque | Router]) -> None:
    one = home()
    worker: AnyWorker = Worker("mail", handler)
    one.add(worker)
    one.add(worker)
    with pytest.raises(WorkerRegistrationError, match="pass replace=True"):
        one.worker("mail", handler)
    other: AnyWorker = Worker("mail", handler)
    one.add(other, replace=True)


def test_what_is_no_worker_is_not_taken_in() -> None:
    nonsense: Any = handler
    with pytest.raises(InvalidArgumentError, match="expected a Worker, got <function"):
        Router().add(nonsense)
