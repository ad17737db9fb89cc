"""What job names, unique keys and tags may look like."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import cast

from monque.errors import InvalidArgumentError, InvalidJobIdentifierError

# Cc: control characters. Cs: lone surrogates, which BSON cannot hold.
_REFUSED = ("Cc", "Cs")
_MOST_TAGS = 20


def check_job_name(name: object) -> None:
    """Refuse what is no job name: 1–255 characters, no white space, no control characters."""
    if not (isinstance(name, str) and _is_job_name(name)):
        raise InvalidJobIdentifierError("name", name, "1–255 characters without white space or control characters")


@lru_cache(1024)  # a program has few names, and uses each of them often
def _is_job_name(name: str) -> bool:
    return _acceptable(name, 255) and not any(character.isspace() for character in name)


def check_unique_key(unique_key: object) -> str:
    """Refuse what is no unique key: 1–1024 characters, no control characters."""
    if not _acceptable(unique_key, 1024):
        raise InvalidJobIdentifierError("unique_key", unique_key, "1–1024 characters without control characters")
    return cast("str", unique_key)


def check_tags(tags: object) -> tuple[str, ...]:
    """Refuse what are no tags: one, or up to 20, of 1–255 characters, no control characters; give each once."""
    several = [tags] if isinstance(tags, str) else tags
    if isinstance(several, Collection) and all(_acceptable(tag, 255) for tag in cast("Collection[object]", several)):
        words = cast("Collection[str]", several)
        # A set has another order in every process, and the same tags should be stored in the same way.
        distinct = tuple(dict.fromkeys(map(str, sorted(words) if isinstance(words, AbstractSet) else words)))
        if len(distinct) <= _MOST_TAGS:
            return distinct
    expected = f"a tag, or up to {_MOST_TAGS}, each 1–255 characters without control characters"
    raise InvalidArgumentError("tags", tags, expected)


def _acceptable(text: object, longest: int) -> bool:
    if not isinstance(text, str) or not 1 <= len(text) <= longest:
        return False
    return (text.isascii() and text.isprintable()) or not any(unicodedata.category(c) in _REFUSED for c in text)
