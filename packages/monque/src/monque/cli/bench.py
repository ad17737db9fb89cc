"""`monque bench`: what Monque costs on a server, beside the same work done with the driver alone."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from monque.cli._bench import drain, enqueue, history, idle, latency, memory, processes, sweeps
from monque.cli._bench.errors import SkippedError
from monque.cli._bench.figures import Findings
from monque.cli._bench.machine import machine, sentence
from monque.cli._bench.place import open_place
from monque.cli._bench.screen import Screen
from monque.cli._bench.settings import USUAL, Bench, Part, Settings
from monque.cli._place import check_uri
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


def command(parts: Sequence[str], *, settings: Settings, as_json: bool, uri: str | None) -> int:
    """Run the bench.

    Args:
        parts: What to measure; nothing for the usual ones, "all" for all there is.
        settings: How much.
        as_json: Whether the figures are to be JSON.
        uri: The MongoDB to use; None for an embedded one.

    Returns:
        The exit code: 0, or 128 + n after signal n.

    Raises:
        UsageError: Something that was asked for makes no sense.
        MonqueError: The database cannot be used, or a run did not come to its end.
    """
    check_uri(uri)
    # What an instance logs, the table would not survive.
    logging.getLogger("monque").addHandler(logging.NullHandler())
    return asyncio.run(measure(chosen(parts), settings, Screen(as_json=as_json), uri))


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
