"""From `module:attribute` to the object that is to work."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import monque
import monque.sync
from monque.cli._errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

Works = monque.Monque | monque.sync.Monque

_EXPECTED = "module:attribute, such as app:monque for the object `monque` in app.py"


def split(target: str) -> tuple[str, str]:
    """The two parts of a target.

    Raises:
        UsageError: It has other parts.
    """
    module, _, attribute = target.partition(":")
    if not (module and attribute):
        missing = "the attribute" if module else "the module"
        raise UsageError(f"target: expected {_EXPECTED}, got {target!r}; {missing} is missing")
    return module, attribute


def load(target: str) -> Works:
    """Import what `target` names, from the current directory or anywhere else on the path.

    What the module itself raises is left as it is: its traceback says where.

    Args:
        target: `module:attribute`, where the attribute is a Monque, or a function without parameters that makes one.

    Raises:
        UsageError: There is no such thing, or it is something else.
    """
    module_name, attribute = split(target)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _import(module_name)
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise UsageError(f"target: {_name(found)} has no {name!r}; {_choice(module)}")
        found = getattr(found, name)
    made = found() if _is_factory(found) else found
    if isinstance(made, Works):
        return made
    came = f"{target} is" if made is found else f"what {target}() returned is"
    raise UsageError(
        f"target: expected a Monque, or a function without parameters that makes one; {came} {_kind(made)}"
    )


def _is_factory(found: object) -> bool:
    if not callable(found):
        return False
    try:
        inspect.signature(found).bind()
    except (TypeError, ValueError):  # the latter where there is no signature to be had
        return False
    return True


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # something that the module needs
        raise UsageError(
            f"target: there is no module {error.name!r} in {Path.cwd()}, or anywhere on the path"
        ) from None


def _name(found: object) -> str:
    name = getattr(found, "__name__", None)
    return f"the {type(found).__name__}" if name is None else f"module {name!r}"


def _kind(found: object) -> str:
    return f"{type(found).__module__}.{type(found).__qualname__}"


def _choice(module: ModuleType) -> str:
    """What there would have been."""
    names = [f"{module.__name__}:{name}" for name, value in vars(module).items() if isinstance(value, Works)]
    return f"there is {', '.join(names)}" if names else f"there is no Monque in {module.__name__!r} at all"
