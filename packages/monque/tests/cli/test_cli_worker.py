from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

import monque.sync
from monque import Monque
from monque.cli._app import run as app
from monque.cli._worker.process import NO_LIMITS, Limits
from monque.cli._worker.supervisor import Plan, Supervisor, ending
from monque.cli._worker.target import load
from monque.testing import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from pymongo.database import Database

PROGRAM = """
import asyncio, os, time
from pathlib import Path
from monque import Lease, Monque, Options, Polling, sync

options = Options(polling=Polling(interval=0.05), lease=Lease(timeout=60))
monque = Monque(options=options)
blocking = sync.Monque(options=options)

def begin() -> None:
    with Path("begun").open("a") as file:
        print("one", file=file)

def pid() -> int:
    return os.getpid()

monque.worker("pid", pid, store_result=True)
blocking.worker("pid", pid, store_result=True)

@monque.worker("parent", run_in="process", store_result=True)
def parent() -> int:
    return os.getppid()

@monque.worker("slow", store_result=True)
async def slow() -> int:
    begin()
    while not Path("go-on").exists():
        await asyncio.sleep(0.01)
    return os.getpid()

@monque.worker("stuck")
async def stuck() -> None:
    begin()
    time.sleep(600)

def make() -> Monque:
    return monque

def make_with(argument: int) -> Monque:
    return monque

def make_nothing() -> None:
    return None
"""

# Starting a process takes long on a machine that has much to do.
TIMEOUT = 90


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A directory with a program."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "app.py").write_text(PROGRAM)
    return folder


@pytest.fixture
def work(start: Callable[..., Any], program: Path) -> Callable[..., Any]:
    """Starts `monque worker` there."""

    def command(*arguments: str, target: str = "app:monque") -> Any:
        return start("worker", target, *arguments, cwd=program)

    return command


@pytest.fixture
async def producer(monque_uri: str) -> AsyncGenerator[Monque]:
    async with Monque(monque_uri) as monque:
        yield monque


async def enqueue(producer: Monque, name: str, count: int = 1) -> None:
    await producer.enqueue_many([(name, None)] * count)


