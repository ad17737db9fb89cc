from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from monque import Concurrency
from monque._agenda import Agenda, Spread
from monque._store.search import Candidate, Sighting
from monque.worker import Worker, Workers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from monque import Job


async def handler(_: Job[Any]) -> None: ...


def workers_of(concurrency: Mapping[str, int | None]) -> Workers:
    workers = Workers()
    for name, limit in concurrency.items():
        workers.add(Worker(name, handler, concurrency=limit), replace=False)
    return workers


def agenda_of(*names: str, per_worker: int = 5, per_instance: int | None = None, **own: int | None) -> Agenda:
    limits = Concurrency(per_worker=per_worker, per_instance=per_instance)
    return Agenda(workers_of(dict.fromkeys(names) | own), limits)


def candidate(name: str, due: float, priority: int = 0) -> Candidate:
    return Candidate(ObjectId(), name, priority, datetime.fromtimestamp(due, UTC))


def candidates(name: str, number: int, *, due: float = 0) -> list[Candidate]:
    return [candidate(name, due + place) for place in range(number)]


def sighting(*rows: Candidate, exhausted: Collection[str] = ()) -> Sighting:
    return Sighting(sorted(rows, key=lambda row: row.rank), exhausted)


def take(agenda: Agenda, limit: int, *rows: Candidate) -> list[Candidate]:
    """Look once, and choose at most `limit`."""
    wanted, most = agenda.wanted()
    agenda.close(wanted)
    return agenda.choose(wanted, min(limit, most), sighting(*(row for row in rows if row.name in wanted)))


# --- what to look for ---------------------------------------------------------------------------------------------


def test_nothing_is_wanted_until_a_name_is_opened() -> None:
    agenda = agenda_of("a", "b")
    assert agenda.wanted() == ({}, 0)
    agenda.open(["b"])
    assert agenda.wanted() == ({"b": 5}, 5)


def test_a_name_without_a_worker_is_not_wanted() -> None:
    agenda = agenda_of("a")
    agenda.open(["a", "unknown"])
    assert agenda.wanted() == ({"a": 5}, 5)


def test_a_workers_own_limit_counts_instead_of_the_default() -> None:
    agenda = agenda_of("a", b=2, per_worker=3)
    agenda.open(["a", "b"])
    assert agenda.wanted() == ({"a": 3, "b": 2}, 5)


def test_what_is_running_is_not_free() -> None:
    agenda = agenda_of(a=3, b=1)
    agenda.open(["a", "b"])
    for name in ("a", "a", "b"):
        agenda.occupy(name)
    assert agenda.running == 3
    assert agenda.wanted() == ({"a": 1}, 1)
    agenda.vacate("b")
    assert agenda.running == 2
    assert agenda.wanted() == ({"a": 1, "b": 1}, 2)


def test_the_limit_of_the_instance_counts_over_all_names() -> None:
    agenda = agenda_of("a", "b", per_worker=5, per_instance=6)
    agenda.open(["a", "b"])
    assert agenda.wanted() == ({"a": 5, "b": 5}, 6)
    for _ in range(4):
        agenda.occupy("a")
    assert agenda.wanted() == ({"a": 1, "b": 5}, 2)


def test_a_full_instance_wants_nothing() -> None:
    agenda = agenda_of("a", "b", per_instance=2)
    agenda.open(["a", "b"])
    agenda.occupy("a")
    agenda.occupy("a")
    assert agenda.wanted()[1] == 0


def test_a_limit_that_was_lowered_below_what_runs_wants_nothing() -> None:
    workers = workers_of({"a": 3})
    agenda = Agenda(workers, Concurrency(per_instance=10))
    agenda.open(["a"])
    for _ in range(3):
        agenda.occupy("a")
    workers.add(Worker("a", handler, concurrency=1), replace=True)
    assert agenda.wanted() == ({}, 0)


