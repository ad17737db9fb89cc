from __future__ import annotations

import asyncio
import dataclasses
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import pytest

from monque import InvalidArgumentError, JobCompleteEvent, JobErrorEvent, JobFailEvent, JobStartEvent
from monque import events as ev
from monque.events import Event, EventName, Events

if TYPE_CHECKING:
    from collections.abc import Callable

    from monque import Job

ERROR = ValueError("no")
FACTS: dict[type[Event], tuple[str, Callable[[Job[Any]], tuple[object, ...]]]] = {
    JobStartEvent: ("job:start", lambda job: (job,)),
    JobCompleteEvent: ("job:complete", lambda job: (job, 1.5)),
    JobFailEvent: ("job:fail", lambda job: (job, ERROR, True)),
    JobErrorEvent: ("job:error", lambda job: (ERROR, job)),
    ev.JobCancelledEvent: ("job:cancelled", lambda job: (job,)),
    ev.JobRetriedEvent: ("job:retried", lambda job: (job,)),
    ev.JobDeletedEvent: ("job:deleted", lambda job: (job,)),
    ev.JobsCancelledEvent: ("jobs:cancelled", lambda _: (3,)),
    ev.JobsRetriedEvent: ("jobs:retried", lambda _: (3,)),
    ev.JobsDeletedEvent: ("jobs:deleted", lambda _: (3,)),
    ev.JobLostEvent: ("job:lost", lambda job: (job,)),
    ev.StaleRecoveredEvent: ("stale:recovered", lambda _: (3,)),
    ev.ChangeStreamConnectedEvent: ("changestream:connected", lambda _: ()),
    ev.ChangeStreamErrorEvent: ("changestream:error", lambda _: (ERROR,)),
    ev.ChangeStreamFallbackEvent: ("changestream:fallback", lambda _: ("no",)),
    ev.ChangeStreamClosedEvent: ("changestream:closed", lambda _: ("no",)),
}


@pytest.fixture
def job(make_job: Callable[..., Job[Any]]) -> Job[Any]:
    return make_job()


def test_every_event_has_a_name_and_every_name_an_event() -> None:
    assert [kind.name for kind in FACTS] == [name for name, _ in FACTS.values()] == list(get_args(EventName))
    assert set(get_args(Event)) == set(FACTS)


@pytest.mark.parametrize("kind", FACTS)
def test_an_event_reaches_the_listeners_of_its_name_only(kind: type[Event], job: Job[Any]) -> None:
    name, facts = FACTS[kind]
    events = Events()
    seen: dict[str, list[Event]] = {other: [] for other in get_args(EventName)}
    for other, collected in seen.items():
        events.on(other, collected.append)
    events.emit(kind, *facts(job))
    make: Any = kind
    event = make(*facts(job))
    assert seen == {other: [event] if other == name else [] for other in seen}


def test_an_error_may_concern_no_job() -> None:
    events = Events()
    seen: list[JobErrorEvent] = []
    events.on("job:error", seen.append)
    events.emit(JobErrorEvent, ERROR)
    assert seen == [JobErrorEvent(ERROR, None)]


def test_an_event_cannot_be_changed(job: Job[Any]) -> None:
    event = JobStartEvent(job)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.job = job  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_an_event_nobody_listens_to_is_not_even_made() -> None:
    # There are no facts to make it of.
    events = Events()
    events.emit(JobStartEvent)
    events.on("job:start", print)
    events.off("job:start", print)
    events.emit(JobStartEvent)


def test_listeners_are_called_in_the_order_they_were_added(job: Job[Any]) -> None:
    events = Events()
    seen: list[str] = []
    for name in "abc":
        events.on("job:start", lambda _, name=name: seen.append(name))  # type: ignore[misc]
    events.emit(JobStartEvent, job)
    assert seen == ["a", "b", "c"]


