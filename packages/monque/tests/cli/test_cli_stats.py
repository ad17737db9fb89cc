from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from rich.console import Console

from monque import Durations, Instance, JobChange, JobCount, JobStats, JobStatus, MonqueError, Pause, RunningJob
from monque.cli import stats as stats_module
from monque.cli import top
from monque.cli._app import run
from monque.cli._jobs.looking import _told
from monque.cli._options import ANY
from monque.cli._output import Output, table
from monque.errors import JobDocumentError

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def monque(capsys: Any, monque_environment: str) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process: exit code, stdout, stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


@pytest.fixture
def jobs(monque: Callable[..., tuple[int, str, str]]) -> None:
    """Three jobs, of which one is cancelled."""
    for name in ("mail", "mail", "report"):
        assert monque("enqueue", name)[0] == 0
    assert monque("jobs", "cancel", "--name", "report")[0] == 0


@pytest.mark.usefixtures("jobs")
def test_stats(monque: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = monque("stats")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == ["mail\t2\t0\t0\t0\t0", "report\t0\t0\t0\t0\t1", "all\t2\t0\t0\t0\t1"]
    assert "in the last 1h: 3 enqueued, 0 completed, 0 failed, 1 cancelled" in out
    code, out, _ = monque("stats", "--name", "mail", "--window", "10m", "--json")
    figures = json.loads(out)
    assert (code, figures["statuses"]["pending"], figures["window"]) == (0, 2, 600)
    assert figures["created_rate"] == pytest.approx(2 / 600)


def test_stats_of_runs() -> None:
    durations = Durations(count=1000, mean=0.1, median=0.05, p95=1, p99=90, longest=100)
    said = list(stats_module.lines(_stats(runs=durations, waits=durations)))
    assert said[-2] == "runs of the latest 1,000: median, 95 % and 99 % within 50ms, 1s, 1m 30s"
    assert next(stats_module.rows(_stats())) == ("(no name)", 1, 0, 0, 0, 0)
    assert stats_module.facts(_stats())["names"] == {"": {"pending": 1}}


def test_stats_of_more_than_were_counted() -> None:
    many, all_ = JobCount(10_000, at_least=True), JobCount(10_001, at_least=True)
    stats = _stats(
        statuses={JobStatus.PENDING: JobCount(1), JobStatus.COMPLETED: all_},
        names={"mail": {JobStatus.COMPLETED: many}, "report": {JobStatus.COMPLETED: JobCount(1)}},
        created=many,
        ended={JobStatus.COMPLETED: many, JobStatus.FAILED: JobCount(2)},
    )
    assert "in the last 1h: 10,000+ enqueued, 10,000+ completed, 2 failed" in list(stats_module.lines(stats))
    facts = stats_module.facts(stats)
    assert (facts["names"]["mail"], facts["limit"]) == ({"completed": 10_000}, 10_000)
    expected = {"statuses": ["completed"], "names": {"mail": ["completed"]}, "created": True, "ended": ["completed"]}
    assert facts["at_least"] == expected
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table(stats_module.COLUMNS, stats_module.rows(stats)))
    said = captured.get()
    assert re.search(r"mail +0 +0 +10,000\+ +0 +0", said)
    assert re.search(r"all +1 +0 +10,001\+ +0 +0", said)


def test_lines_for_scripts_tell_too(capsys: Any) -> None:
    Output(as_json=False).table(("name", "completed"), [("mail", JobCount(10_000, at_least=True)), ("x", JobCount(5))])
    assert capsys.readouterr().out == "mail\t10000+\nx\t5\n"


