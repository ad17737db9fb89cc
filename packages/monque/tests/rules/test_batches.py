"""Many jobs are checked together, and each is refused as it would be alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson.codec_options import CodecOptions
from hypothesis import given
from hypothesis import strategies as st

from monque import InvalidArgumentError, InvalidPayloadError, PayloadTooLargeError
from monque._bulk import Batch, make_all
from monque._intake import LARGEST_PAYLOAD, Payloads, new_job

if TYPE_CHECKING:
    from collections.abc import Iterable

    from monque import Job, NewJob

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)


def make(request: NewJob) -> Job[Any]:
    return new_job(request, now=NOW)


def batch_of(data: Iterable[Any], limit: int | None = None) -> Batch:
    return make_all([("greet", one) for one in data], make, Payloads(CODEC, limit))


def nested(levels: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for _ in range(levels):
        data = {"deeper": data}
    return data


@pytest.mark.parametrize("place", [0, 49, 50, 119])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"n": object()}, InvalidPayloadError), (nested(100), InvalidPayloadError), ("x" * 200, PayloadTooLargeError)],
    ids=["foreign", "deep", "large"],
)
def test_the_first_that_cannot_be_stored_is_named(place: int, wrong: Any, error: type[InvalidArgumentError]) -> None:
    data: list[Any] = [{"n": number} for number in range(120)]
    data[place] = data[-1] = wrong
    with pytest.raises(error, match=rf"^jobs\[{place}\]: data.*; nothing was written$"):
        batch_of(data, 200)


@pytest.mark.parametrize(("size", "limit"), [(150, 200), (LARGEST_PAYLOAD // 3, None)])
def test_those_that_are_too_large_together_are_stored_one_by_one(size: int, limit: int | None) -> None:
    data = ["x" * size] * 5
    assert [job.data for job in batch_of(data, limit).jobs] == data


@given(st.lists(st.one_of(st.integers(-(2**65), 2**65), st.text(), st.dictionaries(st.text(), st.integers()))))
def test_all_are_taken_together_if_each_is_taken_alone(data: list[Any]) -> None:
    payloads = Payloads(CODEC, 300)

    def is_taken(several: list[Any]) -> bool:
        try:
            make_all([("greet", one) for one in several], make, payloads)
        except InvalidArgumentError:
            return False
        return True

    assert is_taken(data) == all(is_taken([one]) for one in data)
