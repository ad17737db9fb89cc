"""`Monque.jobs`: finding, paging and counting."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, get_args

import pytest
from bson import DatetimeMS, ObjectId
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monque import (
    AggregationTimeoutError,
    ConnectionError,
    InvalidArgumentError,
    InvalidCursorError,
    Job,
    JobFilter,
    JobOrder,
    JobStatus,
    Monque,
    Page,
    sync,
)
from monque._store import reading
from monque.testing import eventually

from .support import FUTURE, PAST, explain, spoil_text, statements, stored

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence

    from pymongo import MongoClient
    from pymongo.asynchronous.database import AsyncDatabase
    from pymongo.collection import Collection
    from pymongo.database import Database

    from .support import Commands, Document, Lab, Plan

ORDERS: tuple[JobOrder, ...] = get_args(JobOrder)
PENDING = JobFilter(status=JobStatus.PENDING)
# All statuses but pending.
OTHERS = JobFilter(status=[*JobStatus][1:])
FIELDS = {"created": "createdAt", "updated": "updatedAt", "due": "nextRunAt"}


def at(minutes: float) -> datetime:
    return PAST + timedelta(minutes=minutes)


def add(raw: Collection[Document], *documents: Document) -> list[ObjectId]:
    raw.insert_many(documents)
    return [document["_id"] for document in documents]


def where(**conditions: Any) -> JobFilter:
    """A filter, of whatever types."""
    return JobFilter(**conditions)


def orders(filter_: JobFilter) -> list[JobOrder]:
    """The orders that fit a filter."""
    wanted = [filter_.status] if isinstance(filter_.status, str) else filter_.status
    unfit = {"due"} if wanted is None or list(wanted) != [JobStatus.PENDING] else set[str]()
    unfit |= {"updated"} if wanted is None or JobStatus.PENDING in wanted else set()
    return [order for order in ORDERS if order.removeprefix("-") not in unfit]


def fitting(filter_: JobFilter, order: JobOrder) -> JobFilter:
    """The filter, or one by status that fits the order."""
    if order in orders(filter_):
        return filter_
    return replace(filter_, status=PENDING.status if "due" in order else OTHERS.status)


async def found(monque: Monque, **conditions: Any) -> set[ObjectId]:
    """The ids of what is found, which every way of asking agrees about."""
    filter_ = JobFilter(**conditions)
    jobs = await monque.jobs.find(filter_)
    for order in orders(filter_):
        assert {job.id for job in (await monque.jobs.page(filter_, order=order)).jobs} == {job.id for job in jobs}
    assert await monque.jobs.count(filter_) == len(jobs)
    return {job.id for job in jobs}


# --- filters --------------------------------------------------------------------------------------------------------


async def test_jobs_are_found_by_name_and_status(monque: Monque, raw: Collection[Document]) -> None:
    ids = {(name, status): add(raw, stored(status, name=name))[0] for name in ("a", "b", "c") for status in JobStatus}
    assert await found(monque) == set(ids.values())
    assert await found(monque, name="a") == {ids["a", status] for status in JobStatus}
    assert await found(monque, name=["a", "c", "a"]) == {ids[n, s] for n in "ac" for s in JobStatus}
    for status in JobStatus:
        assert await found(monque, status=status) == {ids[name, status] for name in "abc"}
        assert await found(monque, name="b", status=status) == {ids["b", status]}
    some = [JobStatus.PENDING, JobStatus.COMPLETED, JobStatus.FAILED]
    assert await found(monque, status=some) == {ids[n, s] for n in "abc" for s in some}
    assert await found(monque, name="nobody") == set()
    assert await found(monque, name=[]) == set()
    assert await found(monque, status=[]) == set()


async def test_jobs_are_found_by_id(monque: Monque, raw: Collection[Document]) -> None:
    one, other, _ = add(raw, stored(), stored("failed"), stored())
    assert await found(monque, ids=[one, str(other), ObjectId()]) == {one, other}
    assert await found(monque, ids=[one, other], status="failed") == {other}
    assert await found(monque, ids=[]) == set()


async def test_jobs_are_found_by_unique_key(monque: Monque, raw: Collection[Document]) -> None:
    ended = add(raw, stored("completed", uniqueKey="k"), stored("failed", uniqueKey="k"))
    active = add(raw, stored(uniqueKey="k"))
    add(raw, stored(uniqueKey="other"), stored("completed", name="else", uniqueKey="k"), stored())
    assert await found(monque, name="work", unique_key="k") == {*ended, *active}
    assert await found(monque, name="work", unique_key="k", status="pending") == {*active}
    assert await found(monque, name="work", unique_key="k", status=["pending", "failed"]) == {*active, ended[1]}


async def test_jobs_are_found_by_tags(monque: Monque) -> None:
    both = await monque.enqueue("a", tags=["eu", "blue"])
    one = await monque.enqueue("b", tags="eu", delay=60)
    await monque.enqueue("b", tags="us")
    await monque.enqueue("b")
    assert await found(monque, tags="eu") == {both.id, one.id}
    assert await found(monque, tags=["blue", "eu"]) == {both.id}
    assert await found(monque, tags="eu", name="b") == {one.id}
    assert await found(monque, tags="eu", status="failed") == set()


@pytest.mark.parametrize("time", ["created", "updated", "due"])
@pytest.mark.parametrize("status", [None, *JobStatus])
async def test_jobs_are_found_by_their_times(
    monque: Monque, raw: Collection[Document], time: str, status: JobStatus | None
) -> None:
    others = [field for word, field in FIELDS.items() if word != time]
    ids = add(
        raw, *(stored(status or "failed", **{FIELDS[time]: at(n)}, **dict.fromkeys(others, at(0))) for n in range(5))
    )
    rest = {} if status is None else {"status": status}
    assert await found(monque, **{f"{time}_from": at(3)}, **rest) == {ids[3], ids[4]}
    assert await found(monque, **{f"{time}_until": at(3)}, **rest) == set(ids[:3])
    assert await found(monque, **{f"{time}_from": at(1), f"{time}_until": at(3)}, **rest) == {ids[1], ids[2]}
    # A microsecond before it, the millisecond is still to come; a microsecond after it, it is over.
    moment = timedelta(microseconds=1)
    assert await found(monque, **{f"{time}_from": at(3) - moment}, **rest) == {ids[3], ids[4]}
    assert await found(monque, **{f"{time}_from": at(3) + moment}, **rest) == {ids[4]}
    assert await found(monque, **{f"{time}_until": at(3) + moment}, **rest) == set(ids[:4])
    there = at(3).astimezone(timezone(timedelta(hours=5)))
    assert await found(monque, **{f"{time}_from": there, f"{time}_until": datetime.max.replace(tzinfo=UTC)}) == {
        *ids[3:]
    }


async def test_limits_of_several_times_apply_together(monque: Monque, raw: Collection[Document]) -> None:
    ids = add(
        raw,
        *(
            stored(status, createdAt=at(created), updatedAt=at(updated))
            for status in ("pending", "completed", "failed")
            for created in (0, 1)
            for updated in (2, 3)
        ),
    )
    late: dict[str, Any] = {"created_from": at(1), "updated_until": at(3)}
    assert await found(monque, **late) == {ids[2], ids[6], ids[10]}
    assert await found(monque, status=["completed", "failed"], **late) == {ids[6], ids[10]}


async def test_jobs_are_found_by_what_their_failure_said(monque: Monque, raw: Collection[Document]) -> None:
    one, other, _, again = add(
        raw,
        stored("failed", failReason="TimeoutError: no answer (30 s)"),
        stored("failed", failReason="ValueError: ÄRGER"),
        stored("failed"),
        stored(failReason="TimeoutError: no answer (30 s)"),
    )
    assert await found(monque, error="NO ANSWER (") == {one, again}
    assert await found(monque, error="ärger") == {other}
    assert await found(monque, error="no.answer") == set()
    assert await found(monque, error="timeout", status="failed") == {one}


TIMES = [f"{time}_{word}" for time in FIELDS for word in ("from", "until")]
NO_FILTERS: list[tuple[str, Any]] = [
    *((argument, value) for argument in TIMES for value in (0, "2024-01-01", PAST.replace(tzinfo=None), PAST.date())),
    *(("tags", value) for value in ("", [], [""], 1, ["a", 1], "x" * 256)),
    *(("error", value) for value in ("", 1, b"x", "a\0b", "\ud800", "x" * 1001)),
]


@pytest.mark.parametrize(("argument", "value"), NO_FILTERS)
def test_a_filter_that_makes_no_sense_is_refused(argument: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        JobFilter(**{argument: value})
    assert caught.value.argument == argument


@pytest.mark.parametrize("time", FIELDS)
def test_a_time_that_ends_before_it_begins_is_refused(time: str) -> None:
    for until in (at(0), at(1)):
        with pytest.raises(InvalidArgumentError, match=f"{time}_until: expected a time after {time}_from, datetime"):
            where(**{f"{time}_from": at(1), f"{time}_until": until})


async def test_what_is_no_filter_is_refused(monque: Monque) -> None:
    nonsense: Any = {"name": "work"}
    with pytest.raises(InvalidArgumentError, match="filter: expected a JobFilter"):
        monque.jobs.find(nonsense)
    for call in (monque.jobs.page, monque.jobs.count):
        with pytest.raises(InvalidArgumentError, match="filter: expected a JobFilter"):
            await call(nonsense)


async def test_no_foreign_status_hides_a_job_where_none_is_asked_for(monque: Monque, raw: Collection[Document]) -> None:
    (job_id,) = add(raw, stored("scheduled"))
    page = await monque.jobs.page(JobFilter(name="work"))
    assert page.jobs == []
    assert "status" in str(page.unreadable[job_id])
    assert await monque.jobs.count(JobFilter(name="work")) == 1


# --- find -----------------------------------------------------------------------------------------------------------


async def test_finding_gives_a_list_or_one_job_after_another(monque: Monque) -> None:
    made = await monque.enqueue_many(("work", number) for number in range(1300))
    assert await monque.jobs.find(order="created") == made
    assert [job async for job in monque.jobs.find()] == made[::-1]
    again = monque.jobs.find(order="created", limit=501)
    assert await again == await again == made[:501]
    assert await monque.jobs.find(order="created", limit=5000) == made
    assert await monque.jobs.find(JobFilter(name="nobody")) == []


async def test_finding_reads_no_more_than_is_taken(monque: Monque, commands: Commands) -> None:
    await monque.enqueue_many(("work", number) for number in range(1300))
    commands.sent.clear()
    async for job in monque.jobs.find(order="created"):
        if job.data == 400:
            break
    assert len(commands.named("find")) == 1


@pytest.mark.parametrize("limit", [0, -1, 1.0, "1", True])
async def test_a_limit_that_makes_no_sense_is_refused(monque: Monque, limit: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="limit: expected a whole number from 1, got"):
        monque.jobs.find(limit=limit)


@pytest.mark.parametrize("order", ["", "name", "+created", "--due", 1, ["due"]])
async def test_an_order_that_makes_no_sense_is_refused(monque: Monque, order: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="order: expected None, or one of 'created', '-created', 'updated'"):
        monque.jobs.find(order=order)
    with pytest.raises(InvalidArgumentError, match="order: expected None, or one of"):
        await monque.jobs.page(order=order)


MIXED: list[Any] = [None, [JobStatus.PENDING, JobStatus.FAILED]]
NOT_DUE: list[Any] = [*MIXED, JobStatus.FAILED, []]


@pytest.mark.parametrize("minus", ["", "-"])
@pytest.mark.parametrize(
    ("order", "status", "said"),
    [
        *(("due", status, "a filter for pending jobs alone") for status in NOT_DUE),
        *(("updated", status, "a filter by status, but not for pending") for status in (*MIXED, JobStatus.PENDING)),
    ],
)
async def test_an_order_that_no_index_gives_is_refused(
    monque: Monque, order: str, status: Any, said: str, minus: Any
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"beside it, {said}"):
        monque.jobs.find(JobFilter(status=status), order=minus + order)
    with pytest.raises(InvalidArgumentError, match=f"beside it, {said}"):
        await monque.jobs.page(JobFilter(status=status), order=minus + order)


@pytest.mark.parametrize(
    ("status", "order"),
    [
        (None, "-created"),
        ([], "-created"),
        ("pending", "due"),
        (["pending", "failed"], "-created"),
        ("processing", "-updated"),
        (["completed", "processing"], "-updated"),
    ],
)
async def test_without_an_order_it_is_the_one_that_fits(
    monque: Monque, raw: Collection[Document], status: Any, order: JobOrder
) -> None:
    times = [dict(zip(FIELDS.values(), map(at, minutes), strict=True)) for minutes in ((1, 2, 3), (2, 3, 1), (3, 1, 2))]
    add(raw, *(stored(one, **some) for one in JobStatus for some in times))
    filter_ = JobFilter(status=status)
    assert await monque.jobs.find(filter_) == await monque.jobs.find(filter_, order=order)
    page = await monque.jobs.page(filter_, size=2)
    assert page == await monque.jobs.page(filter_, order=order, size=2)
    assert await monque.jobs.page(filter_, cursor=page.next) == await monque.jobs.page(
        filter_, order=order, cursor=page.next
    )


# --- pages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 1001, 1.0, "1", True, None])
async def test_a_size_that_makes_no_sense_is_refused(monque: Monque, size: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="size: expected a whole number from 1 to 1,000, got"):
        await monque.jobs.page(size=size)


async def test_a_page_may_have_a_thousand_jobs(monque: Monque) -> None:
    made = await monque.enqueue_many(("work", number) for number in range(1001))
    page = await monque.jobs.page(order="created", size=1000)
    assert page.jobs == made[:1000]
    assert (await monque.jobs.page(order="created", size=1000, cursor=page.next)).jobs == made[1000:]


async def test_where_nothing_is_there_is_one_empty_page(monque: Monque) -> None:
    assert await monque.jobs.page() == Page([], None, None)


async def test_a_cursor_belongs_to_its_order_and_filter(monque: Monque) -> None:
    await monque.enqueue_many(("work", number) for number in range(3))
    filter_ = JobFilter(name=["work", "other"], status=JobStatus.PENDING, tags=None)
    cursor = (await monque.jobs.page(filter_, size=1)).next
    same = JobFilter(name=("other", "work"), status=[JobStatus.PENDING])
    assert len((await monque.jobs.page(same, cursor=cursor)).jobs) == 2
    for other in (JobFilter(), JobFilter(name="work"), JobFilter(name=["work", "other"], status=[JobStatus.FAILED])):
        with pytest.raises(InvalidCursorError, match="in the same order and with the same filter") as caught:
            await monque.jobs.page(other, cursor=cursor)
        assert (caught.value.argument, caught.value.value) == ("cursor", cursor)
    for order in orders(filter_):
        if order != "due":
            with pytest.raises(InvalidCursorError, match="in the same order"):
                await monque.jobs.page(filter_, order=order, cursor=cursor)


async def test_all_of_a_filter_is_part_of_its_cursors(monque: Monque, raw: Collection[Document]) -> None:
    add(raw, *(stored("failed", uniqueKey="k", tags=["t"], failReason="e") for _ in range(2)))
    ids = [document["_id"] for document in raw.find()]
    filters = [
        JobFilter(name="work", unique_key="k"),
        JobFilter(tags="t"),
        JobFilter(error="e"),
        JobFilter(ids=ids),
        JobFilter(created_from=at(-1)),
        JobFilter(created_until=at(1)),
        JobFilter(updated_until=at(1)),
    ]
    cursors = [(await monque.jobs.page(filter_, size=1)).next for filter_ in filters]
    assert len(set(cursors)) == len(filters)
    assert None not in cursors
    assert (await monque.jobs.page(JobFilter(tags=["t"]), size=1, cursor=cursors[1])).jobs


@pytest.mark.parametrize(
    "cursor", ["", "nonsense", "ö", 1, b"x", "bnVsbA", "W10", "WzFd", "eyJhIjoxfQ", "[]", "A" * 1000]
)
async def test_what_is_no_cursor_is_refused(monque: Monque, cursor: Any) -> None:
    with pytest.raises(InvalidCursorError, match="cursor: expected `next` or `previous` of a page, as it is"):
        await monque.jobs.page(cursor=cursor)


async def test_a_cursor_that_was_changed_is_refused(monque: Monque) -> None:
    await monque.enqueue_many(("work", number) for number in range(2))
    cursor = (await monque.jobs.page(size=1)).next
    assert cursor is not None
    for changed in (cursor[:-1], cursor + "A", cursor + "=", cursor[1:], " " + cursor):
        with pytest.raises(InvalidCursorError):
            await monque.jobs.page(cursor=changed)


async def test_a_page_that_is_gone_meanwhile_leads_back(monque: Monque) -> None:
    made = await monque.enqueue_many(("work", number) for number in range(4))
    first = await monque.jobs.page(order="created", size=2)
    second = await monque.jobs.page(order="created", size=2, cursor=first.next)
    assert second.jobs == made[2:]
    await monque.jobs.delete_many(JobFilter(ids=[job.id for job in made[2:]]))
    nothing = await monque.jobs.page(order="created", size=2, cursor=first.next)
    assert (nothing.jobs, nothing.next) == ([], None)
    back = await monque.jobs.page(order="created", size=2, cursor=nothing.previous)
    assert (back.jobs, back.previous) == (made[:2], None)

    await monque.jobs.delete_many(JobFilter(ids=[job.id for job in made[:2]]))
    more = await monque.enqueue_many(("work", number) for number in range(2))
    nothing = await monque.jobs.page(order="created", size=2, cursor=second.previous)
    assert (nothing.jobs, nothing.previous) == ([], None)
    assert (await monque.jobs.page(order="created", size=2, cursor=nothing.next)).jobs == more


async def test_new_jobs_before_the_first_page_can_be_gone_back_to(monque: Monque) -> None:
    made = await monque.enqueue_many(("work", number) for number in range(4))
    first = await monque.jobs.page(size=2)
    second = await monque.jobs.page(size=2, cursor=first.next)
    more = await monque.enqueue_many(("work", number) for number in range(3))
    back = await monque.jobs.page(size=2, cursor=second.previous)
    assert back == Page(first.jobs, first.next, back.previous)
    assert back.previous is not None
    newer = await monque.jobs.page(size=2, cursor=back.previous)
    assert newer.jobs == [more[1], more[0]]
    assert (await monque.jobs.page(size=2, cursor=newer.previous)).jobs == [more[2]]
    assert made[3] in first.jobs


_times = st.integers(0, 3).map(at)
_document = st.builds(
    stored,
    st.sampled_from([*JobStatus]),
    name=st.sampled_from("abc"),
    createdAt=_times,
    updatedAt=_times,
    nextRunAt=_times,
    priority=st.sampled_from([None, None, -3, 5]),
    tags=st.sampled_from([None, ["t"], ["t", "u"]]),
)
_filters = st.builds(
    JobFilter,
    name=st.sampled_from([None, "a", ["a", "b"]]),
    status=st.sampled_from([None, None, *JobStatus, ["pending", "completed"], ["failed", "cancelled"]]),
    tags=st.sampled_from([None, None, "t", ["t", "u"]]),
    created_from=st.none() | _times,
    updated_until=st.none() | _times,
)


def _applies(filter_: JobFilter, document: Document) -> bool:
    names = [filter_.name] if isinstance(filter_.name, str) else filter_.name
    wanted = [filter_.status] if isinstance(filter_.status, str) else filter_.status
    return (
        (names is None or document["name"] in names)
        and (wanted is None or document["status"] in wanted)
        and (filter_.tags is None or set(document.get("tags", [])) >= set(filter_.tags))
        and (filter_.created_from is None or document["createdAt"] >= filter_.created_from)
        and (filter_.updated_until is None or document["updatedAt"] < filter_.updated_until)
    )


@pytest.fixture
def blocking(monque_uri: str) -> Generator[sync.Monque]:
    with sync.Monque(monque_uri) as monque:
        yield monque


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(_document, max_size=25),
    filter_=_filters,
    order=st.sampled_from((None, *ORDERS)),
    size=st.integers(1, 12),
)
def test_pages_have_every_job_once_forward_and_backward(
    documents: list[Document],
    filter_: JobFilter,
    order: JobOrder | None,
    size: int,
    blocking: sync.Monque,
    raw: Collection[Document],
) -> None:
    filter_, expected = _stored_and_expected(documents, filter_, order, raw)
    pages = _forward(blocking, filter_, order, size)
    assert [job.id for page in pages for job in page.jobs] == expected
    assert all(len(page.jobs) == size for page in pages[:-1])
    assert pages[0].previous is None
    back = _backward(blocking, filter_, order, size, pages[-1])
    assert [[job.id for job in page.jobs] for page in back] == [[job.id for job in page.jobs] for page in pages[::-1]]
    assert blocking.jobs.count(filter_) == len(expected)
    assert [job.id for job in blocking.jobs.find(filter_, order=order)] == expected


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(_document, max_size=25),
    filter_=_filters,
    order=st.sampled_from((None, *ORDERS)),
    numbers=st.tuples(st.integers(1, 12), st.integers(1, 8)),
)
def test_pages_that_come_of_few_jobs_lead_to_every_job_once_forward_and_backward(
    documents: list[Document],
    filter_: JobFilter,
    order: JobOrder | None,
    numbers: tuple[int, int],
    blocking: sync.Monque,
    raw: Collection[Document],
) -> None:
    size, most = numbers
    filter_, expected = _stored_and_expected(documents, filter_, order, raw)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MOST_EXAMINED", most)
        pages = _forward(blocking, filter_, order, size)
        back = _backward(blocking, filter_, order, size, pages[-1])
        found = blocking.jobs.find(filter_, order=order)
        again = _forward(blocking, filter_, order, size, back[-1])
    assert [job.id for page in pages for job in page.jobs] == expected
    assert [job.id for page in back[::-1] for job in page.jobs] == expected
    assert [job.id for page in again for job in page.jobs] == expected
    assert [job.id for job in found] == expected
    assert pages[0].previous is None


def _stored_and_expected(
    documents: list[Document], filter_: JobFilter, order: JobOrder | None, raw: Collection[Document]
) -> tuple[JobFilter, list[ObjectId]]:
    """The filter, so that it fits the order, and the ids of what it applies to."""
    # The same example runs again while it is made smaller.
    documents = [{**document, "_id": ObjectId()} for document in documents]
    raw.delete_many({})
    if documents:
        raw.insert_many(documents)
    filter_ = filter_ if order is None else fitting(filter_, order)
    # The first of these is the natural one.
    natural: JobOrder = next(one for one in ("due", "-updated", "-created") if one in orders(filter_))
    order = order or natural
    field = FIELDS[order.removeprefix("-")]
    matching = sorted(
        (document for document in documents if _applies(filter_, document)),
        key=lambda document: (document[field], document["_id"]),
        reverse=order.startswith("-"),
    )
    return filter_, [document["_id"] for document in matching]


def _forward(
    monque: sync.Monque, filter_: JobFilter, order: JobOrder | None, size: int, first: Page | None = None
) -> list[Page]:
    pages = [first or monque.jobs.page(filter_, order=order, size=size)]
    while pages[-1].next is not None:
        pages.append(monque.jobs.page(filter_, order=order, size=size, cursor=pages[-1].next))
    return pages


def _backward(monque: sync.Monque, filter_: JobFilter, order: JobOrder | None, size: int, last: Page) -> list[Page]:
    pages = [last]
    while pages[-1].previous is not None:
        pages.append(monque.jobs.page(filter_, order=order, size=size, cursor=pages[-1].previous))
    return pages


@pytest.mark.parametrize("order", ORDERS)
async def test_while_jobs_run_each_that_does_not_is_shown_once(
    database: AsyncDatabase[Document], order: JobOrder
) -> None:
    monque = Monque(database)
    ran: list[object] = []

    @monque.worker("busy")
    async def busy(job: Job[int]) -> None:
        ran.append(job.id)
        await monque.enqueue("busy", job.data + 1)

    async with monque:
        quiet = [
            *await monque.enqueue_many(("quiet", number) for number in range(60)),
            *await monque.enqueue_many({"name": "quiet", "delay": number} for number in range(60)),
        ]
        await monque.jobs.cancel_many(JobFilter(ids=[job.id for job in quiet[::3]]))
        if "created" not in order:
            quiet = [job for number, job in enumerate(quiet) if (number % 3 == 0) == ("updated" in order)]
        await monque.enqueue_many(("busy", 0) for _ in range(20))
        await monque.start()
        await eventually(lambda: len(ran) > 50)
        seen: list[Job[Any]] = []
        cursor = None
        while True:
            page = await monque.jobs.page(fitting(JobFilter(), order), order=order, size=7, cursor=cursor)
            seen += page.jobs
            cursor = page.next
            # Jobs that come meanwhile might be shown for ever.
            if cursor is None or {job.id for job in quiet} <= {job.id for job in seen}:
                break
        before = len(ran)
        await eventually(lambda: len(ran) > before)
    shown = [job.id for job in seen if job.name == "quiet"]
    assert sorted(shown) == sorted(job.id for job in quiet)
    if order in ("created", "-created"):
        assert len({job.id for job in seen}) == len(seen)


# --- odd documents --------------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["", "few at a time"])
def odd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> JobFilter:
    """A filter that all of a test's jobs fit; in some runs one that no index answers, and few of the jobs are read."""
    if not request.param:
        return JobFilter()
    monkeypatch.setattr(reading, "MOST_EXAMINED", 2)
    return JobFilter(created_until=at(60), updated_until=at(60), due_until=at(60))


