from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY
from uuid import UUID

import pytest

from monque import ConnectionError, InvalidArgumentError, InvalidJobIdentifierError, JobStatus, Monque, NewJob
from monque.testing import assert_enqueued, refute_enqueued, travel
from monque.testing._matching import differences

if TYPE_CHECKING:
    from pymongo.database import Database

ADA = {"to": "ada@example.org", "subject": "Hello"}
KEY = UUID(int=7)


def is_short(text: str) -> bool:
    return len(text) < 3


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ({}, {"to": "ada"}),
        ({"to": "ada"}, {"to": "ada", "cc": []}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": 1, "d": 2}, "e": 3}}),
        ({"to": is_short}, {"to": "me"}),
        ({"n": int, "t": datetime}, {"n": 3, "t": datetime(2030, 1, 1, tzinfo=UTC)}),
        ({"to": ANY}, {"to": None}),
        ({"x": pytest.approx(0.3)}, {"x": 0.1 + 0.2}),
        ([1, {"a": 1}], [1, {"a": 1, "b": 2}]),
        ((1, is_short), [1, ""]),
        ({"d": Decimal("1.5"), "s": {3}, "t": timedelta(seconds=5)}, {"d": Decimal("1.5"), "s": [3], "t": 5.0}),
        ({KEY: 1}, {str(KEY): 1}),
        (
            {"t": datetime(2030, 1, 1, 0, 0, 0, 1999, tzinfo=UTC)},
            {"t": datetime(2030, 1, 1, 0, 0, 0, 1000, tzinfo=UTC)},
        ),
        ({"no": None}, {"no": None}),
    ],
)
def test_data_that_are_what_is_expected(expected: object, actual: object) -> None:
    assert differences(expected, actual, "data") == []


@pytest.mark.parametrize(
    ("expected", "actual", "said"),
    [
        ({"to": "ada"}, {"to": "bob"}, "data['to'] is 'bob', expected 'ada'"),
        ({"to": "ada"}, {}, "data has no 'to'"),
        ({"to": None}, {}, "data has no 'to'"),
        ({"to": "ada"}, 7, "data is 7, expected {'to': 'ada'}"),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, "data['a']['b'] is 2, expected 1"),
        ({"to": is_short}, {"to": "ada"}, "data['to'] is 'ada', expected is_short"),
        ({"n": int}, {"n": "3"}, "data['n'] is '3', expected int"),
        ([1], [1, 2], "data has 2 items, expected 1"),
        ([1, [2]], [1, [3]], "data[1][0] is 3, expected 2"),
        ([{"n": int, "s": [is_short, 7]}], 7, "data is 7, expected [{'n': int, 's': [is_short, 7]}]"),
        ("x" * 500, 7, f"data is 7, expected '{'x' * 198}…"),
    ],
)
def test_data_that_are_not_what_is_expected(expected: object, actual: object, said: str) -> None:
    assert differences(expected, actual, "data") == [said]


async def test_what_is_there_is_found_in_the_order_it_was_enqueued(monque: Monque) -> None:
    jobs = await monque.enqueue_many(
        [("send", ADA), NewJob(name="send", data=ADA, unique_key="k", delay=3600), ("other", ADA)]
    )

    @monque.worker("send")
    async def send(to: str, subject: str) -> None: ...

    assert await assert_enqueued(monque) == jobs
    assert await assert_enqueued(monque, "send") == jobs[:2]
    assert await assert_enqueued(monque, send, {"to": "ada@example.org"}, count=2) == jobs[:2]
    assert await assert_enqueued(monque, data=ADA, count=3) == jobs
    assert await assert_enqueued(monque, unique_key="k") == [jobs[1]]
    assert await assert_enqueued(monque, due=jobs[0].next_run_at, name="send") == [jobs[0]]
    assert await assert_enqueued(monque, due=3600) == [jobs[1]]
    assert await assert_enqueued(monque, due=timedelta(hours=1)) == [jobs[1]]
    assert await assert_enqueued(monque, due=lambda due: due > jobs[0].next_run_at) == [jobs[1]]
    assert await assert_enqueued(monque, "nothing", count=0) == []
    await refute_enqueued(monque, "nothing")
    await refute_enqueued(monque, "send", due=60)
    await refute_enqueued(monque, "send", status={JobStatus.FAILED, "completed"})


async def test_how_long_after_its_enqueue_a_job_is_due_stays_so_when_time_goes_by(monque: Monque) -> None:
    await monque.enqueue("send", delay=3600)
    await travel(monque, minutes=30)
    await assert_enqueued(monque, due=3600)


async def test_what_is_not_pending_is_not_enqueued(monque: Monque) -> None:
    job = await monque.enqueue("send")
    await monque.jobs.cancel(job.id)
    await refute_enqueued(monque, "send")
    with pytest.raises(AssertionError, match=r"no pending job with name='send'\n(.|\n)*but it is cancelled"):
        await assert_enqueued(monque, "send")
    assert len(await assert_enqueued(monque, "send", status="cancelled")) == 1
    assert len(await assert_enqueued(monque, "send", status=[JobStatus.CANCELLED, JobStatus.PENDING])) == 1


