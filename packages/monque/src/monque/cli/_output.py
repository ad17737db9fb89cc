"""What commands print: tables for people at a terminal, lines with tabs elsewhere, and JSON for scripts."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from bson import ObjectId
from bson.json_util import RELAXED_JSON_OPTIONS
from bson.json_util import dumps as extended_dumps
from rich.console import Console
from rich.text import Text

from monque import JobCount
from monque.cli._times import shown_from_now
from monque.errors import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

# What users store: anything BSON holds, and so in Extended JSON. The other fields are Monque's own.
_USERS = frozenset({"data", "result"})

# Columns of a table that give way where a terminal is narrow: one is cut, the others go on in the next line.
_CUT = frozenset({"last failure"})
_FOLDED = frozenset({"name", "host", "reason", "workers"})

STYLES = {
    "pending": "yellow",
    "processing": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "dim",
    "working": "green",
    "draining": "yellow",
    "stopping": "yellow",
    "missing": "red",
}


class Output:
    """Prints what came of a command.

    Args:
        as_json: Whether stdout is for JSON documents, one a line.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False)
        self._aside = Console(stderr=True, highlight=False)

    def document(self, facts: object) -> None:
        """Print a line of JSON."""
        sys.stdout.write(json.dumps(plain(facts), ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def line(self, text: str, style: str = "") -> None:
        """Print a line for people."""
        self.console.print(Text(text, style=style), soft_wrap=True)

    def show(self, renderable: RenderableType) -> None:
        """Print something that knows how it looks."""
        self.console.print(renderable)

    def note(self, text: str) -> None:
        """Say something beside the point, on stderr, to people only."""
        if self._aside.is_terminal:
            self._aside.print(Text(text, style="dim"), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Say on stderr what went wrong."""
        self._aside.print(Text(f"monque: {redact(text)}", style="red"), soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print rows: as a table at a terminal, separated by tabs elsewhere."""
        if self.console.is_terminal:
            self.console.print(table(columns, rows))
        else:
            for row in rows:
                sys.stdout.write("\t".join(_bare(cell) for cell in row) + "\n")


def counted(jobs: int) -> str:
    """So many jobs, in words."""
    return f"{jobs:,} job" if jobs == 1 else f"{jobs:,} jobs"


def shown_number(number: float) -> str:
    """A number, with a plus if it is one of more."""
    return f"{number:,}" + "+" * (isinstance(number, JobCount) and number.at_least)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """A table for people; columns of numbers are to the right."""
    from rich.table import Table

    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    cells = list(rows)
    now = datetime.now(UTC)
    for number, column in enumerate(columns):
        is_number = bool(cells) and all(isinstance(row[number], int | float | None) for row in cells)
        drawn.add_column(
            column,
            justify="right" if is_number else "left",
            overflow="ellipsis" if column in _CUT else "fold",
            no_wrap=column not in _CUT | _FOLDED,
        )
    for row in cells:
        shown = [_shown(cell, now) for cell in row]
        for column, text in zip(columns, shown, strict=True):
            text.no_wrap = column in _CUT or None
        drawn.add_row(*shown)
    return drawn


def _shown(cell: object, now: datetime) -> Text:
    if isinstance(cell, datetime):
        return Text(shown_from_now(cell, now))
    if isinstance(cell, int | float):
        return Text(shown_number(cell))
    text = "" if cell is None else str(cell)
    return Text(text, style=STYLES.get(text, ""))


def _bare(cell: object) -> str:
    """A cell for scripts: without what would break the line."""
    if isinstance(cell, datetime):
        return str(plain(cell))
    if isinstance(cell, JobCount) and cell.at_least:
        return f"{cell}+"
    return "" if cell is None else " ".join(str(cell).split())


def plain(value: object) -> Any:  # noqa: ANN401  whatever JSON holds
    """Monque's own values as JSON has them: names as in Python, times in ISO 8601, unset fields left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _field(field.name, content)
            for field in fields(value)
            if (content := getattr(value, field.name)) is not None
        }
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, ObjectId):
        return str(value)
    if isinstance(value, Exception):
        return redact(str(value))
    return _collection(value)


def _collection(value: Any) -> Any:  # noqa: ANN401  whatever it is
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value)
        return {"" if name is None else str(plain(name)): plain(content) for name, content in items.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in cast("Iterable[object]", value)]
    return value


def _field(name: str, content: object) -> object:
    return extended(content) if name in _USERS else plain(content)


def extended(value: object) -> Any:  # noqa: ANN401  whatever JSON holds
    """What users store, in MongoDB's relaxed Extended JSON."""
    return json.loads(extended_dumps(value, json_options=RELAXED_JSON_OPTIONS))