async def count_of(database: Database[Any], status: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait until so many jobs have a status."""
    jobs = database["monque_jobs"]

    def found() -> list[dict[str, Any]] | None:
        documents = list(jobs.find({"status": status}))
        return documents if len(documents) == count else None

    documents = await eventually(found, timeout=TIMEOUT)
    assert documents is not None
    return documents


async def begun(program: Path, count: int = 1) -> None:
    """Wait until so many handlers have begun: a job that is processing need not have come that far."""
    file = program / "begun"
    await eventually(lambda: file.exists() and file.read_text().count("\n") == count, timeout=TIMEOUT)


def pids(documents: list[dict[str, Any]]) -> set[int]:
    return {document["result"] for document in documents}


def is_there(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "arguments"),
    [(signal.SIGTERM, []), (signal.SIGINT, []), (signal.SIGINT, ["--processes", "2"]), (signal.SIGTERM, ["--reload"])],
)
async def test_a_signal_lets_running_handlers_finish(
    work: Callable[..., Any],
    program: Path,
    producer: Monque,
    monque_database: Database[Any],
    number: signal.Signals,
    arguments: list[str],
) -> None:
    await enqueue(producer, "slow")
    worker = work(*arguments)
    await begun(program)
    worker.interrupt(number)
    (program / "go-on").touch()
    done = worker.end()
    assert done.code == 0, done.err
    (job,) = await count_of(monque_database, "completed")
    assert job["attempts"] == 1
    assert "stopped" in done.err


@pytest.mark.parametrize("arguments", [[], ["--processes", "2"]])
async def test_a_second_signal_cuts_handlers_short(
    work: Callable[..., Any], program: Path, producer: Monque, monque_database: Database[Any], arguments: list[str]
) -> None:
    await enqueue(producer, "slow")
    worker = work(*arguments)
    await begun(program)
    # Two of a kind could be taken for one.
    worker.interrupt(signal.SIGTERM)
    worker.interrupt(signal.SIGINT)
    assert worker.end().code == 0
    (job,) = await count_of(monque_database, "pending")
    assert (job["attempts"], job["failCount"]) == (0, 0)


async def test_a_third_signal_ends_processes_that_do_not_listen(
    work: Callable[..., Any], program: Path, producer: Monque, monque_database: Database[Any]
) -> None:
    await enqueue(producer, "stuck")
    worker = work("--processes", "2")
    await begun(program)
    for answer in ("stopping", "cutting", "killing"):
        worker.interrupt()
        worker.wait_for_warning(answer)
    assert worker.end().code == 0
    # Once its lease runs out, another instance will take it back.
    await count_of(monque_database, "processing")


# --- several processes ------------------------------------------------------------------------------------------------


async def test_processes_share_the_jobs_and_one_that_is_killed_is_replaced(
    work: Callable[..., Any], producer: Monque, monque_database: Database[Any], program: Path
) -> None:
    await enqueue(producer, "slow", 10)  # five at a time in each process
    worker = work("--processes", "2")
    await begun(program, 10)
    (program / "go-on").touch()
    workers = pids(await count_of(monque_database, "completed", 10))
    assert len(workers) == 2

    os.kill(min(workers), signal.SIGKILL)
    worker.wait_for_warning("ended with signal SIGKILL; another one starts in 0.5 s")
    worker.wait_for_warning("working")
    await enqueue(producer, "pid", 20)
    documents = await count_of(monque_database, "completed", 30)
    assert {document["attempts"] for document in documents} == {1}
    assert min(workers) not in pids([document for document in documents if document["name"] == "pid"])

    worker.interrupt()
    assert worker.end().code == 0
    assert not any(is_there(pid) for pid in pids(documents))


async def test_no_process_outlives_a_supervisor_that_is_killed(
    work: Callable[..., Any], producer: Monque, monque_database: Database[Any]
) -> None:
    await enqueue(producer, "pid")
    worker = work("--processes", "2")
    started = pids(await count_of(monque_database, "completed"))
    worker.wait_for_warning("working")
    worker.interrupt(signal.SIGKILL)
    await eventually(lambda: not any(map(is_there, started)), timeout=TIMEOUT)
    assert "stopped" in worker.end().err


async def test_handlers_in_processes_of_their_own(
    work: Callable[..., Any], producer: Monque, monque_database: Database[Any]
) -> None:
    await enqueue(producer, "pid")
    await enqueue(producer, "parent")
    worker = work("--max-jobs", "1000")
    assert len(pids(await count_of(monque_database, "completed", 2))) == 1
    worker.interrupt()
    assert worker.end().code == 0


# --- replacing --------------------------------------------------------------------------------------------------------


async def test_after_so_many_jobs_a_process_is_replaced_and_no_job_is_lost(
    work: Callable[..., Any], producer: Monque, monque_database: Database[Any]
) -> None:
    await enqueue(producer, "pid", 30)
    worker = work("--max-jobs", "10")
    documents = await count_of(monque_database, "completed", 30)
    assert {document["attempts"] for document in documents} == {1}
    assert len(pids(documents)) >= 2
    worker.interrupt()
    done = worker.end()
    assert done.code == 0
    assert "retiring: it has run 10 jobs" in done.err


async def test_with_so_much_memory_a_process_is_replaced(
    work: Callable[..., Any], producer: Monque, monque_database: Database[Any]
) -> None:
    await enqueue(producer, "pid")
    worker = work("--max-memory", "1")
    first = pids(await count_of(monque_database, "completed"))
    worker.wait_for_warning("MiB of memory")
    worker.wait_for_warning("working")
    await enqueue(producer, "pid")
    assert len(pids(await count_of(monque_database, "completed", 2)) - first) == 1
    worker.interrupt()
    assert worker.end().code == 0


def test_reasons_for_replacing() -> None:
    assert NO_LIMITS.reason(10**6) is None
    assert (Limits(jobs=10).reason(9), Limits(jobs=1000).reason(1000)) == (None, "it has run 1,000 jobs")
    assert Limits(memory=10**6).reason(1) is None
    assert str(Limits(memory=1).reason(1)).endswith("MiB of memory")


async def test_a_retiring_process_counts_the_first_signal_as_its_own(
    program: Path, producer: Monque, monque_database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(program)
    async with supervised(Plan(target="app:monque", processes=1, limits=Limits(jobs=1))) as supervisor:
        await enqueue(producer, "slow")
        await begun(program)
        await enqueue(producer, "pid")
        await count_of(monque_database, "completed")
        await eventually(lambda: any(child.retiring for child in supervisor._children), timeout=TIMEOUT)
        supervisor._signalled()
        (program / "go-on").touch()
    documents = await count_of(monque_database, "completed", 2)
    assert {document["attempts"] for document in documents} == {1}


@pytest.fixture(autouse=True)
def _environment(monque_environment: str) -> None:
    """Programs use the database of their test."""


@asynccontextmanager
async def supervised(plan: Plan) -> AsyncGenerator[Supervisor]:
    """A supervisor in this process, which has been told to stop when the block is left."""
    supervisor = Supervisor(plan)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(supervisor.run())
        try:
            yield supervisor
            await asyncio.wait_for(running, TIMEOUT)
        finally:
            supervisor._signals = 3
            supervisor._stop()


async def test_a_process_that_is_being_started_when_all_are_to_stop_stops_too(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(program)
    create = asyncio.create_subprocess_exec

    async def create_and_stop(*arguments: Any, **options: Any) -> Any:
        process = await create(*arguments, **options)
        supervisor._signalled()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", create_and_stop)
    async with supervised(Plan(target="app:monque", processes=2, limits=NO_LIMITS)) as supervisor:
        await eventually(supervisor.stopping.is_set, timeout=TIMEOUT)
    assert supervisor._children == set()


async def test_a_second_change_hurries_processes_that_are_still_stopping(
    program: Path, producer: Monque, monque_database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(program)
    async with supervised(
        Plan(target="app:monque", processes=1, limits=NO_LIMITS, waits_for_changes=True)
    ) as supervisor:
        await enqueue(producer, "slow")
        await begun(program)
        supervisor.reload()
        supervisor.reload()
        await begun(program, 2)  # by the next process
        (program / "go-on").touch()
        await count_of(monque_database, "completed")
        supervisor._signalled()


def test_crashes_in_a_row_are_answered_more_and_more_slowly() -> None:
    plan = Plan(target="app:monque", processes=1, limits=NO_LIMITS)
    assert [plan.pause(crashes) for crashes in (1, 2, 3, 7, 100)] == [0.5, 1, 2, 30, 30]
    assert [ending(code) for code in (3, -9)] == ["exit code 3", "signal SIGKILL"]


async def test_a_crash_after_a_long_time_counts_as_the_first(
    program: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (program / "crashing.py").write_text(
        "import os\nfrom monque import Monque\nmonque = Monque()\nmonque.run = lambda: os._exit(3)\n"
    )
    monkeypatch.chdir(program)
    plan = Plan(target="crashing:monque", processes=1, limits=NO_LIMITS, first_pause=0.001, settled=0)
    async with supervised(plan) as supervisor:
        await eventually(lambda: caplog.text.count("exit code 3; another one starts in 0.001 s") == 2, timeout=TIMEOUT)
        supervisor._signalled()


# --- reloading --------------------------------------------------------------------------------------------------------


async def test_a_change_of_the_code_starts_it_anew(
    work: Callable[..., Any], program: Path, producer: Monque, monque_database: Database[Any]
) -> None:
    module = program / "app.py"
    worker = work("--reload")
    worker.wait_for_warning("working")
    module.write_text(PROGRAM + "\nmonque.worker('new', lambda: 1, store_result=True)\n")
    await enqueue(producer, "new")
    await count_of(monque_database, "completed", 1)
    module.write_text("this is no Python\n")
    worker.wait_for_warning("waiting for a change of the code")
    module.write_text(PROGRAM + "\nmonque.worker('newer', lambda: 2, store_result=True)\n")
    await enqueue(producer, "newer")
    assert pids(await count_of(monque_database, "completed", 2)) == {1, 2}
    worker.interrupt()
    done = worker.end()
    assert done.code == 0
    assert "SyntaxError" in done.err


def test_reloading_needs_a_package(monkeypatch: pytest.MonkeyPatch, program: Path, capsys: Any) -> None:
    monkeypatch.chdir(program)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert app(["worker", "app:monque", "--reload"]) == 2
    assert 'pip install "monque[cli]"' in capsys.readouterr().err


# --- health -----------------------------------------------------------------------------------------------------------


async def test_it_answers_health_probes_while_it_works(work: Callable[..., Any], producer: Monque) -> None:
    worker = work("--health-port", "0")
    worker.wait_for_warning("answering /livez")
    url = f"http://127.0.0.1:{re.findall('port ([0-9]+)', worker.read)[0]}"
    worker.wait_for_warning("working")

    def health() -> Any:
        with suppress(HTTPError):
            return json.loads(asked(f"{url}/readyz"))

    await eventually(health, timeout=TIMEOUT)
    await enqueue(producer, "slow")
    await eventually(lambda: health()["running"] == 1, timeout=TIMEOUT)
    assert asked(f"{url}/livez") == b"ok\n"
    worker.interrupt()
    worker.interrupt(signal.SIGTERM)
    assert worker.end().code == 0
    with pytest.raises(URLError):
        asked(f"{url}/livez")


def asked(url: str) -> bytes:
    with urlopen(url) as answer:  # noqa: S310
        said: bytes = answer.read()
        return said


@pytest.mark.parametrize("more", [["--processes", "2"], ["--max-jobs", "1"], ["--max-memory", "1"], ["--reload"]])
def test_processes_that_are_replaced_cannot_have_one_port(capsys: Any, more: list[str]) -> None:
    assert app(["worker", "app:monque", "--health-port", "8080", *more]) == 2
    assert "start several of `monque worker` instead" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
def test_a_port_that_is_taken(capsys: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert app(["worker", "app:monque", "--health-port", str(port)]) == 2
    assert f"cannot listen at 127.0.0.1, port {port}: " in capsys.readouterr().err


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(program: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory with the program is the current one, in this process."""
    monkeypatch.chdir(program)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "app", raising=False)
    return program


