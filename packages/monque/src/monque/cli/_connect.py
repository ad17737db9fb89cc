"""From what was said about the server to a Monque that is connected to it."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from monque import Monque, Options
from monque.cli._options import check_uri

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from monque.cli._options import Server


@asynccontextmanager
async def connected(server: Server, *, makes_jobs: bool = False) -> AsyncGenerator[Monque]:
    """Monque on that server, without workers.

    Args:
        server: Where.
        makes_jobs: Whether jobs are enqueued. Who only looks creates no collection by misspelling its name.

    Raises:
        UsageError: The URI is none.
        MonqueError: The database cannot be used.
    """
    check_uri(server.uri)
    # A command's errors are its one line on stderr; without a handler Python would add what the logger says.
    logging.getLogger("monque").addHandler(logging.NullHandler())
    options = Options(collection=server.collection, create_indexes=makes_jobs)
    async with Monque(server.uri or None, options) as monque:
        yield monque