@pytest.mark.usefixtures("jobs")
def test_stats_count_all_if_they_are_to_be_exact(monque: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = monque("stats", "--exact", "--json")
    figures = json.loads(out)
    assert (code, figures["statuses"]["pending"], "limit" in figures) == (0, 2, False)
    assert json.loads(monque("stats", "--json")[1])["limit"] == 10_000


def _stats(**more: Any) -> JobStats:
    one = {JobStatus.PENDING: JobCount(1)}
    facts: dict[str, Any] = {
        "at": NOW,
        "window": 3600.0,
        "limit": 10_000,
        "statuses": one,
        "names": {None: one},
        "oldest_wait": 5.0,
        "longest_run": 0.0,
        "created": JobCount(1),
        "ended": {JobStatus.FAILED: JobCount(2)},
        "runs": None,
        "waits": None,
    }
    return JobStats(**facts | more)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stats", "--window", "0s"), "window"),
        (("stats", "--window", "long"), "expected a length of time"),
        (("stats", "mail"), "mail"),
        (("top", "--interval", "x"), "expected a length of time"),
        (("jobs", "watch", "--key", "k"), "a name beside it"),
    ],
)
def test_what_they_do_not_take(
    monque: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = monque(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


# --- top --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("jobs")
def test_top_looks_once_where_there_is_no_terminal(monque: Callable[..., tuple[int, str, str]]) -> None:
    assert monque("pause", "mail", "--for", "10m", "--reason", "why not")[0] == 0
    code, out, err = monque("top")
    assert (code, err) == (0, "")
    assert re.search(r"mail +2 +0 +0 +0 +0", out)
    assert "mail is paused until" in out
    assert "no instances" in out
    code, out, _ = monque("top", "--once", "--json")
    seen = json.loads(out)
    assert (code, seen["stats"]["statuses"]["pending"], seen["paused"][0]["reason"]) == (0, 2, "why not")


@pytest.mark.usefixtures("jobs")
def test_top_goes_on_at_a_terminal_until_ctrl_c(terminal: Callable[..., Any]) -> None:
    shown = terminal("top", "--interval", "50ms")
    shown.read_until("report")
    shown.read_until("3 enqueued")
    shown.type(b"\x03")
    assert shown.end() == 130


def test_top_shows_who_runs_what_and_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    running = (RunningJob(ObjectId(), "mail", NOW), RunningJob(ObjectId(), "report", None))
    instance = Instance(
        id="one",
        host="here",
        pid=12,
        version="1",
        started_at=NOW,
        last_beat=NOW,
        workers={"mail": 3},
        running=running,
        running_count=2,
        status="working",
    )
    view = top.View(_stats(), [instance], [Pause("mail", NOW)])
    console = Console(width=200, record=True)
    with console.capture() as captured:
        console.print(top.shown(view, "no server"))
    said = captured.get()
    for part in ("no server", "mail is paused\n", "mail 3", f"{running[1].job_id} report on here, 12", "ago on here"):
        assert part in said


async def test_top_survives_an_outage(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    views: list[Any] = [MonqueError("lost mongodb://u:secret@h/"), top.View(_stats(), [], []), KeyboardInterrupt()]

    async def look(*_: object) -> Any:
        view = views.pop(0)
        if isinstance(view, BaseException):
            raise view
        return view

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(top, "_look", look)
    out = Output(as_json=False)
    with pytest.raises(KeyboardInterrupt):
        await top._go_on(None, ANY, top.View(_stats(), [], []), top._EVERY * 0, out)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert "this is what was seen then: lost mongodb://***@h/" in said


# --- watch ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [True, False])
def test_watch(monque: Callable[..., tuple[int, str, str]], as_json: bool, terminal: Callable[..., Any]) -> None:
    monque("enqueue", "other")
    watching = terminal("jobs", "watch", "--name", "mail", *(["--json"] if as_json else []))
    watching.read_until("Watching")
    monque("enqueue", "other")
    job = monque("enqueue", "mail")[1].split()[0]
    monque("jobs", "cancel", job)
    watching.read_until("cancelled")
    watching.type(b"\x03")
    assert watching.end() == 130
    assert watching.seen.count(job) == (4 if as_json else 2)  # two changes; as JSON each has the job, too
    assert "other" not in watching.seen


def test_what_watch_tells() -> None:
    from monque.job import Progress, make_job

    job_id = ObjectId()
    job = make_job(
        {"id": job_id, "name": "mail", "status": JobStatus.PROCESSING, "progress_report": Progress(0.4, None, NOW)}
    )
    assert _told(JobChange(job_id, job, "changed")) == f"{job_id} mail processing 40%"
    assert _told(JobChange(job_id, None, "deleted")) == f"{job_id} deleted"
    assert "name" in _told(JobChange(job_id, None, "changed", JobDocumentError(job_id, "name", "expected text")))