def kind(order: JobOrder) -> str:
    """A status that fits the order."""
    return "failed" if "updated" in order else "pending"


@pytest.mark.parametrize("order", ORDERS)
async def test_what_is_no_job_hides_no_other(
    monque: Monque, raw: Collection[Document], odd: JobFilter, order: JobOrder
) -> None:
    def placed(minutes: float, **changes: Any) -> Document:
        return stored(kind(order), **dict.fromkeys(FIELDS.values(), at(minutes)), **changes)

    good = add(raw, *(placed(number) for number in range(4)))
    bad = add(raw, placed(1.5, priority="high"), placed(2.5, failCount="x", name="other"))
    filter_ = fitting(odd, order)
    jobs: list[Job[Any]] = []
    unreadable: dict[ObjectId, Exception] = {}
    page = await monque.jobs.page(filter_, order=order, size=2)
    while True:
        jobs += page.jobs
        unreadable |= page.unreadable
        if page.next is None:
            break
        page = await monque.jobs.page(filter_, order=order, size=2, cursor=page.next)
    assert {job.id for job in jobs} == set(good)
    assert len(jobs) == 4
    assert unreadable.keys() == set(bad)
    everything = monque.jobs.find(filter_, order=order)
    assert {job.id for job in await everything} == set(good)
    assert everything.unreadable.keys() == set(bad)
    assert await monque.jobs.count() == 6


