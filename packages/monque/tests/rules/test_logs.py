from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any, get_args

import pytest

from monque import JobCompleteEvent, JobErrorEvent, JobFailEvent, JobStartEvent, Monque, logs
from monque import events as ev
from monque._scope import in_child
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


# --- fields, and JSON -----------------------------------------------------------------------------------------------


def fields_of(job: Job[Any]) -> dict[str, Any]:
    return {"job_id": str(job.id), "job_name": "mail", "attempt": 2, "instance": "one"}


@pytest.mark.parametrize("kind", [kind for kind, facts, *_ in LINES if "job" in facts.__code__.co_varnames])
def test_lines_about_a_job_have_its_fields(
    kind: type[Event], events: Events, make_job: Callable[..., Job[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(name="mail", attempts=2, claimed_by="one")
    events.emit(kind, *next(facts for one, facts, *_ in LINES if one is kind)(job))
    (record,) = caplog.records
    assert vars(record).items() >= fields_of(job).items()


def test_what_a_handler_logs_has_the_fields_of_its_job(make_job: Callable[..., Job[Any]]) -> None:
    job = make_job(name="mail", attempts=2, claimed_by="one")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(logs.JobFields())
    defaults = dict.fromkeys(fields_of(job), "-")
    handler.setFormatter(logging.Formatter("%(job_name)s %(job_id)s %(attempt)s %(message)s", defaults=defaults))
    logger = logging.getLogger("shop")
    logger.addHandler(handler)
    with in_child({"job": job}, lambda _: None):
        logger.warning("inside")
        logger.warning("own", extra={"job_id": "mine"})
    logger.warning("outside")
    logger.removeHandler(handler)
    assert stream.getvalue().splitlines() == [f"mail {job.id} 2 inside", "- mine - own", "- - - outside"]


def test_a_line_of_json(make_job: Callable[..., Job[Any]]) -> None:
    job = make_job(name="mail", attempts=2, claimed_by="one")
    record = logging.makeLogRecord(
        {"name": "shop", "levelname": "INFO", "msg": "sent to %s", "args": ("é",), "created": 1.5}
    )
    line = {"time": "1970-01-01T00:00:01.500+00:00", "level": "INFO", "logger": "shop", "message": "sent to é"}
    formatter = logs.JsonFormatter()
    assert json.loads(formatter.format(record)) == line
    with in_child({"job": job}, lambda _: None):
        assert json.loads(formatter.format(record)) == {**line, **fields_of(job)}


def test_json_has_whatever_a_record_was_given_in_one_line() -> None:
    try:
        raise ERROR
    except ValueError as error:
        record = logging.makeLogRecord(
            {
                "msg": "no\nluck",
                "order": {"id": 3},
                "odd": ValueError,
                "exc_info": (ValueError, error, error.__traceback__),
            }
        )
    record.stack_info = "Stack (most recent call last):\n  here"
    written = logs.JsonFormatter().format(record)
    assert "\n" not in written
    line = json.loads(written)
    assert (line["message"], line["order"], line["odd"]) == ("no\nluck", {"id": 3}, "<class 'ValueError'>")
    assert line["exception"].splitlines()[-1] == "ValueError: no address"
    assert line["stack"] == record.stack_info
