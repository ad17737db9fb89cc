"""Log records that are made inside handlers, for workers that keep them."""

from __future__ import annotations

import logging
import threading
import traceback
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from monque import _scope
from monque.job import LogLine

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from typing_extensions import override
else:

    def override(method: Any) -> Any:  # noqa: ANN401  any method
        return method


class _Keeper(logging.Handler):
    """Gives records to the runs in whose handlers they are made."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        run = _scope.current()
        if run is not None and run.keep_logs:
            run.note(_line(record))
        last = logging.lastResort
        # Where nobody else listens, warnings go to stderr. That this one listens must not change it.
        if last is not None and record.levelno >= last.level and self._is_alone(record):
            last.handle(record)

    def _is_alone(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return False
            logger = logger.parent
        return True


_keeper = _Keeper()
_guard = threading.Lock()
# How many runs there are, of all instances in this process, whose records are kept.
_runs: int = 0


@contextmanager
def kept() -> Generator[None]:
    """Keep what is logged inside handlers while the block lasts, of runs that ask for it."""
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(change: int) -> None:
    global _runs  # noqa: PLW0603  there is but one root logger, too
    with _guard:
        _runs += change
        if _runs:
            # Each time: whoever configures logging meanwhile throws out what he finds there.
            logging.getLogger().addHandler(_keeper)
        else:
            logging.getLogger().removeHandler(_keeper)


@contextmanager
def in_child(context: dict[str, Any], tell: Callable[[object], None]) -> Generator[None]:
    """Be part of a run whose handler is at work in this process, and that is looked after in another."""
    with ExitStack() as stack:
        stack.enter_context(_scope.in_child(context, tell))
        if context["keep_logs"]:
            stack.enter_context(kept())
        for factory, carried in context.get("around", ()):
            stack.enter_context(factory.resolve()(carried))
        yield


def _line(record: logging.LogRecord) -> LogLine:
    at = datetime.fromtimestamp(record.created, UTC)
    return LogLine(at, record.levelname, record.name, _message(record))


def _message(record: logging.LogRecord) -> str:
    """The message, and what was raised, if that is told with it."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001  the arguments do not fit, or cannot be shown
        message = (
            f"{record.msg!s:.200} (its arguments do not fit)" if isinstance(record.msg, str) else "(cannot be shown)"
        )
    if record.exc_info is None or record.exc_info[1] is None:
        return message
    return f"{message}\n{traceback.format_exception_only(record.exc_info[1])[-1].rstrip()}"
