"""What a handler at work can reach without being handed it: the run it is part of."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Generator

    from monque.job import Job


class Journal(Protocol):
    """Takes down what handlers say about their runs."""

    def note(self, scope: Scope, note: object) -> None:
        """Take down one thing; may be called from any thread."""


class Scope:
    """One run, as its handler sees it.

    Attributes:
        job: The job, as claimed.
        journal: Takes down what the handler says.
        should_stop: Whether the handler has been told to end.
        session: The session of the transaction in which the run is settled, if it is.
    """

    __slots__ = ("job", "journal", "session", "should_stop")

    def __init__(self, job: Job[Any], journal: Journal | None = None) -> None:
        self.job = job
        self.journal = journal
        self.should_stop = False
        self.session: Any = None

    def note(self, note: object) -> None:
        """Take something down about the run, if anybody does."""
        if self.journal is not None:
            self.journal.note(self, note)


_scope: ContextVar[Scope | None] = ContextVar("monque_scope", default=None)
enter = _scope.set


def current() -> Scope | None:
    """The run this code is part of; it goes along into threads and tasks of the handler's."""
    return _scope.get()


@contextmanager
def entered(scope: Scope) -> Generator[None]:
    """Be part of a run while the block lasts."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)
