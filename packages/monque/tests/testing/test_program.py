from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from monque import InvalidArgumentError, JobStatus, Monque, MonqueError
from monque.testing import Program, assert_enqueued, drain, eventually, expire_leases, sync

if TYPE_CHECKING:
    from pathlib import Path

    from pymongo.database import Database

PATIENCE = 60.0
ECHO = """
import sys
print("ready", flush=True)
for line in sys.stdin:
    print("heard", line, end="", flush=True)
"""
WORKER = """
import asyncio
from monque import Lease, Monque, Options
monque = Monque(options=Options(lease=Lease(timeout=0.9)))

@monque.worker("slow")
async def slow(job):
    print("running", flush=True)
    await asyncio.sleep(job.data.get("seconds", 600))

asyncio.run(monque.run())
"""


async def test_what_it_says_and_hears() -> None:
    with Program("-c", ECHO) as program:
        await eventually(lambda: program.has_said("ready"), timeout=PATIENCE)
        assert not program.has_said("heard you")
        program.tell("you")
        await eventually(lambda: program.has_said("heard you\n"), timeout=PATIENCE)
        assert program.exit_code is None
        assert program.pid > 0
    assert program.exit_code == -signal.SIGKILL
    assert (program.output, program.errors) == ("ready\nheard you\n", "")
    assert program.has_said("ready")


async def test_one_that_ends_early_is_not_waited_for() -> None:
    with Program("-c", "import sys; print('hello'); sys.exit('trouble')") as program:
        with pytest.raises(AssertionError) as caught:
            await eventually(lambda: program.has_said("ready"), timeout=PATIENCE)
        program.kill()
    assert str(caught.value) == "the program ended with 1 without having said 'ready'; it said:\nhello\ntrouble\n"


def test_a_file_runs_where_and_with_what_it_is_told(tmp_path: Path) -> None:
    there, file = tmp_path.resolve(), tmp_path / "program.py"
    file.write_text("import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['MONQUE_URI'], os.environ['COLOUR'])")
    with Program(file, "x", uri="mongodb://a/b", environment={"COLOUR": "red"}, directory=tmp_path) as program:
        sync.eventually(lambda: program.exit_code == 0, timeout=PATIENCE)
    assert program.output == f"['x'] {there} mongodb://a/b red\n"


async def test_what_it_did_not_read_is_no_matter() -> None:
    with Program("-c", "import os; os.close(0); print('closed', flush=True); import time; time.sleep(600)") as program:
        await eventually(lambda: program.has_said("closed"), timeout=PATIENCE)
        with pytest.raises(BrokenPipeError):
            program.tell("hello")


async def test_it_ends_in_good_order(monque: Monque, monque_uri: str) -> None:
    with Program("-c", WORKER, uri=monque_uri) as program:
        await monque.enqueue("slow", {"seconds": 0})
        await eventually(lambda: program.has_said("running"), timeout=PATIENCE)
        program.terminate()
        await eventually(lambda: program.exit_code == 0, timeout=PATIENCE)
    await assert_enqueued(monque, "slow", status=JobStatus.COMPLETED)


async def test_one_that_is_killed_loses_its_jobs_when_their_leases_run_out(monque: Monque, monque_uri: str) -> None:
    @monque.worker("slow")
    async def slow() -> None: ...

    with Program("-c", WORKER, uri=monque_uri) as program:
        handle = await slow.enqueue()
        await eventually(lambda: program.has_said("running"), timeout=PATIENCE)
        program.kill()
    assert await expire_leases(monque) == 1
    await drain(monque)
    job = await handle.refresh()
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 2)


async def test_one_that_is_frozen_finds_out_that_it_has_lost_them(
    monque: Monque, monque_uri: str, monque_database: Database[Any]
) -> None:
    with Program("-c", WORKER, uri=monque_uri) as program:
        await monque.enqueue("slow")
        await eventually(lambda: program.has_said("running"), timeout=PATIENCE)
        program.freeze()
        await expire_leases(monque)
        monque.worker("slow", lambda: None)
        await drain(monque)
        program.thaw()
        await eventually(lambda: "lost" in program.errors, timeout=PATIENCE)
    assert monque_database.monque_jobs.count_documents({"status": "completed"}) == 1


def test_it_runs_within_a_block_only() -> None:
    with pytest.raises(MonqueError, match="does not run yet"):
        Program("-c", "").kill()
    with pytest.raises(InvalidArgumentError, match="arguments"):
        Program()
