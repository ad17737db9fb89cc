"""The reference is complete: every public name, option, event and field has its place on a page."""
# ruff: noqa: D103, INP001, S101

from __future__ import annotations

import importlib
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

import monque
import monque.embedded
import monque_fastapi
from monque.events import EventName
from monque.job import _FIELDS

DOCS = Path(__file__).parent
DIRECTIVE = re.compile(r"^::: (?P<name>[\w.]+)$", re.MULTILINE)
CELL = re.compile(r"^\| (?P<cell>[^|]+) \|", re.MULTILINE)
NAME = re.compile(r"`([\w:]+)`")


def page(name: str) -> str:
    return (DOCS / "reference" / f"{name}.md").read_text("utf-8")


def in_first_column(text: str) -> list[str]:
    return [name for match in CELL.finditer(text) for name in NAME.findall(match["cell"])]


def described() -> list[object]:
    """What the pages describe: objects by name, and all that is public in modules."""
    found: list[object] = []
    for file in sorted((DOCS / "reference").glob("*.md")):
        for name in DIRECTIVE.findall(file.read_text("utf-8")):
            module, _, attribute = name.rpartition(".")
            if module and hasattr(owner := importlib.import_module(module), attribute):
                found.append(getattr(owner, attribute))
            whole = getattr(monque, attribute, None) if module == "monque" else None
            found += [getattr(whole, public) for public in getattr(whole, "__all__", ())]
    return found


@pytest.mark.parametrize("module", [monque, monque.embedded, monque_fastapi])
def test_every_public_name_is_in_the_reference(module: object) -> None:
    there = described()
    names: list[str] = getattr(module, "__all__")  # noqa: B009  modules have no such attribute for type checkers
    missing = [name for name in names if not any(getattr(module, name) is thing for thing in there)]
    assert missing == [], "add `::: monque.Name` to one of the pages in docs/reference/"


def test_every_option_has_its_default_in_the_table() -> None:
    assert in_first_column(page("options")) == [option.name for option in fields(monque.Options)]


def test_every_event_is_in_the_table() -> None:
    assert sorted(in_first_column(page("events"))) == sorted(get_args(EventName))


def test_every_field_of_the_document_is_in_the_table() -> None:
    assert set(in_first_column(page("job"))) == {*_FIELDS, "settledBy", "expireAt"}


def test_every_decision_is_in_the_list() -> None:
    decisions = DOCS / "decisions"
    for file in sorted(decisions.glob("0*.md")):
        number, title = file.read_text("utf-8").split("\n", 1)[0].removeprefix("# ").split(". ", 1)
        assert f"{number}. [{title}]({file.name})" in (decisions / "index.md").read_text("utf-8")
