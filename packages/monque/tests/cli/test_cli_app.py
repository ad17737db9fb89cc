from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from monque.cli._app import _end_with
from monque.cli._app import run as app
from monque.errors import MonqueError

if TYPE_CHECKING:
    from collections.abc import Callable

MONQUE = str(Path(sys.executable).with_name("monque"))


def test_the_version_and_the_help_with_examples(capsys: Any) -> None:
    assert [app(arguments) for arguments in (["--version"], ["--help"], ["demo", "--help"], [])] == [0] * 4
    said = capsys.readouterr().out
    assert said.startswith("0.1.0\n")
    assert "monque demo --json" in said
    assert "--concurrency" in said


def test_notes_and_lines_of_an_error_become_one_line(capsys: Any) -> None:
    error = MonqueError("first\n  second\n     ^\nat mongodb://user:secret@host/")
    error.add_note("2 jobs are stored")
    assert _end_with(error) == 1
    assert capsys.readouterr().err == "monque: first; second; at mongodb://***@host/; 2 jobs are stored\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(capsys: Any, shell: str) -> None:
    assert app(["completion", shell]) == 0
    assert "run-now" in capsys.readouterr().out


def test_whoever_reads_may_have_seen_enough(environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as out:  # noqa: PTH123  a descriptor
        done = subprocess.run(
            [MONQUE, "completion", "bash"], stdout=out, stderr=subprocess.PIPE, env=environment, check=False
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_it_is_a_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "monque", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "0.1.0\n"


@pytest.mark.parametrize("arguments", [["demo", "--nonsense"], ["demo", "--concurrency", "0"], ["nonsense"]])
def test_wrong_arguments_end_with_2(capsys: Any, arguments: list[str]) -> None:
    assert app(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert arguments[-1].lstrip("-") in said.err.replace("\n", "")


@pytest.mark.parametrize("package", ["cyclopts", "rich"])
def test_without_its_packages_it_says_what_to_install(package: str) -> None:
    done = _run_without(package)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert 'pip install "monque[cli]"' in done.stderr


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    done = _run_without("monque.cli.demo")
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install" not in done.stderr


def _run_without(module: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.modules[{module!r}] = None; from monque.cli import main; sys.exit(main())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("uri", "code"),
    [("mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=100", 1), ("http://user:secret@127.0.0.1/", 2)],
)
def test_an_error_is_one_line_without_secrets(run: Callable[..., Any], tree: Path, uri: str, code: int) -> None:
    done = run("demo", tree, "--uri", uri)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert done.err.startswith("monque: ")
    assert "secret" not in done.err
