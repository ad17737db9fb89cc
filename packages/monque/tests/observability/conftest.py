from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from .support import Telemetry


@pytest.fixture
def telemetry() -> Telemetry:
    """What instances that are instrumented with it have told."""
    return Telemetry()


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of handlers, by a name under which other processes find it, too."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])
    return import_module("traced_handlers")
