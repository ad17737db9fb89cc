"""The worker of the demo."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from monque.cli._analysis import analyse
from monque.cli._paths import from_stored

if TYPE_CHECKING:
    from pymongo.asynchronous.collection import AsyncCollection

    from monque import Job


class Analyst:
    """Runs the jobs.

    Args:
        results: Where what they find out goes.
    """

    def __init__(self, results: AsyncCollection[dict[str, Any]]) -> None:
        self._results = results

    async def handle(self, job: Job[Any]) -> None:
        """Analyse the file of `job` and store the result."""
        began = time.perf_counter()
        found = await asyncio.to_thread(analyse, from_stored(job.data["path"]))
        ms = round((time.perf_counter() - began) * 1000, 3)
        # A job can run more than once, after a crash for instance; the second time changes nothing.
        result = {"path": job.data["path"], **asdict(found), "ms": ms}
        await self._results.update_one({"_id": job.id}, {"$setOnInsert": result}, upsert=True)
