"""What a run meant. Executing a job returns one of these; nothing is written until the engine settles it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Completed", "Failed", "Outcome", "Released"]


@dataclass(frozen=True, slots=True)
class Completed:
    """The handler returned."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised.

    Attributes:
        error: What it raised.
        final: Whether there is no point in trying again.
    """

    error: BaseException
    final: bool = False


@dataclass(frozen=True, slots=True)
class Released:
    """The run was cut short from outside, through no fault of the job: it goes back, no attempt spent."""


Outcome = Completed | Failed | Released

COMPLETED = Completed()
RELEASED = Released()
