"""Forks, signals and the end of a process. Each test is about a program of its own, in which warnings are errors."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from monque.testing import Program
from monque.testing.sync import eventually

if TYPE_CHECKING:
    from pymongo.database import Database

BEGIN = """
import faulthandler, multiprocessing, os, signal, sys, threading, time, warnings
from pymongo import MongoClient
from monque import Job, Options
from monque.sync import Monque

# Python 3.12 and later warn of every fork of a process that has threads.
warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
faulthandler.register(signal.SIGUSR1)
monque = Monque(sys.argv[1])
"""


def program(source: str, uri: str) -> Program:
    return Program("-W", "error", "-c", BEGIN + source, uri)


def ended(process: Program) -> int | None:
    """Its exit code, once it has one."""
    try:
        eventually(lambda: process.exit_code is not None, timeout=60)
    except AssertionError as error:
        process.send(signal.SIGUSR1)
        eventually(lambda: "most recent call first" in process.errors)
        error.add_note(process.errors)  # what it waits for
        raise
    return process.exit_code


def run(source: str, uri: str) -> list[str]:
    """What a program prints that ends by itself, and well."""
    with program(source, uri) as process:
        ended(process)
    assert (process.exit_code, process.errors) == (0, "")
    return process.output.splitlines()


def names(database: Database[dict[str, Any]]) -> list[str]:
    return sorted(row["name"] for row in database["monque_jobs"].find())


# --- forks ----------------------------------------------------------------------------------------------------------

FORK = """
monque.now("parent")
child = os.fork()
if child == 0:
    print("child", monque.is_healthy())
    {in_child}
    print("child", monque.is_healthy(), flush=True)
    {leave}
assert os.waitpid(child, 0)[1] == 0
for _ in range(20):
    monque.now("parent")
print("parent", monque.is_healthy(), [thread.name for thread in threading.enumerate()].count("monque"))
monque.close()
"""


@pytest.mark.parametrize("leave", ["os._exit(0)", "sys.exit()", "monque.close(); sys.exit()"])
def test_a_child_gets_a_connection_of_its_own_and_the_parents_goes_on(
    monque_uri: str, monque_database: Database[dict[str, Any]], leave: str
) -> None:
    source = FORK.format(in_child='monque.now("child")', leave=leave)
    assert run(source, monque_uri) == ["child False", "child True", "parent True 1"]
    assert names(monque_database) == ["child"] + ["parent"] * 21


def test_a_child_that_does_not_use_it_can_end_as_any(monque_uri: str) -> None:
    source = FORK.format(in_child="pass", leave="sys.exit()")
    assert run(source, monque_uri) == ["child False", "child False", "parent True 1"]


def test_a_fork_while_another_thread_holds_everything_does_no_harm(
    monque_uri: str, monque_database: Database[dict[str, Any]]
) -> None:
    source = """
monque.initialize()
portal = monque._link.portal()
with monque._link._lock(), portal._lock:
    child = os.fork()
    if child == 0:
        thread = threading.Thread(target=monque.now, args=["child"])
        thread.start()
        thread.join(30)
        sys.exit()
assert os.waitpid(child, 0)[1] == 0
monque.close()
"""
    run(source, monque_uri)
    assert names(monque_database) == ["child"]


def test_the_processes_of_multiprocessing_share_an_object(
    monque_uri: str, monque_database: Database[dict[str, Any]]
) -> None:
    source = """
def enqueue(number):
    return [monque.now("child").name for _ in range(5)] and os.getpid()

monque.now("parent")
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert os.getpid() not in pool.map(enqueue, range(9), chunksize=1)
    # Without it the block ends by SIGTERM; a process that has a handler for that, as when coverage is measured, may
    # miss it just before it waits for more to do, and be waited for in vain.
    pool.close()
    pool.join()
monque.now("parent")
monque.close()
"""
    run(source, monque_uri)
    assert names(monque_database) == ["child"] * 45 + ["parent"] * 2


def test_workers_and_listeners_are_those_of_the_parent(monque_uri: str) -> None:
    source = """
@monque.worker("work")
async def work(job: Job) -> None:
    print("work in the", "parent" if os.getpid() == parent else "child", flush=True)

parent = os.getpid()
completed = threading.Event()
monque.on("job:complete", lambda event: completed.set())
monque.initialize()
if os.fork() == 0:
    monque.start()
    monque.now("work")
    assert completed.wait(30)
    monque.close()
    sys.exit()