@pytest.mark.parametrize("order", ORDERS)
async def test_documents_without_a_place_in_the_order_are_left_out(
    monque: Monque, raw: Collection[Document], odd: JobFilter, order: JobOrder
) -> None:
    (good,) = add(raw, stored(kind(order)))
    add(
        raw,
        stored(kind(order), createdAt="yesterday", updatedAt=1, nextRunAt="now"),
        stored(kind(order), createdAt=None, updatedAt=None, nextRunAt=None),
        stored(kind(order), _id=5),
        stored(kind(order), _id={"a": 1}),
    )
    page = await monque.jobs.page(fitting(odd, order), order=order, size=1)
    assert [job.id for job in page.jobs] == [good]
    if page.next is not None:  # where so many were read that there might have been more
        page = await monque.jobs.page(fitting(odd, order), order=order, size=1, cursor=page.next)
        assert (page.jobs, page.next) == ([], None)
    assert [job.id for job in await monque.jobs.find(fitting(odd, order), order=order)] == [good]
    assert await monque.jobs.count() == 5


@pytest.mark.parametrize("order", ORDERS)
async def test_documents_with_odd_names_are_found(
    monque: Monque, raw: Collection[Document], odd: JobFilter, order: JobOrder
) -> None:
    ids = add(raw, *(stored(kind(order), name=name) for name in ("work", 5, None, ["a", "b"])))
    jobs = monque.jobs.find(fitting(odd, order), order=order)
    assert [job.id for job in await jobs] == ids[:1]
    assert jobs.unreadable.keys() <= set(ids[1:])
    assert await monque.jobs.count(JobFilter(status=JobStatus(kind(order)))) == 4


