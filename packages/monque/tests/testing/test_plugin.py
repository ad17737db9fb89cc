"""The fixtures, in projects of their own, with each of the plugins that run async tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from monque.testing.plugin import drop

if TYPE_CHECKING:
    from pymongo import MongoClient

GUIDE = Path(__file__).parents[4] / "docs/guides/testing.md"
TESTS = re.compile(r"^```python\n(import pytest\n.*?)^```$", re.DOTALL | re.MULTILINE)
# One of them cannot be imported there by 3.11 while coverage is measured.
QUIET = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
# Some releases of it warn if this is not said.
FUNCTION = ["-o", "asyncio_default_fixture_loop_scope=function"]
ANYIO = """
@pytest.fixture
def anyio_backend():
    return "asyncio"
"""
PLAIN = """
import os, subprocess, sys

def test_a_database_of_its_own(monque_server, monque_uri, monque_database, monque_environment):
    assert monque_server == os.environ["MONQUE_TEST_URI"]
    assert monque_database.name in monque_uri
    assert monque_uri == monque_environment == os.environ["MONQUE_URI"]
    monque_database.jobs.insert_one({})
"""
STRICT = """
import pytest
import pytest_asyncio
from monque import Monque
from monque.testing import drain, perform

@pytest_asyncio.fixture
async def monque(monque_uri):
    async with Monque(monque_uri) as monque:
        monque.worker("greet", lambda: "Hello")
        yield monque

@pytest.mark.asyncio
@pytest.mark.parametrize("number", [1, 2])
async def test_jobs_run(monque, number):
    assert await perform(monque, "greet") == "Hello"
    await monque.enqueue("greet")
    assert len((await drain(monque)).completed) == 1
"""


def from_the_guide() -> str:
    (source,) = TESTS.findall(GUIDE.read_text("utf-8"))
    return str(source)


@pytest.mark.parametrize(
    ("source", "options", "passed"),
    [
        (PLAIN, [*FUNCTION], 1),
        (PLAIN, ["-p", "no:anyio", "-p", "no:asyncio"], 1),
        (from_the_guide() + ANYIO, ["-p", "no:asyncio", "-o", "anyio_mode=auto"], 1),
        (from_the_guide(), ["-p", "no:anyio", "-o", "asyncio_mode=auto", *FUNCTION], 1),
        (STRICT, ["-p", "no:anyio", "-o", "asyncio_mode=strict", *FUNCTION], 2),
        (STRICT, [*FUNCTION], 2),
    ],
    ids=["both", "neither", "anyio", "asyncio, auto", "asyncio, strict", "asyncio beside anyio"],
)
def test_it_works_with(source: str, options: list[str], passed: int, tmp_path: Path, monque_server: str) -> None:
    (tmp_path / "test_program.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *QUIET, *options, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "MONQUE_TEST_URI": monque_server},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert f"{passed} passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("has_view", [False, True])
def test_nothing_is_left_of_a_database(monque_client: MongoClient[dict[str, Any]], *, has_view: bool) -> None:
    database = monque_client[f"monque_test_of_drop_{os.getpid()}"]
    database["one.a"].insert_one({})
    database.other.create_index("a")
    if has_view:
        database.create_collection("view", viewOn="other")
    drop(database)
    assert database.name not in monque_client.list_database_names()
    drop(database)


def test_the_kit_needs_no_pytest() -> None:
    source = "import sys, monque.testing, monque.testing.sync; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", source], timeout=110, check=True)
