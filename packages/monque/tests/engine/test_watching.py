"""Watching jobs on a server that has no change streams."""

from __future__ import annotations

import pytest

from monque import ChangeStreamsUnavailableError, Monque

from .test_lessons import standalone

__all__ = ["standalone"]


async def test_a_standalone_server_has_no_changes_to_tell(standalone: str) -> None:
    async with Monque(standalone) as monque:
        with pytest.raises(ChangeStreamsUnavailableError, match="make it a replica set"):
            await anext(monque.jobs.watch())
