"""What every test of the workspace shares: the public fixtures, and a database for the examples in docstrings."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says nothing about the code: the machine may be busy.
settings.register_profile("monque", deadline=None)
settings.load_profile("monque")

# Named here and kept from loading itself (`-p no:monque`), so that it is imported once coverage is measured.
pytest_plugins = ["monque.testing.plugin"]

# Modules whose dependencies are optional are no place to look for examples where these are not installed.
_OPTIONAL = {"cyclopts": "cli", "rich": "cli"}
collect_ignore = [
    f"packages/monque/src/monque/{package}" for needs, package in _OPTIONAL.items() if find_spec(needs) is None
]

_HERE = Path(__file__).parent

# Tests start about a thousand processes of Python. Where nothing may be written beside the sources, each of them would
# compile all that it imports: that took a third of the time of all tests.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    sys.dont_write_bytecode = False
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(_HERE / "build" / "bytecode")

# Programs that import what they share as programs do; they are run by the tests beside them.
collect_ignore += ["examples/testing"]  # a project with settings of its own
collect_ignore += [
    str(file)
    for folder in ("benchmarks", "scripts")
    for file in _HERE.glob(f"{folder}/**/*.py")
    if not file.name.startswith("test_")
]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:  # noqa: ARG001  as pytest calls it
    """One more than there are processors: the tests wait, for processes and servers, more than they reckon."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def _environment_of_doctests(request: pytest.FixtureRequest) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        request.getfixturevalue("monque_environment")
        # An embedded server that an example starts is not to be the developer's own.
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        patch.setenv("XDG_DATA_HOME", str(request.getfixturevalue("tmp_path")))
