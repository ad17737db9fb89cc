from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pymongo.asynchronous.database import AsyncDatabase


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def database(monque_uri: str) -> AsyncGenerator[AsyncDatabase[dict[str, Any]]]:
    async with AsyncMongoClient[dict[str, Any]](monque_uri, tz_aware=True) as client:
        yield client.get_default_database()
