"""What the driver's errors mean, and where they become ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pymongo.errors import PyMongoError

from monque._store.indexes import UNIQUE_FIELDS
from monque.errors import ConnectionError

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from pymongo.asynchronous.client_session import AsyncClientSession

_DUPLICATE_KEY = 11000
# The user lacks a privilege.
NOT_ALLOWED = 13
# A document would become too large.
TOO_LARGE = (10334, 17419)


def is_key_taken(failure: Mapping[str, Any] | None) -> bool:
    """Whether a write was refused because another job has the unique key, and not by an index of the user's own."""
    return failure is not None and failure["code"] == _DUPLICATE_KEY and list(failure["keyPattern"]) == UNIQUE_FIELDS


@contextmanager
def driver_errors(action: str, session: AsyncClientSession | None = None) -> Generator[None]:
    """Turn the driver's errors into ours; those in a session stay, since `with_transaction` goes by their labels."""
    try:
        yield
    except PyMongoError as error:
        if session is not None:
            raise
        raise ConnectionError(f"cannot {action}: {error}") from error