def test_on_is_called_every_time_and_once_the_first_time_only(job: Job[Any]) -> None:
    events = Events()
    always: list[Event] = []
    first: list[Event] = []
    events.on("job:start", always.append)
    events.once("job:start", first.append)
    for _ in range(3):
        events.emit(JobStartEvent, job)
    assert (len(always), len(first)) == (3, 1)


def test_once_is_called_once_even_if_the_event_comes_again_meanwhile(job: Job[Any]) -> None:
    events = Events()
    calls: list[Event] = []

    def listener(event: Event) -> None:
        calls.append(event)
        events.emit(JobStartEvent, job)

    events.once("job:start", listener)
    events.emit(JobStartEvent, job)
    assert len(calls) == 1


def test_a_listener_that_was_taken_off_is_not_called(job: Job[Any]) -> None:
    events = Events()
    seen: list[Event] = []
    events.on("job:start", seen.append)
    events.once("job:start", seen.append)
    events.off("job:start", seen.append)
    events.emit(JobStartEvent, job)
    assert seen == []


def test_taking_off_what_was_never_added_is_fine(job: Job[Any]) -> None:
    events = Events()
    seen: list[Event] = []
    events.on("job:start", seen.append)
    events.off("job:start", print)
    events.off("job:fail", seen.append)
    events.emit(JobStartEvent, job)
    assert len(seen) == 1


def test_a_listener_may_take_itself_off_and_add_others(job: Job[Any]) -> None:
    events = Events()
    seen: list[str] = []

    def late(_: Event) -> None:
        seen.append("late")

    def listener(_: Event) -> None:
        seen.append("listener")
        events.off("job:start", listener)
        events.on("job:start", late)

    events.on("job:start", listener)
    events.emit(JobStartEvent, job)
    assert seen == ["listener"]
    events.emit(JobStartEvent, job)
    assert seen == ["listener", "late"]


@dataclass
class Recorder:
    """A listener that keeps what it is told, and compares by it, so it has no hash."""

    seen: list[Event] = field(default_factory=list[Event])

    def __call__(self, event: Event) -> None:
        self.seen.append(event)


def test_any_callable_may_listen(job: Job[Any]) -> None:
    events = Events()
    always, first = Recorder(), Recorder()
    events.on("job:complete", always)
    events.once("job:start", first)
    for _ in range(2):
        events.emit(JobCompleteEvent, job, 0.5)
        events.emit(JobStartEvent, job)
    events.off("job:complete", always)
    events.emit(JobCompleteEvent, job, 0.5)
    assert (len(always.seen), len(first.seen)) == (2, 1)


@pytest.mark.parametrize("event", ["job:started", "start", "", "JOB:START", None, 1, ["job:start"]], ids=repr)
@pytest.mark.parametrize("method", ["on", "once", "off"])
def test_an_unknown_event_is_refused(method: str, event: object) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        getattr(Events(), method)(event, print)
    assert (caught.value.argument, caught.value.value) == ("event", event)
    assert str(caught.value) == f"event: expected one of {', '.join(get_args(EventName))}, got {event!r}"


@pytest.mark.parametrize("listener", [None, "print", 1, []], ids=repr)
@pytest.mark.parametrize("method", ["on", "once"])
def test_a_listener_that_cannot_be_called_is_refused(method: str, listener: object) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        getattr(Events(), method)("job:start", listener)
    assert caught.value.argument == "listener"
    assert str(caught.value) == f"listener: expected a function of one event, plain or async, got {listener!r}"


# --- listeners that raise -----------------------------------------------------------------------------------------


def raising(_: object) -> None:
    raise ERROR


async def raising_later(_: object) -> None:
    await asyncio.sleep(0)
    raise ERROR


