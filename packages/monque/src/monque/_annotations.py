"""What the annotations of a handler mean, also where they are written as text."""

from __future__ import annotations

import functools
import inspect
import sys
from contextlib import suppress
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Any, get_type_hints

from monque.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable

# Names that a handler's annotation may use though they are imported for type checkers only.
_KNOWN: dict[str, Any] = {"Job": Job, "Any": Any}


class UnresolvedError(Exception):
    """An annotation names something that is not there at run time."""


def underlying(function: object) -> Any:  # noqa: ANN401  whatever can be called
    """The function that in the end runs when `function` is called."""
    while isinstance(function, functools.partial):
        function = function.func  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not inspect.isroutine(function):
        function = type(function).__call__
    return inspect.unwrap(getattr(function, "__func__", function))


def resolve(annotation: object, function: Callable[..., object]) -> Any:  # noqa: ANN401  any type
    """What an annotation of `function` means.

    Text is looked up among the globals of the function's module, and then among the local names of those who enclose
    it, as far as they are still there: those of the frame that declares it, and what the function itself refers to.

    Raises:
        UnresolvedError: It names something that is in none of them.
    """
    source = underlying(function)
    names = {**_KNOWN, **getattr(source, "__globals__", {})}
    with suppress(Exception):
        return _hint(annotation, names, {})
    try:
        return _hint(annotation, names, {**_names_of_caller(), **_names_inside(source)})
    except Exception as error:
        raise UnresolvedError(str(error)) from error


def _hint(annotation: object, names: dict[str, Any], more: dict[str, Any]) -> Any:  # noqa: ANN401  any type
    holder: Any = SimpleNamespace(__annotations__={"it": annotation})
    return get_type_hints(holder, names, more, include_extras=True)["it"]


def _names_inside(function: object) -> dict[str, Any]:
    return dict(inspect.getclosurevars(function).nonlocals) if inspect.isfunction(function) else {}


def _names_of_caller() -> dict[str, Any]:
    """The local names of whoever called into this package."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "monque":
        frame = frame.f_back
    return {} if frame is None else dict(frame.f_locals)