def with_aliases(*, slots: int, per_instance: int | None = None) -> Agenda:
    workers = workers_of({"other": 1})
    workers.add(Worker("new", handler, concurrency=slots, aliases=["old", "oldest"]), replace=False)
    return Agenda(workers, Concurrency(per_instance=per_instance))


def test_names_of_one_worker_share_its_slots() -> None:
    agenda = with_aliases(slots=5)
    assert agenda.capacity() == 6
    agenda.open(["old"])
    assert agenda.wanted() == ({"old": 5}, 5)
    agenda.open(["new", "old", "oldest", "other"])
    assert agenda.wanted() == ({"new": 2, "old": 2, "oldest": 1, "other": 1}, 6)
    for name in ("old", "oldest", "new", "new"):
        agenda.occupy(name)
    assert agenda.wanted() == ({"new": 1, "other": 1}, 2)
    agenda.occupy("old")
    assert agenda.wanted() == ({"other": 1}, 1)
    agenda.vacate("oldest")
    assert agenda.wanted() == ({"new": 1, "other": 1}, 2)


def test_names_that_share_one_slot_take_turns() -> None:
    agenda = with_aliases(slots=1)
    rows = [*candidates("new", 2), *candidates("old", 2), *candidates("oldest", 2)]
    taken: list[str] = []
    while rows:
        agenda.open(["new", "old", "oldest"])
        (chosen,) = take(agenda, 10, *rows)
        taken.append(chosen.name)
        rows.remove(chosen)
        agenda.occupy(chosen.name)
        assert agenda.wanted() == ({}, 0)
        agenda.vacate(chosen.name)
    assert taken == ["new", "old", "oldest"] * 2


def test_a_name_that_gets_none_of_the_slots_stays_open() -> None:
    agenda = with_aliases(slots=1)
    agenda.open(["new", "old"])
    wanted, limit = agenda.wanted()
    assert wanted == {"new": 1}
    agenda.close(wanted)
    assert agenda.choose(wanted, limit, sighting(exhausted=["new"])) == []
    assert agenda.wanted() == ({"old": 1}, 1)


def test_names_left_to_a_worker_that_was_replaced_keep_its_slots() -> None:
    workers = workers_of({})
    workers.add(Worker("new", handler, concurrency=2, aliases=["old"]), replace=False)
    workers.add(Worker("new", handler, concurrency=3), replace=True)
    agenda = Agenda(workers, Concurrency())
    assert agenda.capacity() == 5
    agenda.open(["new", "old"])
    assert agenda.wanted() == ({"new": 3, "old": 2}, 5)


# --- opening and closing ------------------------------------------------------------------------------------------


def test_a_closed_name_does_not_come_back_by_itself() -> None:
    agenda = agenda_of("a", "b")
    agenda.open(["a", "b"])
    agenda.close(["a"])
    agenda.occupy("a")
    agenda.vacate("a")
    assert agenda.wanted()[0] == {"b": 5}
    agenda.open(["a"])
    assert agenda.wanted()[0] == {"a": 5, "b": 5}


def test_closing_a_name_that_is_not_open_is_fine() -> None:
    agenda = agenda_of("a")
    agenda.close(["a", "unknown"])
    assert agenda.wanted() == ({}, 0)


def test_a_name_that_is_exhausted_stays_closed_and_one_that_may_have_more_opens_again() -> None:
    agenda = agenda_of("a", "b")
    agenda.open(["a", "b"])
    wanted, limit = agenda.wanted()
    agenda.close(wanted)
    agenda.choose(wanted, limit, sighting(candidate("a", 1), candidate("b", 2), exhausted={"a"}))
    assert agenda.wanted()[0] == {"b": 5}


def test_a_name_opens_again_if_candidates_were_left_over() -> None:
    agenda = agenda_of("a", "b", per_instance=3)
    agenda.open(["a", "b"])
    wanted, limit = agenda.wanted()
    agenda.close(wanted)
    agenda.choose(wanted, limit, sighting(*candidates("a", 3), candidate("b", 9), exhausted={"a", "b"}))
    assert agenda.wanted()[0] == {"a": 5}


