from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, get_args

import pytest

from monque import JobCompleteEvent, JobErrorEvent, JobFailEvent, JobStartEvent, Monque, logs
from monque import events as ev
from monque.events import Event, EventName, Events

if TYPE_CHECKING:
    from collections.abc import Callable

    from monque import Job

ERROR = ValueError("no address")


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Events:
    caplog.set_level(logging.DEBUG, logger="monque")
    events = Events()
    logs.attach(events)
    logs.attach_runs(events)
    return events


LINES: list[tuple[type[Event], Callable[[Job[Any]], tuple[object, ...]], int, str, BaseException | None]] = [
    (JobStartEvent, lambda job: (job,), logging.DEBUG, "mail {id} started", None),
    (JobCompleteEvent, lambda job: (job, 1.23456), logging.DEBUG, "mail {id} completed in 1.235 s", None),
    (
        JobFailEvent,
        lambda job: (job, ERROR, True),
        logging.WARNING,
        "mail {id} failed and will be retried: ValueError('no address')",
        None,
    ),
    (JobFailEvent, lambda job: (job, ERROR, False), logging.ERROR, "mail {id} failed for good", ERROR),
    (JobErrorEvent, lambda job: (ERROR, job), logging.ERROR, "mail {id}: no address", ERROR),
    (JobErrorEvent, lambda _: (ERROR,), logging.ERROR, "no address", ERROR),
    (
        ev.JobLostEvent,
        lambda job: (job,),
        logging.WARNING,
        "mail {id} lost: its lease ran out here, or it was taken away",
        None,
    ),
    (
        ev.StaleRecoveredEvent,
        lambda _: (3,),
        logging.WARNING,
        "3 job(s) recovered: their leases had run out",
        None,
    ),
    (ev.ChangeStreamConnectedEvent, lambda _: (), logging.DEBUG, "change stream connected", None),
    (ev.ChangeStreamErrorEvent, lambda _: (ERROR,), logging.WARNING, "change stream: no address", None),
    (
        ev.ChangeStreamFallbackEvent,
        lambda _: ("none here",),
        logging.WARNING,
        "polling instead of a change stream: none here",
        None,
    ),
    (ev.ChangeStreamClosedEvent, lambda _: ("stopped",), logging.DEBUG, "change stream closed: stopped", None),
]


@pytest.mark.parametrize(
    ("kind", "facts", "level", "line", "shown"),
    LINES,
    ids=[f"{kind.name}-{logging.getLevelName(level)}-{number}" for number, (kind, _, level, *_) in enumerate(LINES)],
)
def test_an_event_becomes_one_line(  # noqa: PLR0917
    kind: type[Event],
    facts: Callable[[Job[Any]], tuple[object, ...]],
    level: int,
    line: str,
    shown: BaseException | None,
    events: Events,
    make_job: Callable[..., Job[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = make_job(name="mail")
    events.emit(kind, *facts(job))
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("monque", level, line.format(id=job.id))
    assert (record.exc_info[1] if record.exc_info else None) is shown


def test_there_is_a_line_for_every_event() -> None:
    # Whoever manages jobs by hand knows what they did.
    by_hand = {f"{jobs}:{done}" for jobs in ("job", "jobs") for done in ("cancelled", "retried", "deleted")}
    assert {kind.name for kind, *_ in LINES} == set(get_args(EventName)) - by_hand


def test_percent_signs_in_names_and_errors_are_shown_as_they_are(
    events: Events, make_job: Callable[..., Job[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    events.emit(JobErrorEvent, ValueError("100 %s"), make_job(name="%d-%s"))
    assert "%d-%s" in caplog.text
    assert "100 %s" in caplog.text


def test_a_raising_listener_ends_in_the_log_with_its_job(
    events: Events, make_job: Callable[..., Job[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    def listener(_: object) -> None:
        raise ERROR

    job = make_job(name="mail")
    events.on("job:complete", listener)
    events.emit(JobCompleteEvent, job, 0.5)
    assert [record.getMessage() for record in caplog.records] == [
        f"mail {job.id} completed in 0.500 s",
        f"mail {job.id}: no address",
    ]


def test_nothing_is_written_below_the_level_that_is_set(
    events: Events, make_job: Callable[..., Job[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="monque")
    events.emit(JobStartEvent, make_job())
    events.emit(JobCompleteEvent, make_job(), 0.5)
    assert caplog.records == []


def test_making_a_monque_leaves_the_logger_as_it_is() -> None:
    logger = logging.getLogger("monque")
    before = (logger.level, list(logger.handlers), logger.propagate, logger.disabled)
    Monque("mongodb://localhost")
    assert (logger.level, list(logger.handlers), logger.propagate, logger.disabled) == before