@pytest.mark.usefixtures("here")
def test_a_target_is_a_monque_or_a_function_that_makes_one() -> None:
    monque_object = load("app:monque")
    assert isinstance(monque_object, Monque)
    assert load("app:make") is monque_object
    assert isinstance(load("app:blocking"), monque.sync.Monque)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("app", "got 'app'; the attribute is missing"),
        ("app:", "got 'app:'; the attribute is missing"),
        (":monque", "got ':monque'; the module is missing"),
        ("nowhere:monque", "there is no module 'nowhere' in "),
        ("app.nowhere:monque", "there is no module 'app.nowhere' in "),
        ("app:nothing", "module 'app' has no 'nothing'; there is app:monque, app:blocking"),
        ("app:monque.nothing", "the Monque has no 'nothing'; there is app:monque"),
        ("string:nothing", "module 'string' has no 'nothing'; there is no Monque in 'string' at all"),
        ("app:options", "app:options is monque.options.Options"),
        ("app:make_with", "app:make_with is builtins.function"),
        ("app:make_nothing", "what app:make_nothing() returned is builtins.NoneType"),
        ("app:Path.cwd", "what app:Path.cwd() returned is pathlib.PosixPath"),
    ],
)
def test_a_wrong_target_is_a_line_that_says_what_there_is(target: str, said: str, capsys: Any) -> None:
    assert app(["worker", target]) == 2
    err = capsys.readouterr().err
    assert err.startswith("monque: target: ")
    assert said in err
    assert err.count("\n") == 1


