"""What became of every job of the soak: its entries are held against what was asked for, and then both are deleted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from _soak_programs import CRON, CRON_SECONDS, MAX_RETRIES, RUNS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from _common import Document
    from pymongo.asynchronous.database import AsyncDatabase

ENDED = ("completed", "failed", "cancelled")
# So that what counts jobs by their status sees some.
_SETTLED_FOR = timedelta(seconds=2)
_AT_ONCE = 5000


@dataclass
class Account:
    """What was asked for, and what came of it.

    Attributes:
        announced: Ids of jobs whose `enqueue` call returned.
        accounted: Ids of jobs that have ended.
        killed: The labels of the processes that were killed.
        statuses: How the jobs ended.
        runs: How often handlers were entered.
        again: Jobs that ran once more because a process was killed.
        wrong: What should not have happened, in words.
        late: Milliseconds by which first runs began late, since this was last asked for.
        ticks: Who ran the cron job, by occurrence.
    """

    announced: set[str] = field(default_factory=set[str])
    accounted: set[str] = field(default_factory=set[str])
    killed: set[str] = field(default_factory=set[str])
    statuses: Counter[str] = field(default_factory=Counter[str])
    runs: int = 0
    again: int = 0
    wrong: list[str] = field(default_factory=list[str])
    late: list[float] = field(default_factory=list[float])
    ticks: dict[datetime, list[str]] = field(default_factory=dict[datetime, list[str]])

    @property
    def lost(self) -> set[str]:
        """Jobs that were enqueued, and of whose end nothing is known."""
        return self.announced - self.accounted

    @property
    def missed(self) -> int:
        """Occurrences of the cron job between the first and the last that did not run."""
        if not self.ticks:
            return 0
        whole = (max(self.ticks) - min(self.ticks)) / timedelta(seconds=CRON_SECONDS) + 1
        return round(whole) - len(self.ticks)

    def judge(self, job: Document, entries: Sequence[Document]) -> None:
        """A job has ended: was it right, and was it run as often as it should have been?"""
        self.accounted.add(str(job["_id"]))
        self.statuses[job["status"]] += 1
        self.runs += len(entries)
        wanted = RUNS[job["name"]]
        touched = any(entry["by"] in self.killed for entry in entries)
        self.again += touched and len(entries) > wanted
        # A claim that died with its process before the handler was entered spends an attempt, and leaves no entry.
        spent = bool(self.killed) and job["attempts"] >= MAX_RETRIES and 0 < len(entries) < wanted
        if job["status"] != ("failed" if job["name"] == "hopeless" else "completed"):
            self.wrong.append(f"{job['name']} {job['_id']} {job['status']}: {job.get('failReason')}")
        elif len(entries) != wanted and not (touched and entries) and not spent:
            self.wrong.append(f"{job['name']} {job['_id']} was run {len(entries)} times by {_by(entries)}")

    def judge_ticks(self) -> None:
        """An occurrence runs once, unless the process that ran it was killed."""
        for due, by in self.ticks.items():
            if len([label for label in by if label not in self.killed]) > 1:
                self.wrong.append(f"{CRON} of {due} was run {len(by)} times by {by}")


def _by(entries: Sequence[Document]) -> list[str]:
    return [entry["by"] for entry in entries]


class Books:
    """The account, and the collections it is made from, which are kept small."""

    def __init__(self, database: AsyncDatabase[Document]) -> None:
        self.account = Account()
        self._jobs = database["monque_jobs"]
        self._entries = database["entries"]

    async def open(self) -> None:
        await self._entries.create_index([("job", 1)])

    async def balance(self, *, final: bool = False) -> int:
        """Judge the jobs that have ended by now, and delete them and their entries; how many there were."""
        await self._note_ticks()
        query: Document = {"status": {"$in": ENDED}}
        if not final:
            query["updatedAt"] = {"$lt": datetime.now(UTC) - _SETTLED_FOR}
        jobs = await self._jobs.find(query, limit=_AT_ONCE).to_list()
        of_job: dict[Any, list[Document]] = {job["_id"]: [] for job in jobs}
        async for entry in self._entries.find({"job": {"$in": list(of_job)}}):
            of_job[entry["job"]].append(entry)
        for job in jobs:
            self.account.judge(job, of_job[job["_id"]])
            self.account.late += [entry["late"] for entry in of_job[job["_id"]] if entry["attempt"] == 1]
        await self._jobs.delete_many({"_id": {"$in": list(of_job)}})
        await self._entries.delete_many({"job": {"$in": list(of_job)}})
        return len(jobs)

    async def _note_ticks(self) -> None:
        ticks = await self._entries.find({"kind": CRON}).to_list()
        for tick in ticks:
            self.account.ticks.setdefault(tick["due"], []).append(tick["by"])
        await self._entries.delete_many({"_id": {"$in": [tick["_id"] for tick in ticks]}})
        self.account.runs += len(ticks)

    async def left(self) -> int:
        """Jobs that have not ended, but for the one that never does."""
        return await self._jobs.count_documents({"status": {"$nin": ENDED}, "name": {"$ne": CRON}})

    async def counts(self) -> dict[str, int]:
        """How many jobs there are by status."""
        groups = await self._jobs.aggregate([{"$group": {"_id": "$status", "jobs": {"$sum": 1}}}])
        return {group["_id"]: group["jobs"] async for group in groups}

    def latencies(self) -> list[float]:
        """How late the first runs began of the jobs judged since this was last asked for."""
        late, self.account.late = self.account.late, []
        return late