@pytest.mark.parametrize("listener", [raising, raising_later])
@pytest.mark.parametrize("kind", [JobStartEvent, JobCompleteEvent, JobFailEvent])
async def test_a_listener_that_raises_becomes_a_job_error(
    kind: type[Event], listener: Callable[[object], object], job: Job[Any]
) -> None:
    name, facts = FACTS[kind]
    events = Events()
    errors: list[JobErrorEvent] = []
    others: list[Event] = []
    events.on("job:error", errors.append)
    events.on(name, listener)
    events.on(name, others.append)
    events.emit(kind, *facts(job))
    await events.drain()
    assert errors == [JobErrorEvent(ERROR, job)]
    assert len(others) == 1


@pytest.mark.parametrize("listener", [raising, raising_later])
async def test_a_listener_of_job_error_that_raises_ends_in_the_log(
    listener: Callable[[object], object], caplog: pytest.LogCaptureFixture
) -> None:
    events = Events()
    others: list[Event] = []
    events.on("job:error", listener)
    events.on("job:error", others.append)
    events.emit(JobErrorEvent, RuntimeError("the first error"))
    await events.drain()
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == (
        "monque",
        logging.ERROR,
        "a listener of job:error raised",
    )
    assert record.exc_info is not None
    assert record.exc_info[1] is ERROR
    assert len(others) == 1


async def test_a_raising_listener_is_reported_to_raising_listeners_of_job_error_once(
    job: Job[Any], caplog: pytest.LogCaptureFixture
) -> None:
    events = Events()
    events.on("job:start", raising)
    events.on("job:error", raising)
    events.emit(JobStartEvent, job)
    await events.drain()
    assert [record.getMessage() for record in caplog.records] == ["a listener of job:error raised"]


# --- async listeners ----------------------------------------------------------------------------------------------


async def test_an_async_listener_runs_on_while_the_emitter_goes_on(job: Job[Any]) -> None:
    events = Events()
    steps: list[str] = []

    async def listener(_: Event) -> None:
        await asyncio.sleep(0)
        steps.append("listener")

    events.on("job:start", listener)
    events.emit(JobStartEvent, job)
    steps.append("emitter")
    await events.drain()
    assert steps == ["emitter", "listener"]


async def test_whatever_can_be_awaited_is_awaited(job: Job[Any]) -> None:
    events = Events()
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    events.on("job:start", lambda _: future)
    events.emit(JobStartEvent, job)
    drain = asyncio.create_task(events.drain())
    await asyncio.sleep(0)
    assert not drain.done()
    future.set_result(None)
    await drain


async def test_a_listener_that_never_returns_is_cancelled_in_the_end(job: Job[Any]) -> None:
    events = Events()
    cancelled = asyncio.Event()

    async def stuck(_: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    events.on("job:start", stuck)
    events.emit(JobStartEvent, job)
    await events.drain(timeout=0.05)
    async with asyncio.timeout(5):
        await cancelled.wait()


async def test_drain_waits_for_listeners_called_by_listeners(job: Job[Any]) -> None:
    events = Events()
    errors: list[Event] = []

    async def late(event: Event) -> None:
        await asyncio.sleep(0)
        errors.append(event)

    events.on("job:start", raising_later)
    events.on("job:error", late)
    events.emit(JobStartEvent, job)
    await events.drain()
    assert errors == [JobErrorEvent(ERROR, job)]


async def test_drain_of_nothing_returns_at_once() -> None:
    await Events().drain()


async def test_a_listener_that_is_cancelled_harms_nobody(job: Job[Any]) -> None:
    events = Events()
    seen: list[Event] = []

    async def cancelled(_: Event) -> None:
        raise asyncio.CancelledError

    events.on("job:start", cancelled)
    events.on("job:start", seen.append)
    events.emit(JobStartEvent, job)
    await events.drain()
    assert len(seen) == 1


async def test_a_listener_that_drains_does_not_wait_for_itself(job: Job[Any]) -> None:
    # As one does that stops the queue when something happens.
    events = Events()
    done = asyncio.Event()

    async def listener(_: Event) -> None:
        await events.drain()
        done.set()

    events.on("job:start", listener)
    events.emit(JobStartEvent, job)
    async with asyncio.timeout(2):
        await done.wait()
