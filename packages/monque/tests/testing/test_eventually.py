"""The helpers of `monque.testing`."""

from __future__ import annotations

import pytest
from pymongo.uri_parser import parse_uri

from monque.testing import eventually
from monque.testing.plugin import with_database


async def test_eventually_returns_what_the_condition_returned() -> None:
    answers = iter([None, 0, "", "here"])
    assert await eventually(lambda: next(answers)) == "here"


async def test_eventually_awaits_an_async_condition() -> None:
    answers = iter([False, True])

    async def condition() -> bool:
        return next(answers)

    assert await eventually(condition)


async def test_eventually_says_what_it_saw_last() -> None:
    def never() -> list[int]:
        return []

    with pytest.raises(AssertionError, match=r"never did not hold within 0\.05 s; it returned \[\]"):
        await eventually(never, timeout=0.05)


async def test_eventually_looks_once_even_without_time() -> None:
    assert await eventually(lambda: True, timeout=0)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mongodb://a:1", "mongodb://a:1/t"),
        ("mongodb://a:1/", "mongodb://a:1/t"),
        ("mongodb://a:1/other", "mongodb://a:1/t"),
        ("mongodb://a:1,b:2/other?replicaSet=rs&w=1", "mongodb://a:1,b:2/t?replicaSet=rs&w=1"),
        ("mongodb://u:p@a:1/users", "mongodb://u:p@a:1/t?authSource=users"),
        ("mongodb://u:p@a:1/?tls=true", "mongodb://u:p@a:1/t?tls=true&authSource=admin"),
        ("mongodb://u:p@a:1/users?authSource=x", "mongodb://u:p@a:1/t?authSource=x"),
    ],
)
def test_with_database_changes_the_database_and_nothing_else(uri: str, expected: str) -> None:
    assert with_database(uri, "t") == expected
    assert parse_uri(expected)["database"] == "t"
