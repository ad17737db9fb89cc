# pyright: strict
"""Ways to wait in a test."""

from __future__ import annotations

from typing import assert_type

from monque.testing import eventually


async def is_done() -> bool:
    return True


async def wait(seen: list[str]) -> None:
    assert_type(await eventually(is_done), bool)
    assert_type(await eventually(lambda: seen), list[str])
