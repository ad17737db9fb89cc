"""What the soak came to: a table, and a plot."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from _common import Row
    from _soak_watch import Process, Sample

Points = list[tuple[float, float]]

# Readable on white and on black.
_GREY = "#808080"
_COLOURS = ("#2f81f7", "#d29922", "#3fb950")


def slope_per_hour(points: Points) -> float | None:
    """How fast it grows in the second half, by least squares; `points` are seconds and values."""
    if not points:
        return None
    middle = (points[0][0] + points[-1][0]) / 2
    half = [(at, value) for at, value in points if at >= middle]
    mean_at = sum(at for at, _ in half) / len(half)
    mean = sum(value for _, value in half) / len(half)
    spread = sum((at - mean_at) ** 2 for at, _ in half)
    if not spread:
        return None
    return sum((at - mean_at) * (value - mean) for at, value in half) / spread * 3600


def points(samples: Sequence[Sample], of: Callable[[Sample], float | None]) -> Points:
    return [(sample["at"], value) for sample in samples if (value := of(sample)) is not None]


def of_process(place: str, what: Callable[[Process], float]) -> Callable[[Sample], float | None]:
    def look(sample: Sample) -> float | None:
        found = sample["processes"].get(place)
        return None if found is None else what(found)

    return look


def series(samples: Sequence[Sample]) -> dict[str, Points]:
    """Everything that has a course over time, by what it is called in the table."""
    places = sorted({place for sample in samples for place in sample["processes"]})
    memory = {f"{place}: memory, MB": of_process(place, lambda found: found["rss_mb"]) for place in places}
    files = {f"{place}: open files": of_process(place, lambda found: found["files"]) for place in places}
    looks: dict[str, Callable[[Sample], float | None]] = {
        **memory,
        **files,
        "connections": lambda sample: sample["connections"],
        "pick-up p50, ms": lambda sample: sample["p50_ms"],
        "pick-up p99, ms": lambda sample: sample["p99_ms"],
        "jobs in the collection": lambda sample: sum(sample["jobs"].values()),
    }
    courses = {what: points(samples, of) for what, of in looks.items()}
    cpu = {f"{place}: CPU, s/s": _load(points(samples, of_process(place, lambda at: at["cpu_s"]))) for place in places}
    return {what: course for what, course in {**courses, **cpu}.items() if course}


def _load(seconds: Points) -> Points:
    """How busy it was between two samples; a process that was started anew begins at nothing."""
    steps = itertools.pairwise(seconds)
    return [(at, (now - before) / (at - was)) for (was, before), (at, now) in steps if now >= before and at > was]


def rows(samples: Sequence[Sample]) -> list[Row]:
    return [_row(what, course) for what, course in series(samples).items()]


def _row(what: str, course: Points) -> Row:
    values = [value for _, value in course]
    slope = slope_per_hour(course)
    return {
        "": what,
        "first": round(values[0], 2),
        "lowest": round(min(values), 2),
        "median": round(sorted(values)[len(values) // 2], 2),
        "highest": round(max(values), 2),
        "last": round(values[-1], 2),
        "per hour": "" if slope is None else round(slope, 2),
    }


def plot(samples: Sequence[Sample], kills: Sequence[float], path: Path) -> None:
    """Memory, connections and latency over time, without a background of its own."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Text stays text, and the same figures make the same file.
    settings: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": "monque"}
    settings |= dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _GREY)
    everywhere: Any = mpl.rcParams
    everywhere.update(settings)
    figure: Any = Figure(figsize=(8, 6.5), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    courses = series(samples)
    memory, connections, latency = panels
    for colour, place in zip(_COLOURS, ("worker 1", "worker 2", "mongod"), strict=True):
        _draw(memory, courses.get(f"{place}: memory, MB", []), colour, place)
    _draw(connections, courses["connections"], _COLOURS[0], "")
    for colour, what in zip(_COLOURS, ("p50", "p99"), strict=False):
        _draw(latency, courses.get(f"pick-up {what}, ms", []), colour, what)
    latency.set_yscale("log")
    for panel, what in zip(panels, ("memory, MB", "connections", "pick-up, ms"), strict=True):
        _finish(panel, what, kills)
    latency.set_xlabel("minutes; a dotted line is a SIGKILL of worker 2")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def _draw(panel: Any, course: Points, colour: str, label: str) -> None:  # noqa: ANN401  its types are half known
    minutes = [at / 60 for at, _ in course]
    panel.plot(minutes, [value for _, value in course], color=colour, linewidth=1.2, label=label)


def _finish(panel: Any, what: str, kills: Sequence[float]) -> None:  # noqa: ANN401  likewise
    panel.set_ylabel(what)
    panel.grid(color=_GREY, alpha=0.25, linewidth=0.5)
    for at in kills:
        panel.axvline(at / 60, color=_GREY, linestyle=":", linewidth=0.8)
    if panel.get_yscale() == "linear":
        panel.set_ylim(bottom=0)
    if any(panel.get_legend_handles_labels()[1]):
        panel.legend(frameon=False, ncols=3, fontsize=8)