async def test_a_failure_shows_what_is_there_the_closest_first(monque: Monque, monque_database: Database[Any]) -> None:
    monque_database.monque_jobs.insert_one({"_id": "odd", "name": "send", "status": "pending"})
    then = datetime(2030, 1, 1, 12, tzinfo=UTC)
    await monque.enqueue("other", {"to": "ada"}, run_at=then)
    await monque.schedule("0 9 1 1 *", "send", {"to": "bob"}, unique_key="k")
    failed = await monque.enqueue("send", {"to": "ada", "cc": "bob"}, run_at=then)
    reason = {"status": "failed", "failReason": "ValueError: " + "no " * 100, "createdAt": then - timedelta(hours=2)}
    monque_database.monque_jobs.update_one({"_id": failed.id}, {"$set": reason})
    with pytest.raises(AssertionError) as caught:
        await assert_enqueued(monque, "send", {"to": "ada"}, unique_key="k", due=60, status="pending")
    lines = str(caught.value).splitlines()
    assert lines[0] == "no pending job with name='send', data={'to': 'ada'}, unique_key='k', due=60"
    assert lines[1] == f"There are 4 jobs in {monque_database.name}.monque_jobs, the closest first:"
    assert re.fullmatch(
        r"  send  \{'to': 'bob'\}  pending  due \d{4}-01-01 09:00:00 UTC  unique key 'k'  cron '0 9 1 1 \*'", lines[2]
    )
    assert lines[3].startswith("      but data['to'] is 'bob', expected 'ada'; it is due at ")
    assert lines[4].startswith(
        "  send  {'to': 'ada', 'cc': 'bob'}  failed  due 2030-01-01 12:00:00 UTC  ValueError: no no"
    )
    assert lines[4].endswith("…")
    assert lines[5] == (
        "      but its unique key is None; "
        "it is due at 2030-01-01 12:00:00 UTC, 2:00:00 after it was enqueued; it is failed"
    )
    assert lines[6].startswith("  other  {'to': 'ada'}  pending")
    assert lines[7].startswith("      but its name is 'other'; its unique key is None; it is due at ")
    assert lines[8] == "  job odd: field '_id': expected an ObjectId, got str"
    assert len(lines) == 9


async def test_a_failure_shows_no_more_than_one_can_read(monque: Monque) -> None:
    await monque.enqueue_many([("send", {"n": n}) for n in range(15)])
    with pytest.raises(AssertionError) as caught:
        await assert_enqueued(monque, "send", count=3)
    lines = str(caught.value).splitlines()
    assert lines[0] == "expected 3 of: pending job with name='send'; there are 15"
    assert (len(lines), lines[-1]) == (13, "  … and 5 more jobs")


async def test_a_failure_says_that_nothing_is_there(monque: Monque, monque_database: Database[Any]) -> None:
    with pytest.raises(AssertionError) as caught:
        await assert_enqueued(monque)
    assert str(caught.value) == f"no pending job\nThere are no jobs in {monque_database.name}.monque_jobs."


async def test_what_must_not_be_there_is_shown(monque: Monque) -> None:
    await monque.enqueue("send", ADA)
    with pytest.raises(AssertionError, match=r"expected none, found 1: pending job with name='send'\nThere are 1 jobs"):
        await refute_enqueued(monque, "send")


async def test_it_can_be_waited_for(monque: Monque) -> None:
    asserting = asyncio.create_task(assert_enqueued(monque, "send", timeout=60))
    refuting = asyncio.create_task(refute_enqueued(monque, "send", timeout=timedelta(seconds=60)))
    done, _ = await asyncio.wait([asserting, refuting], timeout=0.05)
    assert not done
    job = await monque.enqueue("send")
    assert await asserting == [job]
    with pytest.raises(AssertionError, match="expected none, found 1"):
        await refuting


async def test_that_nothing_comes_can_be_waited_for(monque: Monque) -> None:
    await refute_enqueued(monque, "send", timeout=0.05)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("due", datetime(2030, 1, 1)),  # noqa: DTZ001  that is what is wrong with it
        ("due", "soon"),
        ("status", "done"),
        ("status", ["done"]),
        ("status", 7),
        ("count", -1),
        ("count", True),
        ("count", "1"),
        ("timeout", -1),
        ("timeout", "soon"),
    ],
)
async def test_arguments_that_make_no_sense_are_refused(monque: Monque, argument: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=argument):
        await assert_enqueued(monque, **{argument: value})


async def test_names_and_keys_are_checked(monque: Monque) -> None:
    with pytest.raises(InvalidJobIdentifierError, match="name"):
        await refute_enqueued(monque, "two words")
    with pytest.raises(InvalidJobIdentifierError, match="unique_key"):
        await refute_enqueued(monque, unique_key="")


async def test_it_has_to_be_connected() -> None:
    with pytest.raises(ConnectionError, match="not connected"):
        await assert_enqueued(Monque(), "send")
