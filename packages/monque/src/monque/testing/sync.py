"""`monque.testing` for tests that do not await, of code that uses `monque.sync`: the same functions, which wait.

Example:
    >>> from monque.sync import Monque
    >>> from monque.testing.sync import assert_enqueued, drain
    >>> monque = Monque()
    >>> @monque.worker("greet")
    ... def greet(name: str) -> None:
    ...     print("Hello", name)
    >>> with monque:
    ...     job = monque.enqueue("greet", {"name": "Ada"})
    ...     assert assert_enqueued(monque, "greet") == [job]
    ...     print(drain(monque))
    Hello Ada
    1 run: 1 completed
"""

from __future__ import annotations

import inspect
import time
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

from monque import testing
from monque.testing._waiting import not_in_time

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from monque import _monque, sync
    from monque._intake import NewJob
    from monque.worker import Worker

__all__ = ["assert_enqueued", "drain", "eventually", "expire_leases", "perform", "refute_enqueued", "travel"]

C = TypeVar("C")
P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")


def _blocking(
    function: Callable[Concatenate[_monque.Monque, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[sync.Monque, P], R]:
    """The same for a Monque that blocks, waited for."""

    @wraps(function)
    def call(monque: sync.Monque, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return monque._link.call(lambda inner: function(inner, *args, **kwargs))

    # The example awaits.
    call.__doc__ = inspect.cleandoc(function.__doc__ or "").partition("\n\nExample:")[0]
    return call


drain = _blocking(testing.drain)
assert_enqueued = _blocking(testing.assert_enqueued)
refute_enqueued = _blocking(testing.refute_enqueued)
travel = _blocking(testing.travel)
expire_leases = _blocking(testing.expire_leases)


@overload
def perform(monque: sync.Monque, worker: Worker[P, C, Q, R], /, *args: Q.args, **kwargs: Q.kwargs) -> R: ...
@overload
def perform(monque: sync.Monque, job: str | NewJob, data: Any = ..., /, *, attempt: int = ...) -> Any: ...  # noqa: ANN401  see there
def perform(monque: sync.Monque, job: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Run one job here and now; see `monque.testing.perform`."""
    perform: Any = testing.perform  # which of its forms, only the arguments say
    return monque._link.call(lambda inner: perform(inner, job, *args, **kwargs))


def eventually(condition: Callable[[], T], *, timeout: float = 10, poll: float = 0.01) -> T:
    """Wait until a condition holds; see `monque.testing.eventually`.

    Args:
        condition: A function that returns something true once it holds.
        timeout: Seconds to wait for it.
        poll: Seconds between two looks.

    Returns:
        What the condition returned.

    Raises:
        AssertionError: It did not hold in time; the message shows what it returned last.

    Example:
        >>> seen = ["sent"]
        >>> eventually(lambda: "sent" in seen)
        True
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() >= deadline:
            raise not_in_time(condition, value, timeout)
        time.sleep(poll)
    return value
