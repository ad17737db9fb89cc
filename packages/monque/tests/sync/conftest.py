from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from monque.sync import Monque

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture
def monque(monque_uri: str) -> Generator[Monque]:
    monque = Monque(monque_uri)
    yield monque
    monque.close()
