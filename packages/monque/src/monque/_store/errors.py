"""Where the driver's errors become ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pymongo.errors import PyMongoError

from monque.errors import ConnectionError

if TYPE_CHECKING:
    from collections.abc import Generator

    from pymongo.asynchronous.client_session import AsyncClientSession


@contextmanager
def driver_errors(action: str, session: AsyncClientSession | None = None) -> Generator[None]:
    """Turn the driver's errors into ours; those in a session stay, since `with_transaction` goes by their labels."""
    try:
        yield
    except PyMongoError as error:
        if session is not None:
            raise
        raise ConnectionError(f"cannot {action}: {error}") from error
