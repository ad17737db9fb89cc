"""Which parameters of a handler are filled from the data of its job, and which by FastAPI."""

from __future__ import annotations

import inspect
import sys
from dataclasses import dataclass
from inspect import Parameter, Signature
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from fastapi import Depends, Response, params
from fastapi.security import SecurityScopes
from starlette.background import BackgroundTasks
from starlette.requests import HTTPConnection

from monque import Job, Monque, WorkerRegistrationError
from monque_fastapi._dependencies import JobDep, MonqueDep
from monque_fastapi._dishka import dependency_of

if TYPE_CHECKING:
    from collections.abc import Callable

# Types that FastAPI provides wherever they are asked for.
_PROVIDED = (HTTPConnection, Response, BackgroundTasks, SecurityScopes)
_STARS = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parameters of a handler.

    Attributes:
        payload: The signature of what is left when FastAPI has done its part.
        injected: The parameters that FastAPI fills.
    """

    payload: Signature
    injected: tuple[Parameter, ...]


def split(name: str, function: Callable[..., object], *, receiver: type | None = None) -> Parts:
    """Tell the parameters of the handler of jobs of `name` apart.

    Args:
        name: The job name.
        function: The handler.
        receiver: The class whose method it is, if it is one; an instance is injected in place of `self`.

    Raises:
        WorkerRegistrationError: One of them can be filled by nobody.
    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    injected: list[Parameter] = []
    if receiver is not None:
        injected.append(_injected(parameters.pop(0), Annotated[receiver, Depends(receiver)]))
    rest: list[Parameter] = []
    for parameter in parameters:
        kind = _meaning(name, parameter, function)
        by_fastapi = _annotation(name, parameter, kind)
        if by_fastapi is None:
            rest.append(parameter.replace(annotation=kind))
        else:
            injected.append(_injected(parameter, by_fastapi))
    if len(rest) > 1:
        # The core's handlers take either a job or what is in its data; here the job is one more thing to inject.
        injected += [_injected(parameter, JobDep) for parameter in rest if _is_job(parameter.annotation)]
        rest = [parameter for parameter in rest if not _is_job(parameter.annotation)]
    return Parts(signature.replace(parameters=rest, return_annotation=_returned(signature, function)), tuple(injected))


def constructor(name: str, controller: type) -> Signature:
    """What FastAPI has to fill in order to make an instance of a controller.

    Raises:
        WorkerRegistrationError: It cannot fill all that there is no default for.
    """
    make: Any = controller.__init__  # type: ignore[misc]  # of this very class
    if make is object.__init__:
        return Signature()
    injected: list[Parameter] = []
    for parameter in list(inspect.signature(make).parameters.values())[1:]:
        if parameter.kind in _STARS:
            continue
        kind = _meaning(name, parameter, make)
        by_fastapi = JobDep if _is_job(kind) else _annotation(name, parameter, kind)
        if by_fastapi is not None:
            injected.append(_injected(parameter, by_fastapi))
        elif parameter.default is Parameter.empty:
            raise WorkerRegistrationError(
                name,
                f"{controller.__name__} cannot be made: FastAPI does not know how to fill the parameter "
                f"{parameter.name!r}; write {parameter.name}: Annotated[…, Depends(…)], or give it a default",
            )
    return Signature(injected)


def _injected(parameter: Parameter, annotation: Any) -> Parameter:  # noqa: ANN401  an annotation
    return parameter.replace(annotation=annotation, kind=Parameter.KEYWORD_ONLY)


def _annotation(name: str, parameter: Parameter, kind: Any) -> Any:  # noqa: ANN401  annotations
    """How FastAPI is told to fill a parameter; None if it is not for FastAPI to fill."""
    markers = [*getattr(kind, "__metadata__", ()), parameter.default]
    if any(isinstance(marker, params.Depends) for marker in markers):
        return kind
    if any(isinstance(marker, params.Param | params.Body) for marker in markers):
        raise WorkerRegistrationError(
            name, f"the parameter {parameter.name!r} is to be read from an HTTP request, and a job has none"
        )
    if _is(kind, Monque):
        return MonqueDep
    return kind if _is(kind, *_PROVIDED) else dependency_of(parameter, kind)


def _is(kind: object, *types: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, types)


def _is_job(kind: object) -> bool:
    return _is(get_origin(kind) or kind, Job)


def _returned(signature: Signature, function: Callable[..., object]) -> Any:  # noqa: ANN401  an annotation
    try:
        return _evaluated(signature.return_annotation, function)
    except NameError:
        return signature.return_annotation  # of interest only where results are stored, and looked into there


def _meaning(name: str, parameter: Parameter, function: Callable[..., object]) -> Any:  # noqa: ANN401  an annotation
    try:
        return _evaluated(parameter.annotation, function)
    except NameError as error:
        raise WorkerRegistrationError(
            name,
            f"the annotation of the parameter {parameter.name!r} cannot be resolved: {error}; import what it names at "
            "run time, not under TYPE_CHECKING only, or define it at the level of the module",
        ) from None


def _evaluated(annotation: Any, function: Callable[..., object]) -> Any:  # noqa: ANN401  annotations
    """What an annotation means that may be written as text."""
    if not isinstance(annotation, str) and not any(isinstance(part, str) for part in get_args(annotation)):
        return annotation
    holder: Any = SimpleNamespace(__annotations__={"it": annotation})
    names = getattr(inspect.unwrap(function), "__globals__", {})
    return get_type_hints(holder, names, _names_of_caller(), include_extras=True)["it"]


def _names_of_caller() -> dict[str, Any]:
    """The local names of whoever called into this package."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "monque_fastapi":
        frame = frame.f_back
    return {} if frame is None else dict(frame.f_locals)
