"""What people ask about jobs, of a collection of millions: what each question costs the server.

Makes the collection, asks through `Monque.jobs`, and has the server explain each command that went there.
"""

from __future__ import annotations

import asyncio
import json
import platform
import sys
import time
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from _common import Document, Row, scratch, server, table
from _queries_data import NAMES, fill
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import AsyncMongoClient
from pymongo.monitoring import CommandListener

from monque import JobFilter, JobStatus, Monque, MonqueError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent

    from monque import Jobs, Page
    from monque._store.paging import JobOrder

_OF_THE_SESSION = {"$db", "lsid", "$clusterTime", "txnNumber", "readConcern", "writeConcern", "$readPreference"}
_DEEP = 50
# The plans tell of dates beyond Python's.
_CODEC = CodecOptions[Document](datetime_conversion=DatetimeConversion.DATETIME_AUTO)
Question = tuple[str, "Callable[[], Awaitable[object]]"]


class Heard(CommandListener):
    """The questions that went to the server."""

    def __init__(self) -> None:
        self.commands: list[Document] = []

    def started(self, event: CommandStartedEvent) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        if event.command_name in ("find", "aggregate", "count"):
            self.commands.append({k: v for k, v in event.command.items() if k not in _OF_THE_SESSION})

    def succeeded(self, event: CommandSucceededEvent) -> None:  # type: ignore[explicit-override]  # likewise
        pass

    def failed(self, event: CommandFailedEvent) -> None:  # type: ignore[explicit-override]  # likewise
        pass


class Cost(NamedTuple):
    """What the server did for one command."""

    milliseconds: int
    keys: int
    documents: int


async def explained(database: AsyncDatabase[Document], command: Document) -> Cost:
    """What the server does for a command, done once more."""
    plain = {key: value for key, value in command.items() if key != "maxTimeMS"}
    answer = await database.command({"explain": plain, "verbosity": "executionStats"}, codec_options=_CODEC)
    stats = [part["executionStats"] for part in _parts(answer) if "executionStats" in part]
    return Cost(
        sum(one["executionTimeMillis"] for one in stats),
        sum(one["totalKeysExamined"] for one in stats),
        sum(one["totalDocsExamined"] for one in stats),
    )


def _parts(value: object) -> Iterator[Document]:
    if isinstance(value, dict):
        document = cast("Document", value)
        yield document
        for part in document.values():
            yield from _parts(part)
    elif isinstance(value, list):
        for part in cast("list[object]", value):
            yield from _parts(part)


def questions(jobs: Jobs, now: datetime) -> list[Question]:
    """What is asked, in words, and how."""
    name = NAMES[3]
    begin = now - timedelta(days=10)
    hour = begin + timedelta(hours=1)
    filters: dict[str, JobFilter] = {
        "all": JobFilter(),
        **{str(status): JobFilter(status=status) for status in JobStatus},
        **{f"{status}, one name": JobFilter(status=status, name=name) for status in JobStatus},
        "pending and failed": JobFilter(status=[JobStatus.PENDING, JobStatus.FAILED]),
        "completed and failed": JobFilter(status=[JobStatus.COMPLETED, JobStatus.FAILED]),
        "one name": JobFilter(name=name),
        "a tag of few": JobFilter(tags="customer-7"),
        "a tag of many": JobFilter(tags="eu"),
        "a tag of many, failed": JobFilter(tags="eu", status=JobStatus.FAILED),
        "a tag of many and one of few": JobFilter(tags=["eu", "customer-7"]),
        "a unique key": JobFilter(name=NAMES[:5], unique_key="key-500"),
        "created in one hour": JobFilter(created_from=begin, created_until=hour),
        "failed, created in one hour": JobFilter(created_from=begin, created_until=hour, status=JobStatus.FAILED),
        "changed in one hour": JobFilter(updated_from=begin, updated_until=hour),
        "completed, changed in one hour": JobFilter(updated_from=begin, updated_until=hour, status=JobStatus.COMPLETED),
        "failed with a text that is common": JobFilter(status=JobStatus.FAILED, error="no answer"),
        "failed with a text that is nowhere": JobFilter(status=JobStatus.FAILED, error="nowhere"),
        "a text that is nowhere": JobFilter(error="nowhere"),
    }
    ordered: list[tuple[str, JobOrder]] = [
        ("all", "created"),
        ("pending", "-created"),
        ("pending, one name", "-created"),
        ("pending", "-due"),
        ("completed", "-created"),
        ("completed", "updated"),
        ("failed", "-created"),
        ("failed, one name", "-created"),
        ("completed and failed", "-created"),
        ("a tag of many, failed", "-created"),
        ("failed with a text that is nowhere", "-created"),
    ]
    counted = ["all", "pending", "completed", "failed", "one name", "created in one hour", "a tag of many, failed"]
    few = JobFilter(status=[JobStatus.PENDING, JobStatus.PROCESSING, JobStatus.FAILED])
    return [
        *((f"page, {words}", partial(jobs.page, filter_)) for words, filter_ in filters.items()),
        *((f"page, {words}, {order}", partial(jobs.page, filters[words], order=order)) for words, order in ordered),
        *((f"page {_DEEP}, {words}", partial(_deep, jobs, filters[words])) for words in ("all", "completed", "failed")),
        (f"page {_DEEP}, completed, -created", partial(_deep, jobs, filters["completed"], "-created")),
        (
            "list, failed with a text that is nowhere",
            partial(_found, jobs, filters["failed with a text that is nowhere"]),
        ),
        *((f"count to 10,000, {words}", partial(jobs.count, filters[words], limit=10_000)) for words in counted),
        *((f"count, {words}", partial(jobs.count, filters[words], timeout=60)) for words in counted),
        ("stats", jobs.stats),
        ("stats, pending, processing, failed", partial(jobs.stats, few)),
        ("stats, one name", partial(jobs.stats, JobFilter(name=name))),
        ("stats, a tag of many", partial(jobs.stats, filters["a tag of many"])),
        ("stats, a text that is nowhere", partial(jobs.stats, filters["a text that is nowhere"])),
        ("stats, exact", partial(jobs.stats, limit=None, timeout=60)),
    ]


