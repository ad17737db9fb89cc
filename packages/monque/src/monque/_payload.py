"""What a handler wants to be called with, and how that becomes the `data` of a job and back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from inspect import Parameter
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_origin

from monque._adapter import Adapter, UnusableTypeError
from monque._annotations import UnresolvedError, resolve
from monque.errors import InvalidPayloadError, WorkerRegistrationError
from monque.job import Job

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import override

    Arguments = tuple[tuple[Any, ...], dict[str, Any]]
else:

    def override(method: Any) -> Any:  # noqa: ANN401
        return method


_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_STARS: dict[object, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class Payload:
    """What a handler is called with. This one takes the job itself, whatever its data are.

    Attributes:
        is_typed: Whether there is anything to check.
    """

    is_typed = False

    def __init__(self, name: str, function: Callable[..., object]) -> None:
        self._name = name
        self._returns = _returned(function)
        self._results: Adapter | None = None

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401  whatever BSON can hold
        """The `data` of a job that is enqueued with these arguments.

        Raises:
            InvalidPayloadError: They are not what the handler takes.
        """
        if kwargs or len(args) > 1:
            raise InvalidPayloadError("data", (*args, *kwargs.values()), "one value, without a name: the job's data")
        return args[0] if args else None

    def check(self, data: Any) -> Any:  # noqa: ANN401  whatever BSON can hold
        """`data` as they are stored, if the handler can take them.

        Raises:
            InvalidPayloadError: It cannot.
        """
        return data

    def arguments(self, job: Job[Any]) -> Arguments:
        """What to call the handler with.

        Raises:
            InvalidPayloadError: The job's data are not what the handler takes.
        """
        return (job,), {}

    def prepare_results(self) -> None:
        """Make sure that results can be stored and read.

        Raises:
            WorkerRegistrationError: What the handler says it returns is no type that values can be checked against.
        """
        if isinstance(self._returns, UnresolvedError):
            raise _unresolved(self._name, "of what it returns", self._returns)
        self._results = _adapter(self._name, {"result": self._returns}, within=None)

    def dump_result(self, value: object) -> Any:  # noqa: ANN401  whatever BSON can hold
        """What is stored of a result.

        Raises:
            InvalidPayloadError: It is not what the handler says it returns.
        """
        adapter = self._result_adapter()
        return adapter.dump(adapter.load({"result": value}))["result"]

    def load_result(self, value: object) -> Any:  # noqa: ANN401  what the handler returned
        """A result that was stored, as the handler returned it.

        Raises:
            InvalidPayloadError: It is not what the handler says it returns.
        """
        return self._result_adapter().load({"result": value})["result"]

    def _result_adapter(self) -> Adapter:
        if self._results is None:
            self.prepare_results()
        return cast("Adapter", self._results)


class JobPayload(Payload):
    """For handlers that take a job with data of a certain type."""

    is_typed = True

    def __init__(self, name: str, function: Callable[..., object], kind: object) -> None:
        super().__init__(name, function)
        self._adapter = _adapter(name, {"data": kind}, within=None)
        # A job without data is stored with an empty document, and that is what `Job[None]` means, too.
        self._has_none = kind is NoneType

    @override
    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401  whatever BSON can hold
        return self.check(super().bind(args, kwargs))

    @override
    def check(self, data: Any) -> Any:  # noqa: ANN401  whatever BSON can hold
        return self._adapter.dump(self._load(data))["data"]

    @override
    def arguments(self, job: Job[Any]) -> Arguments:
        typed = object.__new__(type(job))  # copy.copy takes several times as long
        vars(typed).update(vars(job), **self._load(job.data))
        return (typed,), {}

    def _load(self, data: object) -> dict[str, Any]:
        if data is None or data == {}:
            data = None if self._has_none else {}
        return self._adapter.load({"data": data})


class ParametersPayload(Payload):
    """For handlers whose parameters are the payload: `data` is a document of them, by name."""

    is_typed = True

    def __init__(self, name: str, function: Callable[..., object], parameters: list[Parameter]) -> None:
        super().__init__(name, function)
        types = {parameter.name: _type_of(name, function, parameter) for parameter in parameters}
        optional = frozenset(parameter.name for parameter in parameters if parameter.default is not Parameter.empty)
        self._adapter = _adapter(name, types, optional=optional, within="data")
        self._positional = [parameter.name for parameter in parameters if parameter.kind in _BY_POSITION]

    @override
    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401  whatever BSON can hold
        if len(args) > len(self._positional):
            expected = f"at most {len(self._positional)} arguments without a name ({', '.join(self._positional)})"
            raise InvalidPayloadError("data", args, expected)
        data = dict(zip(self._positional, args, strict=False))
        for twice in data.keys() & kwargs.keys():
            raise InvalidPayloadError(f"data[{twice!r}]", kwargs[twice], f"one value, and {data[twice]!r} came, too")
        return self.check(data | kwargs)

    @override
    def check(self, data: Any) -> Any:  # noqa: ANN401  whatever BSON can hold
        return self._adapter.dump(self._load(data))

    @override
    def arguments(self, job: Job[Any]) -> Arguments:
        return (), self._load(job.data)

    def _load(self, data: object) -> dict[str, Any]:
        data = {} if data is None else data
        if not isinstance(data, Mapping):
            raise InvalidPayloadError("data", data, "a mapping with the arguments of the handler by name")
        return self._adapter.load(cast("Mapping[str, Any]", data))


def payload_of(name: str, function: Callable[..., object]) -> Payload:
    """What the handler of the worker `name` is called with.

    Raises:
        WorkerRegistrationError: Nothing that a job has.
    """
    parameters = _parameters(name, function)
    if parameters and parameters[0].kind in _BY_POSITION:
        first, *others = parameters
        kind = _job_data(name, function, first, alone=not others)
        if kind is not None and all(other.default is not Parameter.empty for other in others):
            return Payload(name, function) if kind is Any else JobPayload(name, function, kind)
    _check_parameters(name, function, parameters)
    return ParametersPayload(name, function, parameters)


def _parameters(name: str, function: Callable[..., object]) -> list[Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise WorkerRegistrationError(
            name, f"the parameters of {function!r} cannot be seen; wrap it in a function with annotated parameters"
        ) from None


def _job_data(name: str, function: Callable[..., object], parameter: Parameter, *, alone: bool) -> Any:  # noqa: ANN401  any type
    """The type of the data of the job that a parameter takes: Any for any; None if it takes no job."""
    if parameter.annotation is Parameter.empty:
        return Any if alone else None
    kind = _type_of(name, function, parameter)
    if kind is Any or kind is object:
        return Any if alone else None
    if not _is_job(kind):
        return None
    (data,) = get_args(kind) or (Any,)
    return Any if data is object or isinstance(data, TypeVar) else data


def _is_job(kind: Any) -> bool:  # noqa: ANN401  any type
    kind = get_origin(kind) or kind
    return isinstance(kind, type) and issubclass(kind, Job)


def _check_parameters(name: str, function: Callable[..., object], parameters: list[Parameter]) -> None:
    for parameter in parameters:
        if parameter.kind not in _BY_NAME:
            shown = _STARS.get(parameter.kind, "") + parameter.name
            raise WorkerRegistrationError(
                name,
                f"the parameter {shown} cannot be given by name, and a job's data have nothing but names; "
                "write parameters that can, or take the job: `job: Job[Any]`",
            )
        if _is_job(_type_of(name, function, parameter)):
            raise WorkerRegistrationError(
                name,
                f"the parameter {parameter.name!r} takes the job, and there are others; a handler takes either the job "
                "alone, or what is in its data",
            )


def _type_of(name: str, function: Callable[..., object], parameter: Parameter) -> Any:  # noqa: ANN401  any type
    if parameter.annotation is Parameter.empty:
        return Any
    try:
        return resolve(parameter.annotation, function)
    except UnresolvedError as error:
        raise _unresolved(name, f"of the parameter {parameter.name!r}", error) from None


def _returned(function: Callable[..., object]) -> Any:  # noqa: ANN401  any type
    """The type of what a handler returns, or why that is not known: most results are nobody's business."""
    annotation = inspect.signature(function).return_annotation
    try:
        return Any if annotation is Parameter.empty else resolve(annotation, function)
    except UnresolvedError as error:
        return error


def _adapter(
    name: str, types: Mapping[str, Any], *, optional: frozenset[str] = frozenset(), within: str | None
) -> Adapter:
    try:
        return Adapter(types, optional=optional, within=within)
    except UnusableTypeError as error:
        raise WorkerRegistrationError(name, f"values cannot be checked against its annotations: {error}") from error


def _unresolved(name: str, which: str, error: UnresolvedError) -> WorkerRegistrationError:
    return WorkerRegistrationError(
        name,
        f"the annotation {which} cannot be resolved: {error}; import what it names at run time, not under "
        "TYPE_CHECKING only, or define it at the level of the module",
    )
