"""What a handler at work can reach without being handed it: the run it is part of."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

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
        keep_logs: How many log records of it are kept.
        should_stop: Whether the handler has been told to end.
        ending: Why, if it is for a reason that makes the run a failure.
        is_lost: Whether it was told so because the claim is gone: nobody waits for it any more.
        is_overdue: Whether it was told so long ago.
        session: The session of the transaction in which the run is settled, if it is.
        returned: What the handler returned, once it has.
        around: What its handler runs within, should that be in a process: references to factories of context managers,
            and what each is called with.
    """

    __slots__ = (
        "around",
        "ending",
        "is_lost",
        "is_overdue",
        "job",
        "journal",
        "keep_logs",
        "returned",
        "session",
        "should_stop",
    )

    def __init__(self, job: Job[Any], journal: Journal | None = None, keep_logs: int = 0) -> None:
        self.job = job
        self.journal = journal
        self.keep_logs = keep_logs
        self.should_stop = self.is_lost = self.is_overdue = False
        self.ending: BaseException | None = None
        self.session: Any = None
        self.returned: object = None
        self.around: tuple[tuple[Any, object], ...] = ()

    def note(self, note: object) -> None:
        """Take something down about the run, if anybody does."""
        if self.journal is not None:
            self.journal.note(self, note)


_scope: ContextVar[Scope | None] = ContextVar("monque_scope", default=None)
enter = _scope.set


def current() -> Scope | None:
    """The run this code is part of; it goes along into threads and tasks of the handler's."""
    return _scope.get()


class _Teller:
    """Passes on what is said, to where somebody takes it down."""

    def __init__(self, tell: Callable[[object], None]) -> None:
        self._tell = tell

    def note(self, scope: Scope, note: object) -> None:  # noqa: ARG002  there is but one run here
        """Pass it on."""
        self._tell(note)


@contextmanager
def in_child(context: dict[str, Any], tell: Callable[[object], None]) -> Generator[None]:
    """Be part of a run whose handler is at work in this process, and that is looked after in another."""
    token = _scope.set(Scope(context["job"], _Teller(tell), context.get("keep_logs", 0)))
    try:
        yield
    finally:
        _scope.reset(token)
