"""What the soak looks at: processes as /proc shows them, the server as it shows itself. Linux only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from _common import Document, percentile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _soak_account import Books
    from pymongo import AsyncMongoClient

_TICKS = os.sysconf("SC_CLK_TCK")


class Process(TypedDict):
    """What one process has at a moment: megabytes, open files, and seconds of a processor so far."""

    label: str
    rss_mb: float
    files: int
    cpu_s: float


class Sample(TypedDict):
    """What there is at a moment.

    `at` is in seconds since the start; `p50_ms` and `p99_ms` say how late the runs began since the sample before,
    None if there were none.
    """

    at: float
    processes: dict[str, Process]
    connections: int
    p50_ms: float | None
    p99_ms: float | None
    jobs: dict[str, int]


def process(pid: int, label: str) -> Process | None:
    """What /proc says; None if it has ended, or is somebody else's."""
    place = Path("/proc", str(pid))
    try:
        # After the name, which is in brackets and may have any characters in it.
        stat = (place / "stat").read_text().rpartition(")")[2].split()
        pages = int((place / "statm").read_text().split()[1])
        files = len(list((place / "fd").iterdir()))
    except OSError:
        return None
    if not pages:
        return None  # killed, and not buried yet
    rss = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return {
        "label": label,
        "rss_mb": round(rss, 2),
        "files": files,
        "cpu_s": (int(stat[11]) + int(stat[12])) / _TICKS,
    }


def mongod_pid(status: Mapping[str, Any]) -> int | None:
    """The server's process, if it is on this machine."""
    pid = int(status["pid"])
    try:
        name = Path("/proc", str(pid), "comm").read_text().strip()
    except OSError:
        return None
    return pid if name == status["process"] == "mongod" else None


async def sample(
    client: AsyncMongoClient[Document], books: Books, pids: Mapping[str, tuple[int, str]], at: float
) -> Sample:
    """Look at everything; `pids` has the process and the label of each worker by its place."""
    status = await client.admin.command("serverStatus")
    server = mongod_pid(status)
    looked_at = {**pids, **({} if server is None else {"mongod": (server, "mongod")})}
    processes = {place: process(pid, label) for place, (pid, label) in looked_at.items()}
    late = books.latencies()
    return {
        "at": round(at, 1),
        "processes": {place: found for place, found in processes.items() if found is not None},
        "connections": status["connections"]["current"],
        "p50_ms": round(percentile(late, 0.5), 1) if late else None,
        "p99_ms": round(percentile(late, 0.99), 1) if late else None,
        "jobs": await books.counts(),
    }
