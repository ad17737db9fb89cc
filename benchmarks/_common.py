"""What the benchmarks share: a server, places to work in, and a way to tell what came out."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pymongo import AsyncMongoClient

from monque.embedded import EmbeddedMongoDB

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from pymongo.asynchronous.database import AsyncDatabase

Document = dict[str, Any]
Row = dict[str, object]


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


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest of `values` that this share of them does not exceed."""
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def table(rows: Sequence[Row]) -> list[str]:
    names = list(rows[0])
    cells = [names] + [[str(row[name]) for name in names] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return ["  ".join(_padded(line, widths)).rstrip() for line in cells]


def _padded(line: list[str], widths: list[int]) -> list[str]:
    first, *others = line
    return [first.ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
