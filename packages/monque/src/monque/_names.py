"""What job names and unique keys may look like."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from monque.errors import InvalidJobIdentifierError

# Cc: control characters. Cs: lone surrogates, which BSON cannot hold.
_REFUSED = ("Cc", "Cs")


def check_job_name(name: object) -> None:
    """Refuse what is no job name: 1–255 characters, no white space, no control characters."""
    if not (isinstance(name, str) and _is_job_name(name)):
        raise InvalidJobIdentifierError("name", name, "1–255 characters without white space or control characters")


@lru_cache(1024)  # a program has few names, and uses each of them often
def _is_job_name(name: str) -> bool:
    return _acceptable(name, 255) and not any(character.isspace() for character in name)


def check_unique_key(unique_key: object) -> None:
    """Refuse what is no unique key: 1–1024 characters, no control characters."""
    if not _acceptable(unique_key, 1024):
        raise InvalidJobIdentifierError("unique_key", unique_key, "1–1024 characters without control characters")


def _acceptable(text: object, longest: int) -> bool:
    if not isinstance(text, str) or not 1 <= len(text) <= longest:
        return False
    return (text.isascii() and text.isprintable()) or not any(unicodedata.category(c) in _REFUSED for c in text)
