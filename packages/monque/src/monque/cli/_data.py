"""What jobs are to be given, as it is written on a command line or read from stdin."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from bson.errors import BSONError
from bson.json_util import JSONOptions, loads

from monque.cli._errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

STDIN = "-"

_OPTIONS = JSONOptions(tz_aware=True)
_PAIR = re.compile(r"(?P<name>[^\s=:{}\[\]\"-][^\s=:{}\[\]\"]*)(?P<sign>:?=)(?P<value>.*)", re.DOTALL)
_EXPECTED = 'one JSON document, such as \'{"to": "a@b.c"}\', or pairs: to=a@b.c for text, count:=3 for JSON'


def read_data(words: Sequence[str]) -> Any:  # noqa: ANN401  whatever JSON holds
    """The data in the words of a command line: nothing, one JSON document, or pairs.

    Raises:
        UsageError: It is none of these.

    Example:
        >>> read_data(["to=a@b.c", "count:=3"])
        {'to': 'a@b.c', 'count': 3}
    """
    if not words:
        return None
    unknown = next((word for word in words if word.startswith("--")), None)
    if unknown:
        raise UsageError(f"there is no option {unknown.partition('=')[0]}")
    pairs = [pair for pair in map(_PAIR.fullmatch, words) if pair]
    if len(pairs) == len(words):
        return {pair["name"]: _value(pair) for pair in pairs}
    if len(words) > 1:
        raise UsageError(f"data: expected {_EXPECTED}, got {' '.join(words)!r}")
    return read_json(words[0], "data")


def _value(pair: re.Match[str]) -> Any:  # noqa: ANN401  whatever JSON holds
    return pair["value"] if pair["sign"] == "=" else read_json(pair["value"], pair["name"])


def read_lines(lines: Iterable[str]) -> Iterator[Any]:
    """The data of many jobs: one JSON document a line; empty lines are passed over.

    Raises:
        UsageError: A line is none.
    """
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield read_json(line, f"line {number}")
    except UnicodeDecodeError as error:
        raise UsageError(f"after line {number}: expected text in UTF-8, got {error}") from None


def read_json(text: str, where: str) -> Any:  # noqa: ANN401  whatever JSON holds
    """One document in JSON or MongoDB's Extended JSON.

    Raises:
        UsageError: It is neither; `where` says which.
    """
    try:
        return loads(text, json_options=_OPTIONS)
    except json.JSONDecodeError as error:
        at = f"{error.msg} at character {error.pos + 1}"
    except (BSONError, TypeError, ValueError, ArithmeticError, KeyError, RecursionError) as error:
        at = str(error)
    raise UsageError(f"{where}: expected {_EXPECTED}, got {text.strip()!r}: {at}")