def test_a_name_that_is_opened_during_the_look_is_open_after_it() -> None:
    agenda = agenda_of("a")
    agenda.open(["a"])
    wanted, limit = agenda.wanted()
    agenda.close(wanted)
    agenda.open(["a"])
    agenda.choose(wanted, limit, sighting(exhausted={"a"}))
    assert agenda.wanted()[0] == {"a": 5}


# --- whose turn it is ---------------------------------------------------------------------------------------------


def test_within_a_name_the_order_is_that_of_the_candidates() -> None:
    agenda = agenda_of("a")
    agenda.open(["a"])
    rows = [candidate("a", 7, priority=5), candidate("a", 1), candidate("a", 2), candidate("a", 0, priority=-1)]
    assert take(agenda, 5, *reversed(rows)) == rows


def test_names_whose_turn_it_is_alike_go_in_the_order_of_their_candidates() -> None:
    agenda = agenda_of("a", "b", "c")
    agenda.open(["a", "b", "c"])
    rows = [candidate("c", 1), candidate("a", 2), candidate("b", 3)]
    assert take(agenda, 3, *rows) == rows


def test_a_flood_of_one_name_delays_another_by_its_share_only() -> None:
    agenda = agenda_of("flood", "rare", per_worker=100)
    agenda.open(["flood", "rare"])
    chosen = take(agenda, 6, *candidates("flood", 50), *candidates("rare", 3, due=1000))
    assert [row.name for row in chosen] == ["flood", "rare"] * 3


def test_a_name_that_was_idle_does_not_save_up_turns() -> None:
    agenda = agenda_of("busy", "idle", per_worker=1000)
    agenda.open(["busy", "idle"])
    take(agenda, 100, *candidates("busy", 100))
    agenda.open(["busy", "idle"])
    chosen = take(agenda, 10, *candidates("busy", 50), *candidates("idle", 50, due=1000))
    assert Counter(row.name for row in chosen) == {"busy": 5, "idle": 5}


def test_a_name_that_got_nothing_for_want_of_slots_comes_first_next_time() -> None:
    agenda = agenda_of("a", "b", "c", per_instance=1)
    rows = [*candidates("a", 4), *candidates("b", 4, due=10), *candidates("c", 4, due=20)]
    turns: list[str] = []
    for _ in range(6):
        agenda.open(["a", "b", "c"])
        (chosen,) = take(agenda, 1, *rows)
        rows.remove(chosen)
        turns.append(chosen.name)
    assert turns == ["a", "b", "c"] * 2


def test_names_that_had_fewer_turns_are_looked_for_first() -> None:
    agenda = agenda_of("a", "b", "c", per_worker=10)
    agenda.open(["a", "b", "c"])
    take(agenda, 5, *candidates("a", 3), *candidates("b", 2))
    agenda.open(["a", "b", "c"])
    assert list(agenda.wanted()[0]) == ["c", "b", "a"]


@pytest.mark.parametrize("names", [2, 3, 7])
def test_names_that_always_have_jobs_share_the_slots_alike(names: int) -> None:
    labels = [f"name-{number}" for number in range(names)]
    agenda = agenda_of(*labels, per_worker=10, per_instance=names + 1)
    served: Counter[str] = Counter()
    for _ in range(100):
        agenda.open(labels)
        chosen = take(agenda, names + 1, *(row for name in labels for row in candidates(name, 10)))
        assert len(chosen) == names + 1
        served.update(row.name for row in chosen)
    assert max(served.values()) - min(served.values()) <= 1


# --- whatever happens ---------------------------------------------------------------------------------------------

NAMES = ["a", "b", "c", "d"]
_limits = st.integers(1, 4)


