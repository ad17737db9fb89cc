from __future__ import annotations

import io
import json
import signal
import sys
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from monque import AggregationTimeoutError, Jobs
from monque.cli._app import run
from monque.cli._jobs import changing
from monque.cli._jobs.showing import describe
from monque.job import JobFailure, JobStatus, LogLine, Progress, make_job

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database

HOUR = timedelta(hours=1)
NOWHERE = "mongodb://127.0.0.1:1"
NO_JOB = "6b082f1ba07fefd79cb85698"


@pytest.fixture(autouse=True)
def _environment(monque_environment: str) -> None:
    """Commands use the database of their test."""


@pytest.fixture
def monque(capsys: Any) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process: exit code, stdout, stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture
def enqueue(monque: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Enqueues a job by the command line, and gives its id."""

    def command(*arguments: str) -> str:
        code, out, err = monque("enqueue", *arguments)
        assert code == 0, err
        return out.split()[0]

    return command


def lines(out: str) -> list[list[str]]:
    return [line.split("\t") for line in out.splitlines()]


# --- enqueue ----------------------------------------------------------------------------------------------------------


def test_enqueue_says_what_it_stored(monque: Callable[..., Any], monque_database: Database[Any]) -> None:
    code, out, err = monque(
        "enqueue", "mail", "to=a@b.c", "n:=3", "--key", "k", "--priority", "-3", "--tag", "a", "--tag", "b"
    )
    assert (code, err) == (0, "")
    (job,) = monque_database["monque_jobs"].find()
    assert out.startswith(f"{job['_id']} mail pending, due ")
    assert out.endswith(" (now)\n")
    assert (job["name"], job["data"], job["uniqueKey"], job["priority"]) == ("mail", {"to": "a@b.c", "n": 3}, "k", -3)
    assert sorted(job["tags"]) == ["a", "b"]


@pytest.mark.parametrize("when", [["--in", "1h"], ["--at", "in 1h"]])
def test_enqueue_for_later_and_as_json(monque: Callable[..., Any], when: list[str]) -> None:
    code, out, _ = monque("enqueue", "mail", '{"at": {"$date": "2026-11-26T00:00:00Z"}}', *when, "--json")
    job = json.loads(out)
    assert code == 0
    assert job["data"] == {"at": {"$date": "2026-11-26T00:00:00Z"}}
    assert HOUR * 0.9 < datetime.fromisoformat(job["next_run_at"]) - datetime.now(UTC) <= HOUR * 1.1


def test_enqueue_with_a_key_that_is_taken(monque: Callable[..., Any], enqueue: Callable[..., str]) -> None:
    first = enqueue("mail", "n:=1", "--key", "k")
    assert enqueue("mail", "n:=2", "--key", "k") == first
    code, out, _ = monque("enqueue", "mail", "n:=3", "--key", "k", "--on-conflict", "replace", "--json")
    assert (code, json.loads(out)["data"]) == (0, {"n": 3})
    code, out, err = monque("enqueue", "mail", "--key", "k", "--on-conflict", "raise")
    assert (code, out, err.count("\n")) == (1, "", 1)


def test_enqueue_a_job_for_each_line(
    monque: Callable[..., Any], monque_database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"n": 1}\n\n{"n": 2}\n'))
    assert monque("enqueue", "mail", "-", "--tag", "batch") == (0, "2 jobs enqueued\n", "")
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"n": 3}\n{"n": 4}\n'))
    code, out, _ = monque("enqueue", "mail", "-", "--json")
    assert (code, [json.loads(line)["data"]["n"] for line in out.splitlines()]) == (0, [3, 4])
    assert [job["data"]["n"] for job in monque_database["monque_jobs"].find()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (io.StringIO("1\n" * 1000 + "oops\n"), "line 1001: expected one JSON document"),
        (io.TextIOWrapper(io.BytesIO(b"1\n" * 1000 + b"\xff\n" * 20_000), "utf-8"), "expected text in UTF-8"),
    ],
)
def test_a_line_that_is_no_json_says_how_many_are_stored(
    monque: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, stdin: Any, said: str
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    code, out, err = monque("enqueue", "mail", "-")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert "before it are stored" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "NAME"),
        (("two words",), "without white space"),
        (("mail", "{bad"), "expected one JSON document"),
        (("mail", "--in", "10"), "--in: expected a length of time"),
        (("mail", "--at", "soon"), "--at: expected a time such as now"),
        (("mail", "--in", "1m", "--at", "now"), "expected"),
        (("mail", "--priority", "11"), "priority"),
        (("mail", "--on-conflict", "shrug"), "shrug"),
        (("mail", "-", "--wait", "1s"), "--wait: expected a single job"),
        (("mail", "--key", ""), "unique_key"),
        (("mail", "--uri", "http://user:secret@host/"), "mongodb://"),
        (("mail", "--collection", "$x"), "collection"),
        (("mail", "1", "mongodb://user:secret@host/"), "expected one JSON document"),
        (("mail", "--nope=mongodb://user:secret@host/"), "--nope"),
    ],
)
def test_what_enqueue_does_not_take(monque: Callable[..., Any], arguments: tuple[str, ...], said: str) -> None:
    code, out, err = monque("enqueue", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert "secret" not in err


def test_waiting_for_a_result(
    monque: Callable[..., Any], start: Callable[..., Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app.py").write_text(
        "from monque import Fail, Monque\nmonque = Monque()\n"
        "@monque.worker('double', store_result=True)\ndef double(n: int) -> dict[str, int]:\n    return {'n': n * 2}\n"
        "@monque.worker('fail')\ndef fail() -> None:\n    raise Fail('no luck')\n"
        "@monque.worker('forget')\ndef forget() -> int:\n    return 1\n"
    )
    worker = start("worker", "app:monque", cwd=tmp_path)
    assert monque("enqueue", "double", "n:=21", "--wait", "90s") == (0, '{"n": 42}\n', "")
    code, out, err = monque("enqueue", "fail", "--wait", "90s")
    assert (code, out) == (1, "")
    assert "no luck" in err
    assert monque("enqueue", "forget", "--wait", "90s") == (0, "null\n", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "store_result" in monque("enqueue", "forget", "--wait", "90s")[2]
    worker.interrupt()
    assert worker.end().code == 0


def test_waiting_in_vain(monque: Callable[..., Any]) -> None:
    code, out, err = monque("enqueue", "mail", "--wait", "10ms")
    assert (code, out, err.count("\n")) == (1, "", 1)


# --- schedule ---------------------------------------------------------------------------------------------------------


def test_schedule(monque: Callable[..., Any], monque_database: Database[Any]) -> None:
    arguments = ("schedule", "0 9 * * 1-5", "report", "kind=daily", "--timezone", "Europe/Berlin", "--key", "k")
    code, out, _ = monque(*arguments, "--tag", "reports")
    (job,) = monque_database["monque_jobs"].find()
    assert (code, out.split()[:3]) == (0, [str(job["_id"]), "report", "pending,"])
    assert (job["repeatInterval"], job["timezone"], job["data"]) == ("0 9 * * 1-5", "Europe/Berlin", {"kind": "daily"})
    assert job["tags"] == ["reports"]
    code, out, _ = monque("schedule", "@hourly", "report", "--key", "k", "--json")
    assert (code, json.loads(out)["repeat_interval"]) == (0, "@hourly")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("@daily",), "NAME"),
        (("61 * * * *", "report"), "minute field"),
        (("0 0 30 2 *", "report"), "30 2"),
        (("@daily", "report", "--timezone", "Nowhere"), "Nowhere"),
        (("@daily", "report", "x"), "expected one JSON document"),
    ],
)
def test_what_schedule_does_not_take(monque: Callable[..., Any], arguments: tuple[str, ...], said: str) -> None:
    code, out, err = monque("schedule", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


# --- list and show ----------------------------------------------------------------------------------------------------


def test_list(monque: Callable[..., Any], enqueue: Callable[..., str]) -> None:
    mail = enqueue("mail", "--tag", "a", "--tag", "b")
    later = enqueue("mail", "--in", "1h", "--key", "k")
    report = enqueue("report", "--in", "2h", "--tag", "a")
    monque("jobs", "cancel", report)

    def ids(*arguments: str) -> list[str]:
        code, out, err = monque("jobs", "list", *arguments)
        assert (code, err) == (0, "")
        return [line[0] for line in lines(out)]

    assert ids() == [report, later, mail]
    assert ids("--order", "created", "--limit", "2") == [mail, later]
    assert ids("--status", "pending", "--order", "-due") == [later, mail]
    assert ids("--status", "pending") == [mail, later]
    assert ids("--status", "cancelled", "--order", "updated") == [report]
    assert ids("--name", "mail") == [later, mail]
    assert ids("--name", "mail", "--name", "report", "--status", "cancelled", "--status", "failed") == [report]
    assert ids("--tag", "a", "--tag", "b") == [mail]
    assert ids("--name", "mail", "--key", "k") == [later]
    assert ids("--due-from", "in 30m", "--due-until", "in 90m") == [later]
    assert ids("--created-from", "1h ago", "--updated-from", "1h ago", "--updated-until", "in 1m") == [
        report,
        later,
        mail,
    ]
    assert ids("--created-until", "1h ago") == []
    assert ids("--error", "nothing") == []


def test_list_as_json_and_as_a_table(
    monque: Callable[..., Any], enqueue: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [enqueue("mail", f"n:={n}") for n in range(3)]
    code, out, _ = monque("jobs", "list", "--json", "--limit", "2", "--order", "created")
    assert (code, [json.loads(line)["id"] for line in out.splitlines()]) == (0, ids[:2])
    assert len(monque("jobs", "list", "--json", "--all")[1].splitlines()) == 3
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    _, out, err = monque("jobs", "list", "--limit", "2")
    assert "last failure" in out
    assert "pending" in out
    assert "There are more than these 2" in err


def test_a_failure_is_cut_where_the_terminal_is_narrow(
    monque: Callable[..., Any],
    enqueue: Callable[..., str],
    monque_database: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = enqueue("mail")
    reason = "ValueError: " + "long " * 100
    failed = {"status": "failed", "failReason": reason}
    monque_database.monque_jobs.update_one({"_id": ObjectId(job)}, {"$set": failed})
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    _, out, _ = monque("jobs", "list")
    assert (len(out.splitlines()), job in out, "failed" in out, "ValueError: long" in out, "…" in out) == (
        2,
        *[True] * 4,
    )
    # When a job that has ended was due is of no interest, and takes no room.
    assert out.count(" now") == 1


def test_a_look_creates_nothing(monque: Callable[..., Any], monque_database: Database[Any]) -> None:
    assert monque("jobs", "list", "--collection", "misspelt") == (0, "", "")
    assert monque_database.list_collection_names() == []


@pytest.mark.parametrize("verb", ["list", "cancel"])
def test_a_collection_that_nobody_has_worked_on(
    monque: Callable[..., Any], monque_database: Database[Any], verb: str
) -> None:
    monque_database["monque_jobs"].insert_one({"name": "mail", "status": "pending"})
    code, out, err = monque("jobs", verb, "--name", "mail")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "monque doctor --fix-indexes" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--status", "lost"), "lost"),
        (("--order", "size"), "size"),
        # Nobody listens there: it is said before.
        (("--order", "due", "--uri", NOWHERE), "a filter for pending jobs alone"),
        (("--order", "-updated", "--status", "pending", "--uri", NOWHERE), "not for pending jobs"),
        (("--limit", "0"), "--limit"),
        (("--key", "k"), "a name beside it"),
        (("--created-from", "then"), "expected a time such as now"),
        (("--error", ""), "error"),
        (("stray",), "stray"),
    ],
)
def test_what_list_does_not_take(monque: Callable[..., Any], arguments: tuple[str, ...], said: str) -> None:
    code, out, err = monque("jobs", "list", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_show(monque: Callable[..., Any], enqueue: Callable[..., str]) -> None:
    mail, other = enqueue("mail", "to=a@b.c", "--key", "k"), enqueue("mail")
    code, out, err = monque("jobs", "show", mail, other)
    assert (code, err) == (0, "")
    assert '{"to": "a@b.c"}' in out
    assert other in out
    code, out, err = monque("jobs", "show", mail, NO_JOB, "--json")
    assert (code, json.loads(out)["unique_key"]) == (1, "k")
    assert err == f"monque: there is no job {NO_JOB}\n"


def test_all_there_is_to_know() -> None:
    from io import StringIO

    from rich.console import Console

    now = datetime(2026, 11, 26, 12, tzinfo=UTC)
    job = make_job(
        {
            "id": "6b082f1ba07fefd79cb85698",
            "name": "mail",
            "data": {"[bold]": now},
            "status": JobStatus.PROCESSING,
            "next_run_at": now,
            "fail_count": 1,
            "created_at": now - HOUR,
            "updated_at": now,
            "repeat_interval": "@daily",
            "unique_key": "k",
            "tags": ("a", "b"),
            "priority": 2,
            "headers": {"tenant": "seven"},
            "timeout": 90.0,
            "claimed_by": "instance",
            "locked_at": now,
            "progress_report": Progress(0.5, "half", now),
            "result": {"n": 1},
            "result_error": "too large",
            "fail_reason": "ValueError: no",
            "errors": (
                JobFailure(now - HOUR, 1, "ValueError: no", "Traceback\n  x\n"),
                JobFailure(now - HOUR, 2, "ValueError: yes", "Traceback\n  y\n"),
                JobFailure(now, 3, "ValueError: yes", "Traceback\n  y\n"),
            ),
            "logs": (LogLine(now, "WARNING", "app", "careful"),),
        }
    )
    written = StringIO()
    Console(file=written, width=100).print(describe(job, now))
    said = written.getvalue()
    for part in (
        "@daily (UTC)",
        '{"tenant": "seven"}',
        "a, b",
        "1m 30s",
        "50% half",
        '{"n": 1}',
        "too large",
        "attempt 1, 1h ago",
        "careful",
        "[bold]",
    ):
        assert part in said
    history = [line.split(",")[0] for line in said.splitlines() if line.startswith(("attempt", "  x", "  y"))]
    assert history == ["attempts      0", "attempt 1", "  x", "attempt 2", "attempt 3", "  y"]


@pytest.mark.parametrize(("arguments", "said"), [((), "expected an id"), (("nonsense",), "24 hexadecimal digits")])
def test_what_show_does_not_take(monque: Callable[..., Any], arguments: tuple[str, ...], said: str) -> None:
    code, out, err = monque("jobs", "show", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


# --- changing ---------------------------------------------------------------------------------------------------------


def status_of(database: Database[Any]) -> list[str]:
    return [job["status"] for job in database["monque_jobs"].find().sort("_id")]


def test_one_by_one(monque: Callable[..., Any], enqueue: Callable[..., str], monque_database: Database[Any]) -> None:
    job = enqueue("mail", "--in", "1h")
    assert monque("jobs", "cancel", job) == (0, f"{job} cancelled\n", "")
    assert monque("jobs", "retry", job) == (0, f"{job} pending again\n", "")
    assert monque("jobs", "reschedule", job, "--to", "in 2h") == (0, f"{job} rescheduled\n", "")
    (document,) = monque_database["monque_jobs"].find()
    assert document["nextRunAt"] > datetime.now(UTC) + HOUR
    assert monque("jobs", "run-now", job) == (0, f"{job} due now\n", "")
    (document,) = monque_database["monque_jobs"].find()
    assert document["nextRunAt"] < datetime.now(UTC) + HOUR
    assert monque("jobs", "delete", job) == (0, f"{job} deleted\n", "")
    assert status_of(monque_database) == []


def test_what_cannot_be_changed_keeps_nothing_else_from_it(
    monque: Callable[..., Any], enqueue: Callable[..., str]
) -> None:
    jobs = enqueue("mail"), enqueue("mail")
    monque("jobs", "cancel", jobs[0])
    code, out, err = monque("jobs", "reschedule", jobs[0], NO_JOB, jobs[1], "nonsense", "--to", "now")
    assert (code, out) == (1, f"{jobs[1]} rescheduled\n")
    assert [NO_JOB in line for line in err.splitlines()] == [False, True, False]
    code, out, _ = monque("jobs", "delete", NO_JOB, jobs[1], "--json")
    assert code == 1
    assert [json.loads(line) for line in out.splitlines()] == [
        {"id": NO_JOB, "done": False, "error": f"there is no job {NO_JOB}"},
        {"id": jobs[1], "done": True},
    ]


def test_many_by_a_filter(
    monque: Callable[..., Any], enqueue: Callable[..., str], monque_database: Database[Any]
) -> None:
    for name in ("mail", "mail", "report"):
        enqueue(name, "--in", "1h")
    assert monque("jobs", "cancel", "--name", "mail") == (0, "2 jobs cancelled\n", "")
    assert status_of(monque_database) == ["cancelled", "cancelled", "pending"]
    code, out, err = monque("jobs", "retry", "--status", "cancelled", "--json")
    assert (code, json.loads(out), err) == (0, {"count": 2, "errors": {}}, "")
    assert monque("jobs", "reschedule", "--name", "report", "--to", "in 3h")[:2] == (0, "1 job rescheduled\n")
    assert monque("jobs", "run-now", "--all")[0] == 0
    assert all(job["nextRunAt"] < datetime.now(UTC) + HOUR / 2 for job in monque_database["monque_jobs"].find())
    assert monque("jobs", "delete", "--all", "--yes") == (0, "3 jobs deleted\n", "")


def test_those_of_many_that_cannot_be_changed(monque: Callable[..., Any], enqueue: Callable[..., str]) -> None:
    first = enqueue("mail", "--key", "k")
    monque("jobs", "cancel", first)
    enqueue("mail", "--key", "k")
    code, out, err = monque("jobs", "retry", "--name", "mail")
    assert (code, out) == (1, "0 jobs pending again\n")
    assert first in err


@pytest.mark.parametrize("verb", ["cancel", "retry", "reschedule", "run-now", "delete"])
def test_which_jobs_has_to_be_said(monque: Callable[..., Any], verb: str, enqueue: Callable[..., str]) -> None:
    job = enqueue("mail")
    more = ("--to", "now") if verb == "reschedule" else ()
    for arguments, said in [((), "or --all to"), ((job, "--name", "mail"), "not both"), ((job, "--all"), "not both")]:
        code, out, err = monque("jobs", verb, *arguments, *more)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


def keyboard(typed: str) -> Any:
    """A terminal on which that is typed."""
    return SimpleNamespace(isatty=lambda: True, readline=io.StringIO(typed).readline)


@pytest.mark.parametrize(("typed", "code"), [("y\n", 0), ("Yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_somebody_at_a_terminal_is_asked(
    monque: Callable[..., Any],
    enqueue: Callable[..., str],
    monque_database: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    code: int,
) -> None:
    enqueue("mail")
    enqueue("mail")
    monkeypatch.setattr(sys, "stdin", keyboard(typed))
    result, out, err = monque("jobs", "cancel", "--name", "mail")
    assert result == code
    assert err.startswith("Cancel what can be of 2 jobs? [y/N] ")
    assert out == ("" if code else "2 jobs cancelled\n")
    assert status_of(monque_database) == ["pending" if code else "cancelled"] * 2
    monkeypatch.setattr(sys, "stdin", keyboard("never read"))
    assert monque("jobs", "cancel", "--name", "mail", "--yes")[2] == ""


def test_many_are_not_counted_to_the_end_to_ask(
    monque: Callable[..., Any], enqueue: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        enqueue("mail")
    monkeypatch.setattr(changing, "_COUNTED", 2)
    monkeypatch.setattr(sys, "stdin", keyboard("n\n"))
    assert monque("jobs", "cancel", "--name", "mail")[2].startswith("Cancel what can be of more than 2 jobs? [y/N] ")

    async def take_long(*_: object, limit: int, timeout: float) -> int:
        raise AggregationTimeoutError(timeout)

    monkeypatch.setattr(Jobs, "count", take_long)
    monkeypatch.setattr(sys, "stdin", keyboard("y\n"))
    code, out, err = monque("jobs", "cancel", "--error", "no answer")
    assert (code, out) == (0, "0 jobs cancelled\n")
    assert err.startswith("Cancel what can be of an unknown number of jobs? [y/N] ")


def test_ctrl_c_at_the_question(
    monque: Callable[..., Any], enqueue: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    enqueue("mail")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=press))
    code, out, err = monque("jobs", "delete", "--name", "mail")
    assert (code, out) == (130, "")
    assert err.endswith("monque: interrupted\n")
