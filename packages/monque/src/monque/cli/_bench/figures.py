"""Figures beside figures: runs in turns, medians, spreads, ratios of neighbours."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    Run = Callable[[], Awaitable[float]]


async def in_turns(
    runs: Mapping[str, Run], repetitions: int, say: Callable[[str], None] = lambda _: None
) -> dict[str, list[float]]:
    """What each of `runs` measures, time after time.

    Whatever else goes on in the machine meets all of them, since they take turns, in an order that turns around.

    Args:
        runs: What measures, by name.
        repetitions: How often.
        say: Called with a line about the run that begins.
    """
    measured: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repetitions):
        for name in sorted(runs, reverse=number % 2 == 1):
            say(f"{name}, {number + 1} of {repetitions}")
            measured[name].append(await runs[name]())
    return measured


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Figures of Monque, and those that were measured in turns with them.

    Attributes:
        figure: What was measured.
        measured: The figures.
        beside: Those of the neighbouring runs.
        other: What these are figures of.
    """

    figure: str
    measured: Sequence[float]
    beside: Sequence[float]
    other: str = "bare"

    def as_json(self) -> dict[str, Any]:
        """Medians, the ratio, and the spread of each."""
        series = self._series()
        return {
            **{name: median(values) for name, values in series.items()},
            "spread": {name: spread(values) for name, values in series.items()},
        }

    def cells(self) -> list[str]:
        """The same for people."""
        return [with_spread(values) for values in self._series().values()]

    def _series(self) -> dict[str, Sequence[float]]:
        ratios = [one / other for one, other in zip(self.measured, self.beside, strict=True)]
        return {self.figure: self.measured, f"{self.other}_{self.figure}": self.beside, "ratio": ratios}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What came of a part.

    Attributes:
        title: What the table shows.
        figures: For scripts.
        columns: The heads of the table's columns.
        rows: Its rows.
        notes: What else there is to say.
    """

    title: str
    figures: Mapping[str, Any]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = field(default=())


def median(values: Sequence[float]) -> float:
    """The median, rounded for reading."""
    return round(statistics.median(values), 3)


def spread(values: Sequence[float]) -> dict[str, float]:
    """From where to where."""
    return {"lowest": round(min(values), 3), "highest": round(max(values), 3)}


def percentile(values: Sequence[float], share: float) -> float:
    """The least of `values` that this share of them does not exceed."""
    return round(sorted(values)[max(0, math.ceil(share * len(values)) - 1)], 3)


def shown(value: float) -> str:
    """A figure for people."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"


def with_spread(values: Sequence[float]) -> str:
    """A median with its spread, for people."""
    return f"{shown(statistics.median(values))} ({shown(min(values))} to {shown(max(values))})"
