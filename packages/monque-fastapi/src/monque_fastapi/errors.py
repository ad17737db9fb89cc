"""What can go wrong in this package, beside what can in `monque`."""

from __future__ import annotations

from monque import MonqueError

__all__ = ["DependencyError"]


class DependencyError(MonqueError):
    """Something that a handler or a route asks for is not there.

    Attributes:
        wanted: What was asked for.

    Example:
        >>> raise DependencyError("the job", "this is a route; take MonqueDep here")
        Traceback (most recent call last):
        ...
        monque_fastapi.errors.DependencyError: cannot provide the job: this is a route; take MonqueDep here
    """

    def __init__(self, wanted: str, problem: str) -> None:
        super().__init__(f"cannot provide {wanted}: {problem}")
        self.wanted = wanted
