"""`monque.testing.sync`: the same for tests that do not await."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from monque import testing
from monque.sync import Monque
from monque.testing import sync
from monque.testing.sync import (
    assert_enqueued,
    drain,
    eventually,
    expire_leases,
    perform,
    refute_enqueued,
    travel,
)

if TYPE_CHECKING:
    from collections.abc import Generator


@pytest.fixture
def queue(monque_uri: str) -> Generator[Monque]:
    with Monque(monque_uri) as monque:
        yield monque


def test_everything_is_there() -> None:
    waited_for = set(testing.__all__) - {"Drained", "Program", "Run"}
    assert set(sync.__all__) == waited_for
    for name in waited_for:
        doc = getattr(sync, name).__doc__
        assert doc
        assert "await" not in doc.partition("Example:")[2]


def test_a_queue_from_enqueue_to_end(queue: Monque) -> None:
    @queue.worker("add", store_result=True)
    def add(one: int, other: int) -> int:
        return one + other

    job = queue.enqueue("add", {"one": 1, "other": 2}, delay=3600)
    assert assert_enqueued(queue, "add", {"one": 1}, due=3600, count=1) == [job]
    refute_enqueued(queue, add, {"one": 2})
    assert perform(queue, add, 3, other=4) == 7
    assert perform(queue, "add", {"one": 3, "other": 5}, attempt=2) == 8
    assert not drain(queue).runs
    travel(queue, hours=1)
    assert str(drain(queue)) == "1 run: 1 completed"
    assert queue.jobs.result(job.id) == 3
    assert expire_leases(queue) == 0


def test_a_failure_is_raised(queue: Monque) -> None:
    @queue.worker("bad")
    def bad(job: Any) -> None:
        raise ValueError("no")

    queue.enqueue("bad")
    with pytest.raises(ValueError, match="no"):
        drain(queue)
    with pytest.raises(ValueError, match="no"):
        perform(queue, "bad")
    with pytest.raises(AssertionError, match="no pending job with name='good'"):
        assert_enqueued(queue, "good")


def test_only_some_names_are_drained(queue: Monque) -> None:
    for name in ("one", "other"):
        queue.worker(name, lambda: None)
        queue.enqueue(name)
    assert [job.name for job in drain(queue, names="one").completed] == ["one"]


def test_eventually_waits() -> None:
    answers = iter([None, 0, "here"])
    assert eventually(lambda: next(answers)) == "here"
    with pytest.raises(AssertionError, match=r"did not hold within 0\.02 s; it returned \[\]"):
        eventually(list, timeout=0.02)
