"""Build every package, and check what was built, in environments in which there is nothing else.

uv run scripts/artefacts.py                     build into build/dist/, and check that
uv run scripts/artefacts.py --dist dist         check what is there, as it is going to be published
uv run scripts/artefacts.py --tag monque-v0.2.0   and only the package of that tag, in that version
"""

from __future__ import annotations

import argparse
import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

from _uv import uv

ROOT = Path(__file__).parent.parent
BESIDE = {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"}
# The file as it is here, where the build backend ships one that it has rewritten.
REWRITTEN = "pyproject.toml.orig"

# Imports everything of a package. What is missing may come with an extra, or with pytest, and nothing else may be.
IMPORT_ALL = """
import importlib, importlib.metadata, pkgutil, re, sys
package = sys.argv[1]
wanted = importlib.metadata.requires(sys.argv[2]) or []
optional = [re.match(r"[\\w.-]+", line)[0].lower() for line in wanted if "extra ==" in line] + ["pytest"]
top = importlib.import_module(package)
missing, found = set(), 0
for module in pkgutil.walk_packages(top.__path__, package + ".", onerror=lambda name: None):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
        found += 1
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0].replace("_", "-")
        if not any(line == name or line.startswith(name + "-") for line in optional):
            raise
        missing.add(name)
print(f"{found} modules; optional and not there: {', '.join(sorted(missing)) or 'nothing'}")
"""


class ArtefactError(Exception):
    """What was built is not what it should be."""


def main(words: list[str], root: Path = ROOT) -> None:
    """Build and check.

    Args:
        words: The command line.
        root: Where the repository is.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", type=Path, help="where the artefacts are; they are built unless given")
    parser.add_argument("--tag", help="the tag that is released")
    given = parser.parse_args(words)
    dist = given.dist.resolve() if given.dist else _build(root)
    try:
        for project in _projects(root, given.tag):
            _check(root, dist, project)
            _say(f"{project['name']} {project['version']} is fine")
    except ArtefactError as error:
        sys.exit(f"artefacts: {error}")


def _build(root: Path) -> Path:
    dist = root / "build" / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    _run(uv(), "build", "--quiet", "--all-packages", "--out-dir", str(dist), cwd=root)
    return dist


def _projects(root: Path, tag: str | None) -> list[dict[str, Any]]:
    files = sorted(root.glob("packages/*/pyproject.toml"))
    projects = [tomllib.loads(file.read_text("utf-8"))["project"] for file in files]
    if tag is None:
        return projects
    tagged = [project for project in projects if tag == f"{project['name']}-v{project['version']}"]
    if not tagged:
        there = ", ".join(f"{project['name']}-v{project['version']}" for project in projects)
        raise ArtefactError(f"the tag {tag} is no version that is here: {there}")
    return tagged


def _check(root: Path, dist: Path, project: dict[str, Any]) -> None:
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    wheel, sdist = dist / f"{stem}-py3-none-any.whl", dist / f"{stem}.tar.gz"
    for file in (wheel, sdist):
        if not file.exists():
            raise ArtefactError(f"{file.name} was not built")
    source = root / "packages" / project["name"] / "src"
    check_wheel(wheel, source, project)
    check_sdist(sdist, source)
    with tempfile.TemporaryDirectory() as folder:
        siblings = _siblings(root, dist, project)
        for number, file in enumerate((wheel, sdist)):
            _try_without_extras(Path(folder) / str(number), [str(file), *siblings], project)
        if "scripts" in project:
            _try_demo(Path(folder) / "demo", wheel)


def check_wheel(wheel: Path, source: Path, project: dict[str, Any]) -> None:
    """Check what is in a wheel: the package, all of it, with its types and its licence, and true metadata.

    Args:
        wheel: The file.
        source: Where the package's source is.
        project: The table `project` of its `pyproject.toml`.

    Raises:
        ArtefactError: Something is missing or should not be there.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        info = f"{wheel.name.rsplit('-', 3)[0]}.dist-info"
        _compare(wheel, {name for name in names if not name.startswith(f"{info}/")}, _sources(source))
        needed = {f"{info}/{name}" for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
        if not needed <= names or not any(name.endswith("/py.typed") for name in names):
            raise ArtefactError(f"{wheel.name} lacks its metadata, its licence or py.typed")
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    said = {
        "Name": project["name"],
        "Version": project["version"],
        "Summary": project["description"],
        "Requires-Python": project["requires-python"],
        "License-Expression": project["license"],
        "Description-Content-Type": "text/markdown",
    }
    for field, expected in said.items():
        if metadata[field] != expected:
            raise ArtefactError(f"{wheel.name}: {field} is {metadata[field]!r}, not {expected!r}")
    extras = set(metadata.get_all("Provides-Extra") or ())
    if extras != set(project.get("optional-dependencies", ())):
        raise ArtefactError(f"{wheel.name} has the extras {sorted(extras)}")
    if not str(metadata.get_payload()).strip():
        raise ArtefactError(f"{wheel.name} has no description")


def check_sdist(sdist: Path, source: Path) -> None:
    """Check what is in an sdist: the sources and what is needed to build them, and nothing else.

    Args:
        sdist: The file.
        source: Where the package's source is.

    Raises:
        ArtefactError: Something is missing or should not be there.
    """
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    _compare(sdist, names - {REWRITTEN}, {f"src/{name}" for name in _sources(source)} | BESIDE)


def _sources(source: Path) -> set[str]:
    return {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file() and file.suffix != ".pyc"}


def _compare(artefact: Path, there: set[str], expected: set[str]) -> None:
    if missing := expected - there:
        raise ArtefactError(f"{artefact.name} lacks {', '.join(sorted(missing))}")
    if extra := there - expected:
        raise ArtefactError(f"{artefact.name} has what should not be there: {', '.join(sorted(extra))}")


def _siblings(root: Path, dist: Path, project: dict[str, Any]) -> list[str]:
    """The wheels of the packages here that it needs: these are what it is tried with, whatever an index has."""
    needed = {re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in project.get("dependencies", ())}
    return [
        str(dist / f"{other['name'].replace('-', '_')}-{other['version']}-py3-none-any.whl")
        for other in _projects(root, None)
        if other["name"] in needed
    ]


def _try_without_extras(environment: Path, files: list[str], project: dict[str, Any]) -> None:
    python = _install(environment, *files)
    package = project["name"].replace("-", "_")
    said = _run(str(python), "-I", "-c", IMPORT_ALL, package, project["name"], cwd=environment)
    _say(f"{Path(files[0]).name}: {said}")


def _try_demo(environment: Path, wheel: Path) -> None:
    python = _install(environment, f"{wheel}[cli,embedded]")
    # Its own source will do, and its own data directory.
    package = _run(str(python), "-I", "-c", "import monque; print(*monque.__path__)", cwd=environment)
    data = {**os.environ, "XDG_DATA_HOME": str(environment / "data")}
    said = _run(str(python.with_name("monque")), "demo", "--json", package, cwd=environment, env=data)
    _say(f"{wheel.name}: the demo runs ({len(said)} characters of JSON)")


def _install(environment: Path, *files: str) -> Path:
    """Make an environment with nothing but these in it, and what they need."""
    python = environment / "bin" / "python"
    _run(uv(), "venv", "--quiet", "--python", sys.executable, str(environment), cwd=environment.parent)
    # Away from the workspace, whose settings would have a say.
    for command in (("install", *files), ("check",)):
        _run(uv(), "pip", command[0], "--quiet", "--python", str(python), *command[1:], cwd=environment)
    return python


def _run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ArtefactError(f"{' '.join(command)[:300]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