async def test_dates_beyond_pythons_have_their_place(monque: Monque, raw: Collection[Document]) -> None:
    late = DatetimeMS(2**53)
    ids = add(raw, stored(nextRunAt=late), stored(), stored(nextRunAt=late), stored(nextRunAt=FUTURE))
    shown: list[ObjectId] = []
    page = await monque.jobs.page(PENDING, order="-due", size=1)
    while True:
        shown += [job.id for job in page.jobs] + list(page.unreadable)
        if page.next is None:
            break
        page = await monque.jobs.page(PENDING, order="-due", size=1, cursor=page.next)
    assert shown == [ids[2], ids[0], ids[3], ids[1]]


async def test_broken_text_is_shown_as_well_as_can_be(monque: Monque, raw: Collection[Document]) -> None:
    (job_id,) = add(raw, stored(data={"text": "valid"}))
    spoil_text(raw, job_id)
    (job,) = await monque.jobs.find()
    assert job.data == {"text": "va\N{REPLACEMENT CHARACTER}id"}


# --- trouble --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, -1, "1", None, True, float("nan")])
async def test_a_time_limit_that_makes_no_sense_is_refused(monque: Monque, timeout: Any) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: monque.jobs.find(timeout=timeout),
        lambda: monque.jobs.page(timeout=timeout),
        lambda: monque.jobs.count(timeout=timeout),
    ]
    for call in calls:
        with pytest.raises(InvalidArgumentError, match="timeout: expected a timedelta or a number of seconds"):
            await call()


