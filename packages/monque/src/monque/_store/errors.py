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
# A document would become too large.
TOO_LARGE = (10334, 17419)
INDEX_MISSING = "an index that Monque needs is missing; `monque doctor --fix-indexes` creates it"


def is_key_taken(failure: Mapping[str, Any] | None) -> bool:
    """Whether a write was refused because another job has the unique key, and not by an index of the user's own."""
    return failure is not None and failure["code"] == _DUPLICATE_KEY and list(failure["keyPattern"]) == UNIQUE_FIELDS


def is_index_missing(error: PyMongoError) -> bool:
    """Whether a command names an index that is not there, or not built yet. There is no code for just that."""
    return "hint provided does not correspond to an existing index" in str(error)


@contextmanager
def driver_errors(action: str, session: AsyncClientSession | None = None) -> Generator[None]:
    """Turn the driver's errors into ours; those in a session stay, since `with_transaction` goes by their labels."""
    try:
        yield
    except PyMongoError as error:
        if session is not None:
            raise
        problem = INDEX_MISSING if is_index_missing(error) else error
        raise ConnectionError(f"cannot {action}: {problem}") from error
