"""What an instance works with; the modules of the engine share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monque._clock import ServerClock
    from monque._store.flow import Flow
    from monque.events import Events
    from monque.options import Options
    from monque.worker import Workers


@dataclass(frozen=True, slots=True)
class Setup:
    """What an instance works with.

    Attributes:
        flow: The way of jobs through the database.
        workers: Its workers.
        options: Its options.
        events: Where it says what happens.
        clock: The server's clock.
        instance: Its id.
    """

    flow: Flow
    workers: Workers
    options: Options
    events: Events
    clock: ServerClock
    instance: str
