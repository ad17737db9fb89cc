from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from monque.embedded import EmbeddedMongoDB

from .support import Bench, Lab

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture(scope="session")
def private_server(request: pytest.FixtureRequest) -> Generator[str]:
    """A server that only this run uses: one from outside may be used by others, whom failures would hit."""
    if not os.environ.get("MONQUE_TEST_URI"):
        yield request.getfixturevalue("monque_server")
        return
    with EmbeddedMongoDB(ephemeral=True, parameters={"enableTestCommands": "1"}) as server:
        yield server.uri


@pytest.fixture
def bench(monque_server: str) -> Generator[Bench]:
    bench = Bench(monque_server)
    yield bench
    bench.close()


@pytest.fixture
def lab(private_server: str) -> Generator[Lab]:
    lab = Lab(private_server)
    yield lab
    lab.heal()
    lab.close()


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of handlers, by a name under which other processes find it, too."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    return import_module("run_handlers")
