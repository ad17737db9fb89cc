"""What an instance with nothing to do costs: commands counted at the server, and time of the client's processor.

What the driver does by itself to watch the server is counted, too, with a client that does nothing else. Other users of
the server should be quiet meanwhile, since their commands are counted as well.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure

from monque import Monque, Options
from monque._connection import open_database
from monque.cli._bench import children
from monque.cli._bench.errors import SkippedError
from monque.cli._bench.figures import Findings, shown
from monque.cli._bench.place import open_place
from monque.cli._bench.work import do_nothing
from monque.errors import MonqueError
from monque.options import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from monque.cli._bench.place import Place
    from monque.cli._bench.settings import Bench

STREAMS = "streams"
POLLING = "polling"

# By which the counting itself is done.
_OWN = "serverStatus"
_OF_A_POLL = ("find", "aggregate")
# How long an instance gets to be done with what it does at start.
_SETTLE_DOWN = 2.0


@dataclass(frozen=True)
class Watched:
    """What happened in a while, per minute.

    Attributes:
        commands: Commands at the server, by name.
        cpu: Seconds that this process kept a processor busy.
    """

    commands: dict[str, float]
    cpu: float

    @property
    def total(self) -> float:
        """All commands together."""
        return sum(self.commands.values())


@dataclass(frozen=True)
class Compared:
    """An instance beside a client that only watches the server.

    Attributes:
        mode: Whether it listens to a change stream or polls.
        alone: What the client costs.
        both: What client and instance cost.
        length: For how many seconds each was watched.
    """

    mode: str
    alone: Watched
    both: Watched
    length: float

    @property
    def names(self) -> list[str]:
        """All commands there were."""
        return sorted(self.alone.commands | self.both.commands)

    def own(self, name: str) -> float:
        """What the instance adds."""
        return self.both.commands.get(name, 0) - self.alone.commands.get(name, 0)

    @property
    def per_poll(self) -> float | None:
        """Commands of one look for jobs; None if the time was too short for one."""
        polling = Options().polling
        interval = seconds(polling.safety if self.mode == STREAMS else polling.interval)
        return round(sum(map(self.own, _OF_A_POLL)) * interval / 60, 2) if self.length >= interval else None

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "commands_per_minute": round(self.both.total, 1),
            "bare_commands_per_minute": round(self.alone.total, 1),
            "own_commands_per_minute": round(self.both.total - self.alone.total, 1),
            "ratio": round(self.both.total / self.alone.total, 3) if self.alone.total else None,
            "commands_per_poll": self.per_poll,
            "cpu_seconds_per_minute": round(self.both.cpu, 3),
            "bare_cpu_seconds_per_minute": round(self.alone.cpu, 3),
            "own_commands": {name: round(self.own(name), 1) for name in self.names},
        }

    def rows(self) -> list[list[str]]:
        """For people."""
        cells = [
            *((name, self.both.commands.get(name, 0), self.alone.commands.get(name, 0)) for name in self.names),
            ("all commands", self.both.total, self.alone.total),
            ("CPU seconds", self.both.cpu, self.alone.cpu),
        ]
        return [[f"{self.mode}: {what}", *map(shown, (both, alone, both - alone))] for what, both, alone in cells]


async def run(bench: Bench) -> Findings:
    """Measure on the server given, and if that has change streams also on one without."""
    compared = [await compare(bench.place, bench)]
    skipped: dict[str, str] = {}
    if compared[0].mode == STREAMS:
        try:
            compared.append(await compare_polling(bench))
        except SkippedError as error:
            skipped = {POLLING: str(error)}
    return Findings(
        title=f"idle: {bench.settings.workers} workers with nothing to do",
        figures={
            **{each.mode: each.as_json() for each in compared},
            **{mode: {"skipped": reason} for mode, reason in skipped.items()},
        },
        columns=("per minute", "with Monque", "driver alone", "Monque"),
        rows=[row for each in compared for row in each.rows()],
        notes=_notes(compared, skipped),
    )


def _notes(compared: Sequence[Compared], skipped: dict[str, str]) -> list[str]:
    return [
        *(f"{each.mode}: {each.per_poll} commands per poll" for each in compared if each.per_poll is not None),
        *(f"{mode}: skipped, {reason}" for mode, reason in skipped.items()),
    ]


async def compare(place: Place, bench: Bench) -> Compared:
    """An instance at `place`, after a client alone.

    Raises:
        SkippedError: The server does not show its counters.
    """
    bench.say("idle: watching the driver alone")
    alone = await at_rest(place.uri, bench.settings.seconds)
    bench.say("idle: watching an instance with nothing to do")
    mode, both = await idle_instance(place, bench.settings.workers, bench.settings.seconds)
    return Compared(mode, alone, both, bench.settings.seconds)


async def compare_polling(bench: Bench) -> Compared:
    """The same on a server without change streams.

    Raises:
        SkippedError: There is no MongoDB on this machine to start, or it does not start.
    """
    from monque.embedded import find_mongod

    try:
        mongod = str(find_mongod())
        async with (
            children.child(children.STANDALONE, mongod=mongod) as server,
            open_place(await server.hear("uri"), None, bench.say) as place,
        ):
            return await compare(place, bench)
    except MonqueError as error:
        raise SkippedError(f"it takes a MongoDB of this machine: {error}") from error


async def at_rest(uri: str, length: float) -> Watched:
    """What a client costs that only watches the server."""
    async with open_database(uri) as database:
        await database.client.admin.command("ping")
        await asyncio.sleep(min(_SETTLE_DOWN, length))
        return await watch(uri, length)


async def idle_instance(place: Place, workers: int, length: float) -> tuple[str, Watched]:
    """How an instance waits for work, and what that costs; its client watches the server, too."""
    modes: asyncio.Queue[str] = asyncio.Queue()
    async with place.collection() as collection, open_database(place.uri) as given:
        monque = Monque(given.client[place.database.name], Options(collection=collection))
        for number in range(workers):
            monque.worker(f"job-{number}", do_nothing)
        monque.on("changestream:connected", lambda _: modes.put_nowait(STREAMS))
        monque.on("changestream:fallback", lambda _: modes.put_nowait(POLLING))
        async with monque:
            await monque.start()
            mode = await modes.get()
            await asyncio.sleep(min(_SETTLE_DOWN, length))
            return mode, await watch(place.uri, length)


async def watch(uri: str, length: float) -> Watched:
    """What happens in so many seconds; counting costs a connection of its own at both ends."""
    before, busy = await commands(uri), time.process_time()
    await asyncio.sleep(length)
    busy, after = time.process_time() - busy, await commands(uri)
    grown = {name: count - before.get(name, 0) for name, count in after.items() if name != _OWN}
    return Watched({name: count * 60 / length for name, count in grown.items() if count}, busy * 60 / length)


async def commands(uri: str) -> dict[str, int]:
    """How many of each command the server has answered since it started.

    Raises:
        SkippedError: It does not show its counters.
    """
    async with open_database(uri) as database:
        try:
            status = await database.client.admin.command(_OWN)
        except OperationFailure as error:
            raise SkippedError("the user may not read serverStatus; the role clusterMonitor may") from error
    counters: dict[str, Any] = status["metrics"]["commands"]
    return {name: counter["total"] for name, counter in counters.items() if isinstance(counter, dict)}