class AgendaMachine(RuleBasedStateMachine):
    """Looks, chooses, starts and ends in any order, beside a plain account of what is open and what is running."""

    @initialize(
        own=st.fixed_dictionaries({name: st.none() | _limits for name in NAMES}),
        per_worker=_limits,
        per_instance=st.none() | st.integers(1, 10),
    )
    def begin(self, own: dict[str, int | None], per_worker: int, per_instance: int | None) -> None:
        self.limits = {name: limit or per_worker for name, limit in own.items()}
        self.per_instance = per_instance
        self.agenda = Agenda(workers_of(own), Concurrency(per_worker, per_instance))
        self.open: set[str] = set()
        self.running: Counter[str] = Counter()
        self.looking: tuple[dict[str, int], int] | None = None

    @rule(names=st.sets(st.sampled_from([*NAMES, "unknown"])))
    def open_names(self, names: set[str]) -> None:
        self.agenda.open(names)
        self.open |= names

    @precondition(lambda self: self.looking is None and self.agenda.wanted()[1])
    @rule()
    def look(self) -> None:
        self.looking = self.agenda.wanted()
        self.agenda.close(self.looking[0])
        self.open -= self.looking[0].keys()

    @precondition(lambda self: self.looking is not None)
    @rule(data=st.data())
    def choose(self, data: st.DataObject) -> None:
        assert self.looking is not None
        (wanted, limit), self.looking = self.looking, None
        seen = data.draw(st.fixed_dictionaries({name: st.integers(0, limit) for name in wanted}))
        dues = st.floats(0, 10)
        rows = [candidate(name, data.draw(dues), place) for name, number in seen.items() for place in range(number)]
        exhausted = data.draw(st.sets(st.sampled_from(list(wanted))))

        chosen = self.agenda.choose(wanted, limit, sighting(*rows, exhausted=exhausted))

        counts = Counter(row.name for row in chosen)
        assert len({row.id for row in chosen}) == len(chosen)
        assert len(chosen) == min(limit, sum(min(seen[name], wanted[name]) for name in wanted)), "a slot was left free"
        for name in wanted:
            in_order = sorted((row for row in rows if row.name == name), key=lambda row: row.rank)
            assert [row for row in chosen if row.name == name] == in_order[: counts[name]]
        self.open |= {name for name in wanted if name not in exhausted or counts[name] < seen[name]}
        for row in chosen:
            self.agenda.occupy(row.name)
            self.running[row.name] += 1

    @precondition(lambda self: self.running.total())
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.running.elements())))
        self.agenda.vacate(name)
        self.running[name] -= 1

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        assert self.agenda.running == self.running.total()
        assert self.per_instance is None or self.running.total() <= self.per_instance
        assert all(number <= self.limits.get(name, 0) for name, number in self.running.items())

    @invariant()
    def what_is_open_and_free_is_wanted(self) -> None:
        wanted, total = self.agenda.wanted()
        free = {name: limit - self.running[name] for name, limit in self.limits.items() if name in self.open}
        assert wanted == {name: number for name, number in free.items() if number > 0}
        left = sum(wanted.values())
        if self.per_instance is not None:
            left = min(left, self.per_instance - self.running.total())
        assert total == left


TestAgenda = AgendaMachine.TestCase
TestAgenda.settings = settings(stateful_step_count=30, max_examples=60, deadline=None)


# --- where to begin looking -----------------------------------------------------------------------------------------


def _starts(spread: Spread) -> set[int]:
    return {spread.start(10) for _ in range(500)}


def test_who_gets_what_it_wants_begins_at_the_beginning() -> None:
    spread = Spread()
    assert _starts(spread) == {0}
    spread.learn(10, 10)
    assert _starts(spread) == {0}


def test_the_more_is_lost_the_further_the_starts_are_spread_and_success_brings_them_back() -> None:
    spread = Spread()
    widths: list[int] = []
    for _ in range(6):
        spread.learn(10, 4)
        widths.append(max(_starts(spread)))
    assert widths == [10, 30, 70, 150, 150, 150]
    assert {start % 10 for start in _starts(spread)} == {0}
    for _ in range(15):
        spread.learn(10, 10)
    assert _starts(spread) == {0}
