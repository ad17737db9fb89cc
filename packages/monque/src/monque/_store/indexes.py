"""The indexes, few and lean: each is partial, so that a document is in none of them once it is settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo import ASCENDING, DESCENDING, IndexModel

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

CLAIM = "monque_claim"

# Highest priority first, absent (normal) after the negative ones: see `Flow._due` for what follows from that.
CLAIM_ORDER = [("priority", DESCENDING), ("nextRunAt", ASCENDING), ("_id", ASCENDING)]


def models() -> list[IndexModel]:
    """Every index Monque needs."""
    return [
        IndexModel(
            [("name", ASCENDING), *CLAIM_ORDER],
            name=CLAIM,
            partialFilterExpression={"status": "pending"},
        ),
    ]


async def create(collection: AsyncCollection[dict[str, Any]]) -> None:
    """Create those that are missing."""
    await collection.create_indexes(models())