async def test_what_takes_too_long_is_ended(lab: Lab) -> None:
    async with lab.connected() as database, Monque(database) as monque:
        lab.jobs.insert_one(stored())
        with lab.failing("find", "count", errorCode=50):
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: monque.jobs.find(timeout=3),
                lambda: monque.jobs.page(timeout=timedelta(seconds=3)),
                lambda: monque.jobs.count(JobFilter(name="work"), timeout=3),
            ]
            for call in calls:
                with pytest.raises(AggregationTimeoutError, match="took longer than 3 s and was ended") as caught:
                    await call()
                assert caught.value.timeout == 3


async def test_the_server_is_told_of_the_time_limit(monque: Monque, commands: Commands) -> None:
    commands.sent.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MOST_EXAMINED", 1)
        await monque.jobs.page(JobFilter(status=JobStatus.FAILED, error="no"), timeout=1000)
    await monque.jobs.count(timeout=1e9)
    await monque.jobs.count(JobFilter(status=JobStatus.FAILED), timeout=1000)
    asked = commands.named("find", "aggregate", "count")
    assert len(asked) >= 4
    assert all(900_000 < command["maxTimeMS"] <= 2**31 - 1 for command in asked)


async def test_a_database_that_does_not_answer_is_an_error(lab: Lab) -> None:
    async with lab.connected() as database, Monque(database) as monque:
        with lab.failing("find", "aggregate", "count", errorCode=13):
            with pytest.raises(ConnectionError, match="cannot find the jobs"):
                await monque.jobs.find()
            with pytest.raises(ConnectionError, match="cannot get a page of jobs"):
                await monque.jobs.page()
            with pytest.raises(ConnectionError, match="cannot count the jobs"):
                await monque.jobs.count()