def test_what_a_module_raises_is_its_own(here: Path) -> None:
    (here / "needing.py").write_text("import nowhere_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
        load("needing:monque")


@pytest.mark.parametrize(("target", "code"), [("app:nothing", 2), ("broken:monque", 1)])
def test_what_cannot_be_loaded_ends_all_processes_and_is_said_once(
    work: Callable[..., Any], program: Path, target: str, code: int
) -> None:
    (program / "broken.py").write_text("1 / 0\n")
    done = work("--processes", "3", target=target).end()
    assert done.code == code
    assert (done.err.count("has no 'nothing'"), done.err.count("ZeroDivisionError")) in {(1, 0), (0, 1)}


def test_a_server_that_cannot_be_reached_is_one_line(start: Callable[..., Any], program: Path) -> None:
    uri = "mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=100"
    done = start("worker", "app:monque", cwd=program, MONQUE_URI=uri).end()
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "secret" not in done.err


def test_processes_wait_for_a_server(start: Callable[..., Any], program: Path) -> None:
    uri = "mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=100"
    worker = start("worker", "app:monque", "--processes", "2", cwd=program, MONQUE_URI=uri)
    worker.wait_for_warning("ended with exit code 1; another one starts in 0.5 s")
    worker.interrupt()
    done = worker.end()
    assert done.code == 0
    assert "cannot" in done.err
    assert "secret" not in done.err


async def test_a_blocking_monque_works_and_retires_too(
    work: Callable[..., Any], producer: Monque, monque_database: Database[Any]
) -> None:
    await enqueue(producer, "pid", 3)
    worker = work("--max-jobs", "2", target="app:blocking")
    await count_of(monque_database, "completed", 3)
    worker.wait_for_warning("retiring")
    worker.interrupt()
    assert worker.end().code == 0


@pytest.mark.parametrize(
    "arguments", [["--processes", "0"], ["--max-jobs", "0"], ["--max-memory", "x"], ["--log-level", "loud"], []]
)
def test_wrong_arguments(arguments: list[str], capsys: Any) -> None:
    assert app(["worker", *(["app:monque"] if arguments else []), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
