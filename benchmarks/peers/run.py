"""Monque beside others that keep their jobs in MongoDB, on one server, in one run."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import sys
import uuid
from argparse import ArgumentParser, Namespace
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _environments import Environment, SetUpError, set_up
from _measuring import Ground, MeasuringError, Rates, lateness, throughput
from _peers import PEERS, Peer
from pymongo import AsyncMongoClient

from monque.embedded import EmbeddedMongoDB

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

Row = dict[str, Any]

# What may go wrong with one peer and does not concern the others: it says nonsense, ends, or cannot even be started.
TROUBLE = (MeasuringError, OSError, ValueError)


def arguments() -> Namespace:
    made = ArgumentParser(description=__doc__)
    made.add_argument("--uri", help="a MongoDB; by default one is started, and thrown away afterwards")
    made.add_argument("--jobs", type=int, default=10_000, help="for the fastest; slower ones get a share of them")
    made.add_argument("--repetitions", type=int, default=5)
    made.add_argument("--pick-ups", type=int, default=30, help="jobs at low load, to see how late each is; 0: none")
    made.add_argument("--patience", type=float, default=60, help="seconds that one measurement may take")
    made.add_argument("--only", nargs="+", metavar="NAME", help="some of: " + ", ".join(peer.name for peer in PEERS))
    made.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    return made.parse_args()


def chosen(names: Sequence[str] | None) -> list[Peer]:
    wanted = [name.casefold() for name in names or [peer.name for peer in PEERS]]
    unknown = set(wanted) - {peer.name.casefold() for peer in PEERS}
    if unknown:
        sys.exit(f"Not one of the peers: {', '.join(sorted(unknown))}.")
    return [peer for peer in PEERS if peer.name.casefold() in wanted]


class Measured:
    """What came out for one peer."""

    def __init__(self, peer: Peer, environment: Environment, jobs: int) -> None:
        self.peer = peer
        self.environment = environment
        self.jobs = max(1, round(jobs * peer.share))
        self.rates: list[Rates] = []
        self.late: list[float] = []

    def row(self) -> Row:
        return {
            "name": self.peer.name,
            "versions": self.rates[0].versions,
            "settings": self.peer.settings,
            "guarantee": self.peer.guarantee,
            "writes": self.peer.writes,
            "jobs": self.jobs,
            "drain": spread([rates.drain for rates in self.rates]),
            "enqueue": spread([rates.enqueue for rates in self.rates]),
            "pick_up_ms": {"median": round(statistics.median(self.late), 1), "all": _rounded(self.late)}
            if self.late
            else None,
        }


def spread(values: Sequence[float]) -> Row:
    return {
        "median": round(statistics.median(values), 1),
        "lowest": round(min(values), 1),
        "highest": round(max(values), 1),
        "all": _rounded(values),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 1) for value in values]


class Run:
    """All peers in turns, so that whatever else goes on in the machine meets all of them."""

    def __init__(self, uri: str, peers: list[Peer], options: Namespace) -> None:
        self._uri = uri
        self._peers = peers
        self._options = options
        self.measured: list[Measured] = []
        self.left_out: list[Row] = []

    async def all(self) -> None:
        for peer in self._peers:
            await self._set_up(peer)
        for number in range(self._options.repetitions):
            for measured in self.measured[:: -1 if number % 2 else 1]:
                await self._measure(measured)
        for measured in [measured for measured in self.measured if measured.peer.listens]:
            await self._pick_up(measured)

    async def _set_up(self, peer: Peer) -> None:
        _tell(f"setting up {peer.name}")
        try:
            environment = await set_up(peer)
        except SetUpError as error:
            self._leave_out(peer, error)
        else:
            self.measured.append(Measured(peer, environment, self._options.jobs))

    async def _measure(self, measured: Measured) -> None:
        try:
            async with self._ground(measured) as ground:
                rates = await throughput(ground, measured.jobs)
        except TROUBLE as error:
            self.measured.remove(measured)
            self._leave_out(measured.peer, error)
        else:
            measured.rates.append(rates)
            _tell(f"{measured.peer.name}: {rates.drain:,.0f} jobs/s, enqueued {rates.enqueue:,.0f} jobs/s")

    async def _pick_up(self, measured: Measured) -> None:
        if not self._options.pick_ups:
            return
        try:
            async with self._ground(measured) as ground:
                measured.late = await lateness(ground, self._options.pick_ups)
        except TROUBLE as error:
            _tell(f"{measured.peer.name}: no pick-up times: {error}")

    def _leave_out(self, peer: Peer, error: Exception) -> None:
        _tell(f"{peer.name} is left out: {error}")
        self.left_out.append({"name": peer.name, "why": str(error)})

    @asynccontextmanager
    async def _ground(self, measured: Measured) -> AsyncGenerator[Ground]:
        database = f"peers_{uuid.uuid4().hex[:12]}"
        try:
            yield Ground(measured.environment, self._uri, database, measured.peer.variant, self._options.patience)
        finally:
            async with AsyncMongoClient[Row](self._uri) as client:
                await client.drop_database(database)


def _tell(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def server_version(uri: str) -> str:
    async with AsyncMongoClient[Row](uri) as client:
        version: str = (await client.server_info())["version"]
        return version


@asynccontextmanager
async def server(uri: str | None) -> AsyncGenerator[str]:
    if uri is not None:
        yield uri
    else:
        async with EmbeddedMongoDB(ephemeral=True) as embedded:
            yield embedded.uri


async def measure(peers: list[Peer], options: Namespace) -> Row:
    load = os.getloadavg()[0]
    async with server(options.uri) as uri:
        run = Run(uri, peers, options)
        await run.all()
        version = await server_version(uri)
    return {
        "benchmark": "peers",
        "machine": {
            "cores": os.cpu_count(),
            "architecture": platform.machine(),
            "system": platform.system(),
            "load before": round(load, 2),
            "python": platform.python_version(),
            "mongodb": version,
        },
        "settings": {"jobs": options.jobs, "repetitions": options.repetitions, "pick_ups": options.pick_ups},
        "peers": [measured.row() for measured in run.measured],
        "left_out": run.left_out,
    }


def table(outcome: Row) -> list[str]:
    """In Markdown, the fastest first."""
    rows = sorted(outcome["peers"], key=lambda row: row["drain"]["median"], reverse=True)
    head = [
        "| | N | worked off, jobs/s | enqueued, jobs/s | picked up, ms | promise |",
        "|---|--:|--:|--:|--:|---|",
    ]
    return head + [_line(row) for row in rows]


def _line(row: Row) -> str:
    late = f"{row['pick_up_ms']['median']:,.0f}" if row["pick_up_ms"] else "–"
    cells = [row["name"], f"{row['jobs']:,}", _with_spread(row["drain"]), _with_spread(row["enqueue"]), late]
    cells.append(row["guarantee"].partition(":")[0])
    return f"| {' | '.join(cells)} |"


def _with_spread(rates: Row) -> str:
    return f"{rates['median']:,.0f} ({rates['lowest']:,.0f}–{rates['highest']:,.0f})"


def main() -> None:
    options = arguments()
    outcome = asyncio.run(measure(chosen(options.only), options))
    print(*table(outcome), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(outcome, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