async def _found(jobs: Jobs, filter_: JobFilter) -> int:
    return len(await jobs.find(filter_, limit=50))


async def _deep(jobs: Jobs, filter_: JobFilter, order: JobOrder | None = None) -> Page:
    """A page far from the first; only this one is measured."""
    page = await jobs.page(filter_, order=order)
    for _ in range(_DEEP - 2):
        if page.next is None:
            break
        page = await jobs.page(filter_, order=order, cursor=page.next)
    _HEARD.commands.clear()
    return await jobs.page(filter_, order=order, cursor=page.next)


_HEARD = Heard()


async def ask(database: AsyncDatabase[Document], question: Question) -> Row:
    """Ask a question, and see what it cost."""
    words, asking = question
    _HEARD.commands.clear()
    begun = time.perf_counter()
    try:
        answer = await asking()
    except MonqueError as error:
        answer = type(error).__name__
    took = time.perf_counter() - begun
    costs = [await explained(database, command) for command in _HEARD.commands]
    return {
        "question": words,
        "server ms": sum(cost.milliseconds for cost in costs),
        "longest": max((cost.milliseconds for cost in costs), default=0),
        "commands": len(costs),
        "keys": sum(cost.keys for cost in costs),
        "documents": sum(cost.documents for cost in costs),
        "answer": _brief(answer),
        "call ms": round(took * 1000),
    }


def _brief(answer: Any) -> str:  # noqa: ANN401  whatever was asked
    jobs = getattr(answer, "jobs", None)
    if jobs is not None:
        return f"{len(jobs)} jobs"
    return str(answer) if isinstance(answer, int | str) else f"{sum(answer.statuses.values())} counted"


async def measure(uri: str, ended: int, pending: int) -> list[Row]:
    """Make a collection, and ask everything."""
    now = datetime.now(UTC)
    async with scratch(uri) as database:
        async with Monque(database):
            pass  # makes the indexes
        begun = time.perf_counter()
        await fill(database, ended, pending, now)
        print(f"{ended + pending:,} jobs made in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
        client = AsyncMongoClient[Document](uri, tz_aware=True, event_listeners=[_HEARD])
        async with client, Monque(client[database.name]) as monque:
            asked = questions(monque.jobs, now)
            # Once for the caches, once to see.
            for question in asked:
                await ask(database, question)
            return [await ask(database, question) for question in asked]


async def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--ended", type=int, default=4_950_000, help="how many jobs have ended")
    parser.add_argument("--pending", type=int, default=50_000, help="how many are pending")
    parser.add_argument("--uri", help="the server; an embedded one if it is left out")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    async with server(arguments.uri) as uri:
        rows = await measure(uri, arguments.ended, arguments.pending)
    print("\n".join(table(rows)))
    if arguments.json:
        about = {"machine": platform.platform(), "ended": arguments.ended, "pending": arguments.pending}
        arguments.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
