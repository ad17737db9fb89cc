"""Somebody drops the collection, or its indexes, while instances are at work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from monque import Polling, Retention
from monque._store import indexes
from monque.testing import eventually

from .support import Gate, working

if TYPE_CHECKING:
    from .support import Bench

NAMES = {"_id_", *(indexes.name_of(model) for model in (*indexes.models(), indexes.expiry()))}


@pytest.mark.parametrize("drops", ["the collection", "its indexes"])
async def test_it_goes_on_with_indexes_made_anew(bench: Bench, drops: str) -> None:
    monque = bench.monque(retention=Retention(completed=3600), polling=Polling(interval=0.1, safety=0.1))
    done = Gate()
    done.open()
    monque.worker("work", done)
    async with working(monque):
        await monque.enqueue("work")
        await eventually(lambda: len(done.ended) == 1)
        if drops == "the collection":
            bench.jobs.drop()
        else:
            bench.jobs.drop_indexes()
        await monque.enqueue("work", unique_key="k")
        await eventually(lambda: len(done.ended) == 2)
        await eventually(lambda: set(bench.jobs.index_information()) == NAMES)
        await monque.enqueue("work", {"after": True})
        await eventually(lambda: len(done.ended) == 3)
