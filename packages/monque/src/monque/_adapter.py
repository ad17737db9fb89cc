"""Checking values against types, and turning them into what is stored and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monque._codec import restored, stored
from monque.errors import InvalidPayloadError, MonqueError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class UnusableTypeError(MonqueError):
    """There is no way to check values against this type."""


class _Nothing:
    """What came where nothing did."""

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # typing.override is newer
        return "nothing"


NOTHING = _Nothing()


class Adapter:
    """Checks values that have names, and turns them into what is stored and back.

    Args:
        types: The types, by name.
        optional: The names that may be absent.
        within: Where they are, for error messages: `"data"` lets the name `to` be called `data['to']`, and None lets a
            name be called just that.

    Raises:
        UnusableTypeError: Values cannot be checked against one of the types.
    """

    def __init__(self, types: Mapping[str, Any], *, optional: frozenset[str] = frozenset(), within: str | None) -> None:
        # Only where types are declared: importing it takes longer than importing the rest.
        from typing import NotRequired

        from pydantic import ConfigDict, TypeAdapter, ValidationError
        from pydantic.errors import PydanticUserError
        from typing_extensions import TypedDict

        fields = {name: NotRequired[kind] if name in optional else kind for name, kind in types.items()}
        make: Any = TypedDict
        shape = make("shape", fields)
        # Types that have a configuration of their own keep it; all others inherit this one.
        shape.__pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
        try:
            self._adapter: TypeAdapter[dict[str, Any]] = TypeAdapter(shape)
        except (PydanticUserError, TypeError, NameError) as error:
            raise UnusableTypeError(str(error)) from error
        self._mismatch = ValidationError
        self._within = within

    def load(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Check values, which may have been stored.

        Raises:
            InvalidPayloadError: One of them does not fit.
        """
        python = restored(values)
        try:
            return self._validated(python)
        except self._mismatch as error:
            if python is not values:
                # A type of BSON may be exactly what was asked for.
                try:
                    return self._validated(values)
                except self._mismatch:
                    pass
            raise self._misfit(error) from None

    def dump(self, values: dict[str, Any]) -> dict[str, Any]:
        """What is stored of values that were checked."""
        dumped: dict[str, Any] = stored(
            self._adapter.dump_python(values, by_alias=True, round_trip=True, warnings=False)
        )
        return dumped

    def _validated(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._adapter.validate_python(values, by_alias=True, by_name=True)

    def _misfit(self, mismatch: ValidationError) -> InvalidPayloadError:
        """Name the first of what is wrong, and say where else there is something."""
        first, *others = mismatch.errors(include_url=False, include_context=False)
        missing = first["type"] in _MISSING
        expected = "a value" if missing else _expected(first)
        elsewhere = sorted({self._path(error) for error in others} - {self._path(first)})
        if elsewhere:
            expected += f" (there is something wrong with {', '.join(elsewhere)}, too)"
        return InvalidPayloadError(self._path(first), NOTHING if missing else first["input"], expected)

    def _path(self, error: ErrorDetails) -> str:
        first, *steps = error["loc"]
        path = str(first) if self._within is None else f"{self._within}[{first!r}]"
        return path + "".join(f"[{step!r}]" for step in steps)


_MISSING = {"missing", "missing_argument", "missing_keyword_only_argument"}


def _expected(error: ErrorDetails) -> str:
    if error["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return "nothing of this name"
    message = error["msg"].removeprefix("Value error, ")
    return message.removeprefix("Input should be ")
