"""Python values that BSON has no type for: what is stored in their place, and what that is read as."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, DecimalException
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from bson import Decimal128, ObjectId
from bson.binary import UuidRepresentation
from bson.codec_options import TypeRegistry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bson.codec_options import CodecOptions

    Encoder = Callable[[Any], Any]


def stand_in(value: object) -> Any:  # noqa: ANN401  whatever BSON can hold
    """What is stored in place of a value BSON has no type for; the value itself if nothing is known to do."""
    if isinstance(value, Enum):
        return stand_in(value.value)
    if isinstance(value, Decimal):
        return Decimal128(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, set | frozenset):
        return [stand_in(part) for part in cast("Iterable[object]", value)]
    return _text(value)


def _text(value: object) -> object:
    if isinstance(value, date | time) and not isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, PurePath | IPv4Address | IPv6Address) else value


def with_stand_ins(codec: CodecOptions[Any]) -> CodecOptions[Any]:
    """These settings, with stand-ins for what they cannot encode; whatever they can is up to them."""
    if codec.uuid_representation == UuidRepresentation.UNSPECIFIED:
        codec = codec.with_options(uuid_representation=UuidRepresentation.STANDARD)
    registry = codec.type_registry
    theirs = registry.fallback_encoder
    encoder = stand_in if theirs is None else _first(theirs)
    return codec.with_options(type_registry=TypeRegistry(registry.codecs, encoder))


def _first(theirs: Encoder) -> Encoder:
    """Their stand-ins where they have one, or else ours."""

    def encode(value: object) -> Any:  # noqa: ANN401  whatever BSON can hold
        try:
            theirs_of_it = theirs(value)
        except Exception:
            ours = stand_in(value)
            if ours is value:
                raise
            return ours
        return stand_in(value) if theirs_of_it is value else theirs_of_it

    return encode


def stored(value: Any) -> Any:  # noqa: ANN401  whatever Python can hold
    """`value` as it is when it has been stored and read back, as far as BSON can hold it.

    What BSON cannot hold stays as it is, and is found when the job is made.
    """
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, Mapping):
        return {_key(key): stored(part) for key, part in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [stored(part) for part in cast("Iterable[object]", value)]
    return _moment(value) if isinstance(value, datetime) else _stored_alone(value)


def _stored_alone(value: object) -> Any:  # noqa: ANN401  whatever Python can hold
    if isinstance(value, Enum):
        return stored(value.value)
    if type(value).__module__ in _MODULES_OF_TEXT:
        return str(value)
    try:
        return stand_in(value)
    except DecimalException:  # more digits than there is room for
        return value


# Pydantic's URLs and the like, which are read from text.
_MODULES_OF_TEXT = frozenset({"pydantic.networks", "pydantic_core", "pydantic_core._pydantic_core"})
_AS_THEY_ARE = frozenset({str, int, float, bool, type(None), bytes})


def _key(key: object) -> object:
    """Keys are text; whole numbers, UUIDs, dates and enums are read back from theirs."""
    if isinstance(key, Enum):
        return _key(key.value)
    if isinstance(key, date | time):
        return key.isoformat()
    return str(key) if isinstance(key, int | float | Decimal | UUID | ObjectId) else key


def _moment(moment: datetime) -> datetime:
    """Milliseconds, in UTC; one without a time zone is taken to be in UTC, as BSON does."""
    aware = moment.replace(tzinfo=UTC) if moment.utcoffset() is None else moment.astimezone(UTC)
    return aware.replace(microsecond=aware.microsecond // 1000 * 1000)


def restored(value: Any) -> Any:  # noqa: ANN401  whatever BSON can hold
    """What was read, with Python's own types in place of BSON's; the very same value if it has none of those."""
    if isinstance(value, Decimal128):
        return value.to_decimal()
    if isinstance(value, dict):
        mapping = cast("dict[str, object]", value)
        parts = {key: restored(part) for key, part in mapping.items()}
        return parts if any(parts[key] is not part for key, part in mapping.items()) else mapping
    if isinstance(value, list):
        items = cast("list[object]", value)
        new = [restored(item) for item in items]
        return new if any(one is not other for one, other in zip(new, items, strict=True)) else items
    return value
