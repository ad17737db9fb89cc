"""File names on their way through the database: BSON's strings are Unicode, those of file systems need not be."""

from __future__ import annotations

import os
from pathlib import Path


def to_stored(path: Path) -> str | bytes:
    """What is stored for `path`: text where that is possible."""
    try:
        return str(path).encode() and str(path)
    except UnicodeEncodeError:
        return os.fsencode(path)


def from_stored(stored: str | bytes) -> Path:
    """The path again."""
    return Path(os.fsdecode(stored))


def shown(stored: str | bytes, root: Path) -> str:
    """The path for people: relative to `root`, and always printable as UTF-8."""
    path = from_stored(stored)
    short = path.relative_to(root) if path.is_relative_to(root) else path
    return os.fsencode(short).decode(errors="backslashreplace")
