from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from monque import Monque, Options, Retry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@pytest.fixture
async def monque(monque_uri: str) -> AsyncGenerator[Monque]:
    async with Monque(monque_uri, Options(retry=Retry(max_retries=3))) as monque:
        yield monque