# --- cost -----------------------------------------------------------------------------------------------------------

NAMES = [f"name-{number}" for number in range(20)]
FEW = 10
HISTORY = 40_000


@pytest.fixture(scope="module")
def crowded(monque_client: MongoClient[Document]) -> Generator[Database[Document]]:
    """A database with many jobs that have completed, and a few of each other kind in the middle of their time."""
    from monque._store import indexes

    database = monque_client[f"monque_test_crowded_{datetime.now(UTC):%H%M%S%f}"]
    jobs = database["monque_jobs"]
    jobs.create_indexes(indexes.models())
    for start in range(0, HISTORY, 5000):
        jobs.insert_many(_placed("completed", number) for number in range(start, start + 5000))
    middle = HISTORY // 2
    for status in ("pending", "processing", "failed", "cancelled"):
        jobs.insert_many(_placed(status, middle + number, tags=["t"]) for number in range(FEW))
    jobs.insert_many(_placed("pending", middle, name=name, priority=3) for name in NAMES)
    jobs.insert_many(_placed("completed", middle, uniqueKey="k", name="name-1") for _ in range(FEW))
    yield database
    monque_client.drop_database(database)


def _placed(status: str, number: int, **changes: Any) -> Document:
    times = dict.fromkeys(FIELDS.values(), at(number))
    return stored(status, **{"name": NAMES[number % 20], **times, **changes})


