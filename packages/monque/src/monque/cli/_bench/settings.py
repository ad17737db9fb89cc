"""What a run of the bench measures, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

if TYPE_CHECKING:
    from collections.abc import Callable

    from monque.cli._bench.place import Place

Part = Literal[
    "drain",
    "enqueue",
    "latency",
    "idle",
    "processes",
    "concurrency",
    "payload",
    "names",
    "history",
    "memory",
]
USUAL: tuple[Part, ...] = ("drain", "enqueue", "latency", "idle", "processes")

_AT_LEAST_ONE = validators.Number(gte=1)
_POSITIVE = validators.Number(gt=0)
_Count = Annotated[int, Parameter(validator=_AT_LEAST_ONE)]
_Counts = Annotated[tuple[int, ...], Parameter(validator=_AT_LEAST_ONE, consume_multiple=True, negative=())]
_Amount = Annotated[float, Parameter(validator=_POSITIVE)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much is measured.

    Attributes:
        jobs: Jobs per measured run.
        repetitions: How often each run is repeated; the median counts.
        concurrency: Jobs that run at once in a process, and the size of a bare batch.
        processes: The numbers of worker processes to compare with one.
        history: For the part of that name: so many settled and so many future jobs lie in the collection.
        samples: Jobs whose latency is measured.
        rate: Of these, how many per second.
        seconds: For how long an idle instance is watched, four times.
        workers: Workers of the idle instance.
        collection: What to call the collections that are made, and dropped at the end; there must be none yet.
    """

    jobs: _Count = 10_000
    repetitions: _Count = 5
    concurrency: _Count = 500
    processes: _Counts = (1, 2, 4, 8)
    history: _Count = 100_000
    samples: _Count = 100
    rate: _Amount = 10.0
    seconds: _Amount = 30.0
    workers: _Count = 50
    collection: str | None = None


@dataclass(frozen=True)
class Bench:
    """What each part gets.

    Attributes:
        place: Where to work.
        settings: How much.
        say: Called with a line about what goes on.
    """

    place: Place
    settings: Settings
    say: Callable[[str], None]
