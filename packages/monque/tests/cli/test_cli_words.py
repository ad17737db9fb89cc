"""Times, data and output: what is written on a command line, and what comes back."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from monque import JobStatus
from monque.cli._data import read_data, read_json, read_lines
from monque.cli._errors import UsageError
from monque.cli._help import help_of
from monque.cli._output import Output, plain
from monque.cli._times import (
    TimeError,
    parse_duration,
    parse_time,
    shown_duration,
    shown_from_now,
    shown_time,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 26, 12, 30, tzinfo=UTC)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine's clock is in Berlin."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30 m", 5400),
        ("90s", 90),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("2 days", 172_800),
        ("1 week, 1 day and 2 hours", 698_400),
        ("5 mins", 300),
        ("2 hrs", 7200),
        (" 1W ", 604_800),
        ("0s", 0),
    ],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "ten minutes", "10x", "10m!", "-5m", "10m x", "999999999w", "1m 2"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(TimeError, match="expected a length of time such as 90s, 10m"):
        parse_duration(text)


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", "2026-11-26T12:30:00"),
        ("in 10m", "2026-11-26T12:40:00"),
        ("In  1h30m", "2026-11-26T14:00:00"),
        ("2h ago", "2026-11-26T10:30:00"),
        ("today", "2026-11-25T23:00:00"),
        ("tomorrow 9:00", "2026-11-27T08:00:00"),
        ("tomorrow at 9", "2026-11-27T08:00:00"),
        ("yesterday 23:59:30", "2026-11-25T22:59:30"),
        ("2026-11-26", "2026-11-25T23:00:00"),
        ("2026-07-01 09:00", "2026-07-01T07:00:00"),
        ("2026-11-26T09:00:00Z", "2026-11-26T09:00:00"),
        ("2026-11-26t09:00:00.5-05:00", "2026-11-26T14:00:00.500000"),
    ],
)
def test_moments(text: str, moment: str) -> None:
    assert parse_time(text, NOW) == datetime.fromisoformat(moment).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10m",
        "in",
        "in ten",
        "ago",
        "5 ago",
        "tomorrow 25:00",
        "noon",
        "2026-13-01",
        "in 999999999w",
        "1h ago today",
    ],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(TimeError, match="expected a time such as now, 'in 10m', '2h ago', 'tomorrow 9:00'"):
        parse_time(text, NOW)


@given(st.text())
def test_no_text_is_read_as_something_else(text: str) -> None:
    with suppress(TimeError):
        assert isinstance(parse_duration(text), timedelta)
    with suppress(TimeError):
        assert isinstance(parse_time(text, NOW), datetime)


@given(st.timedeltas(timedelta(), timedelta(days=10_000)))
def test_a_length_of_time_that_is_shown_can_be_read(length: timedelta) -> None:
    read = parse_duration(shown_duration(length))
    assert abs(read - length) <= max(timedelta(seconds=1), length / 24)


@pytest.mark.usefixtures("berlin")
def test_times_for_people() -> None:
    assert shown_time(NOW) == "2026-11-26 13:30:00+01:00"
    away = (timedelta(), timedelta(seconds=-0.4), timedelta(minutes=10), timedelta(days=-1, seconds=-59))
    assert [shown_from_now(NOW + each, NOW) for each in away] == ["now", "now", "in 10m", "1d ago"]
    assert [shown_duration(each) for each in (0, 0.25, 59.7, 3661, 90_000)] == ["0s", "250ms", "1m", "1h 1m", "1d 1h"]


def test_data() -> None:
    assert read_data([]) is None
    assert read_data(['{"to": "a@b.c"}']) == {"to": "a@b.c"}
    assert read_data(["to=a@b.c", "n:=3", "zip=01234", "empty=", "all:=[1, null]"]) == {
        "to": "a@b.c",
        "n": 3,
        "zip": "01234",
        "empty": "",
        "all": [1, None],
    }
    assert [read_data([text]) for text in ("[1, 2]", '"a=b"', "-5", "true", '{"a": "b=c"}')] == [
        [1, 2],
        "a=b",
        -5,
        True,
        {"a": "b=c"},
    ]
    extended = read_data(['{"at": {"$date": "2026-11-26T00:00:00Z"}, "id": {"$oid": "6b082f1ba07fefd79cb85698"}}'])
    assert extended == {"at": datetime(2026, 11, 26, tzinfo=UTC), "id": ObjectId("6b082f1ba07fefd79cb85698")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{bad"], "at character 2"),
        (["hello"], "got 'hello'"),
        (["a=1", "hello"], "got 'a=1 hello'"),
        (["1", "2"], "got '1 2'"),
        (["n:=x"], "n: expected"),
        (['{"$oid": "no"}'], "no"),
        (['{"$date": {}}'], "expected"),
        (['{"$timestamp": {}}'], "expected"),
        (['{"$numberDecimal": "x"}'], "expected"),
        (["[" * 100_000], "recursion"),
        ([""], "got ''"),
    ],
)
def test_what_is_no_data(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match="expected one JSON document") as error:
        read_data(words)
    assert said in str(error.value)


def test_lines_of_data() -> None:
    assert list(read_lines(['{"a": 1}\n', "\n", "2"])) == [{"a": 1}, 2]
    with pytest.raises(UsageError, match="line 3: expected"):
        list(read_lines(["1\n", "\n", "oops\n"]))


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_is_json(value: Any) -> None:
    text = json.dumps(value)
    if "$" not in text:
        assert read_json(text, "data") == value


@dataclass(frozen=True)
class Facts:
    id: ObjectId
    at: datetime
    data: Any
    status: JobStatus = JobStatus.PENDING
    length: timedelta = timedelta(seconds=1.5)
    unset: None = None
    names: tuple[str, ...] = ("a",)
    errors: Any = None


def test_json_for_scripts() -> None:
    job_id = ObjectId("6b082f1ba07fefd79cb85698")
    facts = Facts(job_id, NOW, {"at": NOW, "id": job_id}, errors={job_id: ValueError("at mongodb://u:secret@h/")})
    assert plain(facts) == {
        "id": "6b082f1ba07fefd79cb85698",
        "at": "2026-11-26T12:30:00.000Z",
        "data": {"at": {"$date": "2026-11-26T12:30:00Z"}, "id": {"$oid": "6b082f1ba07fefd79cb85698"}},
        "status": "pending",
        "length": 1.5,
        "names": ["a"],
        "errors": {"6b082f1ba07fefd79cb85698": "at mongodb://***@h/"},
    }


ROWS = [("mail", 1234, NOW, None, "failed"), ("two\twords\n", 5, NOW, 0.5, "pending")]


def test_tables_are_lines_with_tabs_where_there_is_no_terminal(capsys: Any) -> None:
    out = Output(as_json=False)
    out.table(("name", "jobs", "due", "rate", "status"), ROWS)
    out.note("aside")
    assert capsys.readouterr() == (
        "mail\t1234\t2026-11-26T12:30:00.000Z\t\tfailed\ntwo words\t5\t2026-11-26T12:30:00.000Z\t0.5\tpending\n",
        "",
    )


def test_at_a_terminal_they_have_columns_and_colours(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = Output(as_json=False)
    out.table(("name", "jobs", "due", "rate", "status"), ROWS)
    out.table(("name",), [])
    out.note("aside")
    shown, aside = capsys.readouterr()
    assert "1,234" in shown
    assert "\x1b[31mfailed" in shown
    assert " ago" in shown or "in " in shown
    assert "aside" in aside


def test_help_of_a_docstring() -> None:
    text, examples = help_of("Do it.\n\nTwo\nlines.\n\nExamples:\n\n    one\n      two\n\nArgs:\n    a: A.\n")
    assert (text, examples) == ("Do it.\n\nTwo lines.", "Examples:\n\n    one\n      two")
    assert help_of("Do it.") == ("Do it.", "")