class Asked:
    """What the server does to answer."""

    def __init__(self, monque: Monque, plans: list[Plan]) -> None:
        self.jobs = monque.jobs
        self.plans = plans

    async def cost(self, asking: Awaitable[Any], *, sorts: bool = False) -> int:
        """Keys examined; nothing is read but through an index, and nothing is sorted unless that is expected."""
        self.plans.clear()
        await asking
        assert self.plans
        assert all(plan.stages.isdisjoint({"COLLSCAN"} if sorts else {"COLLSCAN", "SORT"}) for plan in self.plans)
        keys = sum(plan.keys for plan in self.plans)
        assert self.documents() <= keys
        return keys

    def documents(self) -> int:
        """How many were read for that."""
        return sum(plan.documents for plan in self.plans)


@pytest.fixture
async def asked(monque_server: str, crowded: Database[Document], commands: Commands) -> AsyncGenerator[Asked]:
    from pymongo import AsyncMongoClient

    plans: list[Plan] = []

    def note(command: Document) -> None:
        plans.extend(explain(crowded, statement) for statement in statements(command))

    client = AsyncMongoClient[dict[str, Any]](monque_server, tz_aware=True, event_listeners=[commands])
    async with client, Monque(client[crowded.name]) as monque:
        commands.before = note
        yield Asked(monque, plans)
        commands.before = None


def pages_of(asked: Asked, filter_: JobFilter, order: JobOrder) -> Sequence[Awaitable[Page]]:
    async def second() -> Page:
        first = await asked.jobs.page(filter_, order=order, size=FEW)
        return await asked.jobs.page(filter_, order=order, size=FEW, cursor=first.next)

    return [asked.jobs.page(filter_, order=order, size=FEW), second()]


MOST = 200
# For each name and index there may be a key that is looked at in vain, and the names are looked up.
IN_VAIN = 2 * 20 * 3


