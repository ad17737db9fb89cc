from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
ROOT = HERE.parents[3]
PROGRAMS = sorted(HERE.glob("*/*.py"))

Lines = dict[str, set[int]]


def run(*command: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    ).stdout


def mypy(cache: Path) -> list[tuple[str, int, str]]:
    """What mypy has to say: file, line and message."""
    output = run(
        "mypy",
        "--config-file=pyproject.toml",
        "--strict",
        "--no-error-summary",
        "--no-pretty",
        f"--cache-dir={cache}",
        *map(str, PROGRAMS),
    )
    found = re.findall(r"^(.+?\.py):(\d+)(?::\d+)?: error: (.+)$", output, re.MULTILINE)
    assert found, output
    return [(name, int(line), message) for name, line, message in found]


def pyright(cache: Path) -> list[tuple[str, int, str]]:
    """What pyright has to say: file, line and message. The programs ask for its strict mode themselves."""
    # A project of its own, since that of the workspace leaves out the programs that are to be refused.
    project = cache / "pyrightconfig.json"
    project.write_text(json.dumps({"include": [os.path.relpath(HERE, cache)], "exclude": [], "pythonVersion": "3.11"}))
    output = run("pyright", "--outputjson", f"--project={project}", f"--pythonpath={sys.executable}")
    found = json.loads(output)["generalDiagnostics"]
    return [
        (entry["file"], entry["range"]["start"]["line"] + 1, entry["message"])
        for entry in found
        if entry["severity"] == "error"
    ]


def marked() -> Lines:
    """The lines that say they are to be refused."""
    return {
        f"{program.parent.name}/{program.name}": {
            number
            for number, line in enumerate(program.read_text(encoding="utf-8").splitlines(), start=1)
            if "# error: " in line
        }
        for program in PROGRAMS
    }


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_the_types_accept_and_refuse_what_they_should(
    checker: Callable[[Path], list[tuple[str, int, str]]], tmp_path: Path
) -> None:
    found = checker(tmp_path)
    refused: Lines = {name: set() for name in marked()}
    for name, line, _ in found:
        refused[f"{Path(name).parent.name}/{Path(name).name}"].add(line)
    assert refused == marked(), "\n".join(f"{name}:{line}: {message}" for name, line, message in found)


def test_only_the_programs_that_are_to_be_refused_have_marks() -> None:
    folders = {name.split("/")[0]: bool(lines) for name, lines in sorted(marked().items())}
    assert folders == {"accepted": False, "refused": True}
    assert all(lines for name, lines in marked().items() if name.startswith("refused/"))
