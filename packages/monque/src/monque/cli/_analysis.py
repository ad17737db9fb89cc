"""What a job of the demo does with its file. Nothing here knows of jobs."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import stat
import threading
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

# The fields of a syntax tree's nodes that hold statements, or what holds statements in turn.
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is in a Python file.

    Attributes:
        lines: Lines of text.
        functions: Functions and methods, plain and async.
        classes: Classes.
        sha256: Hash of the content, in hexadecimal.
        bytes: Size of the content.
    """

    lines: int
    functions: int
    classes: int
    sha256: str
    bytes: int


def find_files(root: Path, *, leave_out: Collection[str] = ()) -> list[Path]:
    """The Python files in and below `root`, or `root` itself if it is a file; in order.

    Args:
        root: A directory or a file.
        leave_out: Names of directories not to look into.
    """
    return sorted(_walk(root, leave_out)) if root.is_dir() else [root]


def _walk(root: Path, leave_out: Collection[str]) -> Generator[Path]:
    for directory, children, names in os.walk(root):
        children[:] = [child for child in children if child not in leave_out]
        yield from (Path(directory, name) for name in names if name.endswith(".py"))


# Python 3.11 counts how deep it is in one place for all threads, and gives up trees it has lost count of (SystemError).
_parsing = threading.Lock()


def analyse(path: Path) -> Analysis:
    """Read a file, decode it by its coding cookie, parse it and count.

    Raises:
        OSError: It cannot be read.
        SyntaxError: It is not Python, or its coding cookie is wrong.
        ValueError: It cannot be decoded or parsed.
    """
    content = _read(path)
    text = _decode(content)
    with _parsing:
        tree = ast.parse(text, filename=path.name)
    kinds = Counter(type(statement) for statement in _statements(tree))
    return Analysis(
        lines=text.count("\n") + (not text.endswith("\n") and text != ""),
        functions=kinds[ast.FunctionDef] + kinds[ast.AsyncFunctionDef],
        classes=kinds[ast.ClassDef],
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
    )


def _statements(tree: ast.AST) -> Generator[ast.AST]:
    """The statements in `tree`; leaving out expressions makes it several times as fast as `ast.walk`."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in _BLOCKS:
            waiting += getattr(node, field, ())


def _read(path: Path) -> bytes:
    # Opening a named pipe would wait for a writer for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")
    return path.read_bytes()


def _decode(content: bytes) -> str:
    """The text, as `tokenize.open` would read it."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    return io.TextIOWrapper(io.BytesIO(content), encoding).read()
