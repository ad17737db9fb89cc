"""`monque bench`: what Monque costs on a server, beside the same work done with the driver alone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, cast

from monque.cli._bench import drain, enqueue, history, idle, latency, memory, processes, sweeps
from monque.cli._bench.errors import SkippedError
from monque.cli._bench.figures import Findings
from monque.cli._bench.machine import machine, sentence
from monque.cli._bench.place import open_place
from monque.cli._bench.screen import Screen
from monque.cli._bench.settings import USUAL, Bench, Part, Settings
from monque.cli._options import Json, Uri, check_uri
from monque.cli._signals import Interruption

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

_PARTS: Mapping[Part, Callable[[Bench], Awaitable[Findings]]] = {
    "drain": drain.run,
    "enqueue": enqueue.run,
    "latency": latency.run,
    "idle": idle.run,
    "processes": processes.run,
    "concurrency": sweeps.concurrency,
    "payload": sweeps.payload,
    "names": sweeps.names,
    "history": history.run,
    "memory": memory.run,
}


_USUAL = Settings()


def command(
    *parts: Part | Literal["all"],
    settings: Settings = _USUAL,
    json: Json = False,
    uri: Uri = None,
) -> int:
    """Measure what Monque costs on a server, beside the same work done with the driver alone.

    Without parts: drain, enqueue, latency, idle and processes, which takes some minutes. Look at the ratios: absolute
    figures differ from machine to machine and from minute to minute. It works in collections that it makes itself, in
    the database of the URI or else in `monque_bench`, and drops them at the end.

    Examples:
        monque bench                       # the usual parts
        monque bench drain --jobs 2000     # one of them, with less to do

    Args:
        parts: What to measure.
        settings: How much of it.
        json: Print the figures as one JSON object and nothing else on stdout.
        uri: The MongoDB to use; without it an embedded one is started, and thrown away afterwards.
    """
    check_uri(uri)
    # What an instance logs, the table would not survive.
    logging.getLogger("monque").addHandler(logging.NullHandler())
    return asyncio.run(measure(chosen(parts), settings, Screen(as_json=json), uri))


def chosen(parts: Sequence[str]) -> list[Part]:
    """The parts that were asked for, each once."""
    wanted = _PARTS if "all" in parts else parts or USUAL
    return [part for part in _PARTS if part in wanted]


async def measure(parts: Sequence[Part], settings: Settings, screen: Screen, uri: str | None) -> int:
    """Measure until all is done or a signal comes; say the exit code."""
    task = cast("asyncio.Task[Any]", asyncio.current_task())

    def stop() -> None:
        task.cancel()

    with Interruption(stop=stop, hurry=lambda: None) as interruption:
        try:
            with screen.showing():
                await _measure(parts, settings, screen, uri)
        except asyncio.CancelledError:
            if not interruption.exit_code:
                raise
            screen.warn("monque: interrupted; what was made is dropped")
    return interruption.exit_code


async def _measure(parts: Sequence[Part], settings: Settings, screen: Screen, uri: str | None) -> None:
    async with open_place(uri, settings.collection, screen.say) as place:
        where = await machine(place)
        screen.print(sentence(where))
        bench = Bench(place, settings, screen.say)
        figures: dict[str, Any] = {}
        for part in parts:
            findings = await _findings(part, bench)
            screen.show(findings)
            figures[part] = findings.figures
    screen.finish({**figures, "machine": where, "settings": asdict(settings)})


async def _findings(part: Part, bench: Bench) -> Findings:
    try:
        return await _PARTS[part](bench)
    except SkippedError as error:
        return Findings(title=f"{part}: skipped", figures={"skipped": str(error)}, notes=[str(error)])