assert os.wait()[1] == 0
assert not completed.is_set()
monque.close()
"""
    assert run(source, monque_uri) == ["work in the child"]


def test_an_embedded_server_serves_parent_and_child(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("MONQUE_URI", raising=False)
    source = """
monque = Monque()
job = monque.now("parent")
if os.fork() == 0:
    print(monque.jobs.get(job.id) == job)
    monque.close()
    sys.exit()
assert os.wait()[1] == 0
print(monque.jobs.get(job.id) == job)
monque.close()
"""
    assert run(source, "mongodb://unused") == ["True", "True"]


# --- the end of the process -----------------------------------------------------------------------------------------


def test_a_program_that_does_not_close_it_ends_like_any_other(
    monque_uri: str, monque_database: Database[dict[str, Any]]
) -> None:
    assert run('monque.now("work")\nprint("end")', monque_uri) == ["end"]
    assert names(monque_database) == ["work"]


def test_one_that_was_closed_and_used_again_does_so_too(monque_uri: str) -> None:
    run('monque.now("work")\nmonque.close()\nmonque.now("work")\nmonque.close()\nmonque.now("work")', monque_uri)


def test_a_program_that_still_works_gives_its_jobs_back(
    monque_uri: str, monque_database: Database[dict[str, Any]]
) -> None:
    source = """
import asyncio

@monque.worker("endless")
async def endless(job: Job) -> None:
    begun.set()
    await asyncio.Event().wait()

begun = threading.Event()
connected = threading.Event()
monque.on("changestream:connected", lambda event: connected.set())
monque.now("endless")
monque.start()
assert begun.wait(30) and connected.wait(30)
"""
    with program(source, monque_uri) as process:
        assert ended(process) == 0
    assert [row["status"] for row in monque_database["monque_jobs"].find()] == ["pending"]


# --- signals --------------------------------------------------------------------------------------------------------

WORK = """
import asyncio

@monque.worker("slow")
async def slow(job: Job) -> None:
    print("begun", flush=True)
    try:
        while not monque._link.inner._connected.engine.is_stopping:
            await asyncio.sleep(0.01)
        print("stopping", flush=True)
        while {forever}:
            await asyncio.sleep(0.01)
        print("ended", flush=True)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

monque.now("slow")
{then}
before = signal.getsignal(signal.SIGTERM)
monque.run()
print(monque.is_healthy(), signal.getsignal(signal.SIGTERM) is before)
"""


@pytest.mark.parametrize(
    ("number", "then", "healthy"),
    [(signal.SIGTERM, "pass", True), (signal.SIGINT, "pass", True), (signal.SIGTERM, "monque.close()", False)],
    ids=["SIGTERM", "SIGINT", "not connected before"],
)
def test_a_signal_lets_what_runs_finish(
    monque_uri: str, monque_database: Database[dict[str, Any]], number: signal.Signals, then: str, healthy: bool
) -> None:
    with program(WORK.format(forever=False, then=then), monque_uri) as process:
        eventually(lambda: process.has_said("begun\n"), timeout=60)
        process.send(number)
        ended(process)
    assert (process.exit_code, process.errors) == (0, "")
    assert process.output.splitlines() == ["begun", "stopping", "ended", f"{healthy} True"]
    assert [row["status"] for row in monque_database["monque_jobs"].find()] == ["completed"]


def test_a_second_signal_hurries(monque_uri: str, monque_database: Database[dict[str, Any]]) -> None:
    with program(WORK.format(forever=True, then="pass"), monque_uri) as process:
        eventually(lambda: process.has_said("begun\n"), timeout=60)
        process.terminate()
        eventually(lambda: process.has_said("stopping\n"), timeout=60)
        process.terminate()
        assert ended(process) == 0
    assert process.output.splitlines() == ["begun", "stopping", "cancelled", "True True"]
    assert [row["status"] for row in monque_database["monque_jobs"].find()] == ["pending"]


def test_ctrl_c_gets_out_of_a_call_that_waits_and_the_program_can_end(monque_uri: str) -> None:
    source = """
def interrupt():
    while not monque._link.inner._opening.locked():
        time.sleep(0.01)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # not ignored, as in the background of a shell
monque = Monque("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=600000")
threading.Thread(target=interrupt).start()
try:
    monque.now("work")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with program(source, monque_uri) as process:
        ended(process)
    assert (process.exit_code, process.output) == (0, "interrupted\n")
