from __future__ import annotations

import ast
import hashlib
import os
import sysconfig
import warnings
from pathlib import Path

import pytest

from monque.cli._analysis import analyse, find_files
from monque.cli._paths import from_stored, shown, to_stored


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"", 0), (b"x = 1", 1), (b"x = 1\n", 1), (b"x = 1\r\ny = 2\r\n", 2), (b"\xef\xbb\xbfx = 1\n\n", 2)],
)
def test_lines_are_counted_with_or_without_an_end(tmp_path: Path, content: bytes, lines: int) -> None:
    path = tmp_path / "file.py"
    path.write_bytes(content)
    found = analyse(path)
    assert (found.lines, found.bytes, found.sha256) == (lines, len(content), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("module", ["ast", "typing", "asyncio/base_events", "contextlib", "test/test_patma"])
def test_functions_and_classes_are_found_wherever_they_are(module: str) -> None:
    path = Path(sysconfig.get_path("stdlib"), f"{module}.py")
    if not path.exists():
        pytest.skip("this Python comes without its tests")
    found = analyse(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nodes = [type(node) for node in ast.walk(ast.parse(path.read_bytes()))]
    assert found.functions == nodes.count(ast.FunctionDef) + nodes.count(ast.AsyncFunctionDef)
    assert found.classes == nodes.count(ast.ClassDef)


def test_directories_can_be_left_out(tmp_path: Path) -> None:
    for name in ("b/x.py", "a/x.py", "site-packages/x.py", "a/x.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert find_files(tmp_path, leave_out={"site-packages"}) == [tmp_path / "a/x.py", tmp_path / "b/x.py"]
    assert len(find_files(tmp_path)) == 3


@pytest.mark.parametrize("name", [b"plain.py", "é.py".encode(), b"na\xefve.py"])
def test_every_name_survives_being_stored(name: bytes) -> None:
    path = Path(os.fsdecode(b"/root/" + name))
    assert from_stored(to_stored(path)) == path
    assert shown(to_stored(path), Path("/root")).encode()


def test_names_outside_of_the_root_are_shown_in_full() -> None:
    assert shown("/a/b.py", Path("/c")) == "/a/b.py"