@pytest.fixture
def most(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many jobs are read at most that may turn out not to be wanted."""
    monkeypatch.setattr(reading, "MOST_EXAMINED", MOST)
    return MOST


@pytest.mark.parametrize("minus", ["", "-"])
@pytest.mark.parametrize(
    ("order", "conditions"),
    [
        *(("created", {"name": name}) for name in (None, "name-3", ["name-3", "nobody"])),
        ("created", {"name": "name-3", "created_from": at(HISTORY / 4)}),
        ("created", {"tags": "t"}),
        ("created", {"name": ["name-1", "name-3"], "unique_key": "k"}),
        *(
            ("updated", {"status": status, "name": name})
            for status in ("completed", "failed", ["failed", "cancelled"], ["completed", "failed"])
            for name in (None, "name-3")
        ),
        ("updated", {"status": "completed", "updated_until": at(HISTORY / 2)}),
        *(("due", {"status": "pending", "name": name}) for name in (None, ["name-3", "name-4"])),
    ],
    ids=str,
)
@pytest.mark.usefixtures("most")
async def test_a_page_that_an_index_gives_examines_about_what_it_shows(
    asked: Asked, minus: Any, order: str, conditions: dict[str, Any]
) -> None:
    for page in pages_of(asked, where(**conditions), minus + order):
        assert await asked.cost(page) <= 2 * (FEW + 1) * 3 + IN_VAIN


@pytest.mark.parametrize("minus", ["", "-"])
@pytest.mark.parametrize(
    ("order", "conditions"),
    [
        *(("created", {"status": status}) for status in ("completed", ["completed", "failed"], [*JobStatus])),
        ("created", {"status": "completed", "name": ["name-3", "name-4"]}),
        ("created", {"error": "nowhere"}),
        ("created", {"updated_from": at(HISTORY / 2), "name": "name-3"}),
        ("updated", {"status": "completed", "error": "nowhere"}),
        ("updated", {"status": ["completed", "failed", "cancelled"], "created_from": at(HISTORY / 2)}),
        ("updated", {"status": ["completed", "processing"], "due_until": at(HISTORY / 2)}),
    ],
    ids=str,
)
async def test_what_no_index_answers_costs_no_more_than_so_much(
    asked: Asked, most: int, minus: Any, order: str, conditions: dict[str, Any]
) -> None:
    # The few jobs that are processing are read whole, and sorted.
    sorts = "processing" in conditions.get("status", ())
    for page in pages_of(asked, where(**conditions), minus + order):
        # To see that it is not few, to see how far to go, and to go there.
        # The second page costs the first one, too.
        assert await asked.cost(page, sorts=sorts) <= 2 * (3 * (most + 1) + 2 * IN_VAIN)
        assert asked.documents() <= 2 * (most + 4 * FEW)


@pytest.mark.parametrize("order", ["due", "-due"])
async def test_pending_jobs_that_no_index_answers_are_read_twice(asked: Asked, order: JobOrder) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MOST_EXAMINED", 8)
        filter_ = where(status="pending", error="nowhere")
        page = asked.jobs.page(filter_, order=order, size=3)
        assert await asked.cost(page, sorts=True) <= 3 * (8 + 1) + 2 * IN_VAIN


@pytest.mark.parametrize("order", ["created", "-created", "updated", "-updated", "due", "-due"])
@pytest.mark.parametrize(
    "conditions",
    [
        *({"status": status} for status in ("pending", "processing", "failed", ["failed", "cancelled"])),
        {"tags": "t"},
        {"tags": ["t", "u"]},
        {"tags": "t", "status": "failed"},
        {"name": "name-1", "unique_key": "k"},
        {"name": "name-1", "unique_key": "k", "status": ["pending", "completed"]},
        {"ids": [ObjectId("0" * 24)] * 3},
        {"status": "failed", "error": "nowhere"},
        {"status": "failed", "created_from": at(0), "due_from": at(0)},
    ],
    ids=str,
)
@pytest.mark.usefixtures("most")
async def test_what_is_few_costs_what_there_is_of_it(asked: Asked, order: JobOrder, conditions: dict[str, Any]) -> None:
    filter_ = where(**conditions)
    if order not in orders(filter_):
        filter_ = replace(filter_, status=JobStatus(kind(order)))
    page = asked.jobs.page(filter_, order=order)
    # They are counted, and then read; there is one pending job more for each name.
    assert await asked.cost(page, sorts=True) <= 2 * (4 * FEW + 20) + IN_VAIN


@pytest.mark.parametrize("time", ["created", "updated"])
@pytest.mark.parametrize("status", [None, "completed", "failed", ["completed", "failed"]], ids=str)
@pytest.mark.usefixtures("most")
async def test_what_lies_between_two_times_costs_what_there_is_of_it(asked: Asked, time: str, status: Any) -> None:
    limits = {f"{time}_from": at(HISTORY / 2 + 500), f"{time}_until": at(HISTORY / 2 + 540)}
    filter_ = where(status=status, **limits)
    for asking in (asked.jobs.page(filter_), asked.jobs.count(filter_), asked.jobs.page(filter_, order="created")):
        # 40 jobs, counted, and then read; two seeks for each name in each index; the others may be read whole.
        assert await asked.cost(asking, sorts=True) <= 2 * 40 + 5 * 2 * 20 + 2 * (50 + 20)


async def test_finding_goes_on_step_by_step(asked: Asked, commands: Commands) -> None:
    """At a bounded cost for each."""
    assert await asked.jobs.find(JobFilter(status=JobStatus.COMPLETED, error="nowhere")) == []
    steps = HISTORY // reading.MOST_EXAMINED
    assert max(plan.keys for plan in asked.plans) <= reading.MOST_EXAMINED + 2 * IN_VAIN
    assert sum(plan.documents for plan in asked.plans) <= HISTORY + steps * FEW
    assert len(commands.named("find")) <= 6 * (steps + 1)


async def test_the_server_takes_the_rarest_tag(asked: Asked, crowded: Database[Document]) -> None:
    """Whichever it is, all of them apply."""
    jobs = crowded["monque_jobs"]
    both = add(jobs, *(_placed("failed", number, tags=["rare", "of-many"]) for number in range(3)))
    many = add(jobs, *(_placed("failed", number, tags=["of-many"]) for number in range(300)))
    odd = add(jobs, _placed("failed", 1, tags="of-many"), _placed("failed", 1, tags="rare"))
    try:
        for tags in (["rare", "of-many"], ["of-many", "rare"]):
            page = await asked.jobs.page(JobFilter(tags=tags), order="created")
            assert [job.id for job in page.jobs] == both
            # Those that have the rarer one are read, and the others at most counted.
            await asked.cost(asked.jobs.page(JobFilter(tags=tags)), sorts=True)
            assert asked.documents() <= 2 * len([*both, odd[1]])
    finally:
        jobs.delete_many({"_id": {"$in": [*both, *many, *odd]}})


async def test_counting_stops_at_a_limit(asked: Asked) -> None:
    for filter_ in (JobFilter(name="name-3"), JobFilter(status=[*JobStatus]), JobFilter()):
        asked.plans.clear()
        assert await asked.jobs.count(filter_, limit=100) == 100
        assert all(plan.keys <= 100 + 2 for plan in asked.plans)
    assert await asked.jobs.count(JobFilter(status=JobStatus.FAILED), limit=1000) == FEW


async def test_counting_reads_no_jobs(asked: Asked, commands: Commands) -> None:
    for filter_ in (
        JobFilter(name="name-3"),
        JobFilter(status=JobStatus.COMPLETED),
        JobFilter(name=["name-3", "name-4"], status=JobStatus.COMPLETED),
        JobFilter(created_from=at(5)),
    ):
        asked.plans.clear()
        assert await asked.jobs.count(filter_) > 1000
        assert [plan.documents for plan in asked.plans] == [0]


async def test_a_thousand_names_are_merged_in_portions(monque: Monque, raw: Collection[Document]) -> None:
    ids = add(raw, *(stored(name=f"name-{number}", createdAt=at(number)) for number in range(1000)))
    assert [job.id for job in await monque.jobs.find(order="created")] == ids
    names = [f"name-{number}" for number in range(0, 1000, 2)]
    assert [job.id for job in await monque.jobs.find(JobFilter(name=names), order="created")] == ids[::2]
