"""What the benchmarks share: a server, places to work in, and a way to tell what came out."""

from __future__ import annotations

import json
import platform
import statistics
import uuid
from argparse import ArgumentParser
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pymongo import AsyncMongoClient

from monque.embedded import EmbeddedMongoDB

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from pymongo.asynchronous.database import AsyncDatabase

Document = dict[str, Any]
Row = dict[str, object]


def parser(description: str | None) -> ArgumentParser:
    made = ArgumentParser(description=description)
    made.add_argument("--uri", help="a MongoDB; by default one is started, and thrown away afterwards")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return made


@asynccontextmanager
async def server(uri: str | None) -> AsyncGenerator[str]:
    """The URI of the server to measure."""
    if uri is not None:
        yield uri
    else:
        async with EmbeddedMongoDB(ephemeral=True) as embedded:
            yield embedded.uri


@asynccontextmanager
async def scratch(uri: str) -> AsyncGenerator[AsyncDatabase[Document]]:
    """A database of this run's own."""
    async with AsyncMongoClient[Document](uri, tz_aware=True) as client:
        database = client[f"monque_benchmark_{uuid.uuid4().hex[:12]}"]
        try:
            yield database
        finally:
            await client.drop_database(database)


def spread(values: Sequence[float], digits: int = 2) -> Row:
    return {
        "median": round(statistics.median(values), digits),
        "lowest": round(min(values), digits),
        "highest": round(max(values), digits),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest of `values` that this share of them does not exceed."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def report(title: str, rows: Sequence[Row], *, as_json: bool, **settings: object) -> None:
    where = f"Python {platform.python_version()}, {platform.machine()}"
    if as_json:
        print(json.dumps({"benchmark": title, "machine": where, **settings, "rows": rows}))
        return
    print(f"{title} ({where}; " + ", ".join(f"{name} {value}" for name, value in settings.items()) + ")")
    for line in table(rows):
        print(line)


def table(rows: Sequence[Row]) -> list[str]:
    names = list(rows[0])
    cells = [names] + [[str(row[name]) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return ["  ".join(_padded(line, widths)).rstrip() for line in cells]


def _padded(line: list[str], widths: list[int]) -> list[str]:
    first, *others = line
    return [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
