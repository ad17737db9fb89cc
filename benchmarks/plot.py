"""Draw what was measured: `plot.py peers` reads `results/peers.json` and writes `docs/images/peers.svg`.

A plot is a function here that gets what is in the file and a figure to draw in. The colours can be read on white and
on black, since nobody knows on which of them a page is shown.
"""

# What matplotlib says about its own types leaves some open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import math
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).parent
RESULTS = HERE / "results"
IMAGES = HERE.parent / "docs" / "images"

Outcome = dict[str, Any]

INK, OURS, THEIRS, MEASURE, SPREAD = "#808890", "#2f9e62", "#4a90d9", "#9aa0a6", "#e07b39"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "monque",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def peers(outcome: Outcome, figure: Figure) -> None:
    """One bar for each way, the fastest on top, with the median written at its end and the spread over it."""
    rows = sorted(outcome["peers"], key=lambda row: row["drain"]["median"])
    figure.set_size_inches(8, 0.8 + 0.42 * len(rows))
    axes = figure.add_subplot()
    medians = [row["drain"]["median"] for row in rows]
    colours = [{"Monque": OURS, "bare loop": MEASURE}.get(row["name"], THEIRS) for row in rows]
    axes.barh([row["name"] for row in rows], medians, color=colours, height=0.66)
    axes.errorbar(medians, range(len(rows)), xerr=_spread(rows), fmt="none", ecolor=SPREAD, capsize=3)
    for place, row in enumerate(rows):
        axes.annotate(
            f"{row['drain']['median']:,.0f}",
            (row["drain"]["highest"], place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_xscale("log")
    axes.set_xlim(10 ** math.floor(math.log10(min(medians))), max(row["drain"]["highest"] for row in rows) * 2.5)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("jobs per second worked off by one process (logarithmic; median, lowest, highest)")
    axes.grid(axis="x", color=INK, alpha=0.25)
    axes.set_axisbelow(True)


def _spread(rows: Sequence[Outcome]) -> list[list[float]]:
    drains = [row["drain"] for row in rows]
    below = [drain["median"] - drain["lowest"] for drain in drains]
    return [below, [drain["highest"] - drain["median"] for drain in drains]]


PLOTS: dict[str, Callable[[Outcome, Figure], None]] = {"peers": peers}


def draw(name: str, results: Path, images: Path) -> Path:
    outcome = json.loads((results / f"{name}.json").read_text("utf-8"))
    images.mkdir(parents=True, exist_ok=True)
    image = images / f"{name}.svg"
    with mpl.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        PLOTS[name](outcome, figure)
        # Without a date, so that the same figures make the same file.
        figure.savefig(image, transparent=True, metadata={"Date": None})
    return image


def main() -> None:
    options = ArgumentParser(description="Draw what was measured.")
    options.add_argument("names", nargs="*", default=list(PLOTS), metavar="NAME", help=", ".join(PLOTS))
    options.add_argument("--results", type=Path, default=RESULTS, help="the folder to read from")
    options.add_argument("--images", type=Path, default=IMAGES, help="the folder to write to")
    chosen = options.parse_args()
    for name in chosen.names:
        print(draw(name, chosen.results, chosen.images))


if __name__ == "__main__":
    main()
