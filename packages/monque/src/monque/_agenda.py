"""What an instance should look for next: its free slots, the names with due jobs, and whose turn it is."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from collections.abc import Set as AbstractSet

    from monque._store.search import Candidate, Sighting
    from monque.options import Concurrency
    from monque.worker import AnyWorker, Workers


_WIDEST = 15


class Spread:
    """Where to begin looking, so that instances that compete do not all reach for the same jobs.

    As long as claims get what they are for, at the beginning. When others are quicker, at one of a few places, chosen
    by chance: the more so, the more is lost.
    """

    def __init__(self) -> None:
        self._width = 0

    def start(self, size: int) -> int:
        """How many jobs to leave to others, by looks for `size` of them."""
        return size * random.randint(0, self._width)  # noqa: S311  no secret

    def learn(self, wanted: int, got: int) -> None:
        """A claim for so many brought so many."""
        if got == wanted:
            self._width = max(self._width - 1, 0)
        else:
            self._width = min(2 * self._width + 1, _WIDEST)


class Agenda:
    """Counts slots and remembers for which names there may be due jobs.

    A name is *open* while it may have due jobs that were not taken. Anything may open a name at any time: opening one
    too often costs a look, not opening one would delay its jobs.
    """

    def __init__(self, workers: Workers, limits: Concurrency) -> None:
        self._workers = workers
        self._limits = limits
        self._running: Counter[str] = Counter()
        self._open: set[str] = set()
        self._turns: defaultdict[str, int] = defaultdict(int)
        self._turn = 0
        self._paused: AbstractSet[str] = frozenset()
        self._draining = False

    @property
    def running(self) -> int:
        """Slots in use."""
        return self._running.total()

    def capacity(self) -> int:
        """How many jobs may run at once in all."""
        slots = sum(self._slots(worker) for worker in self._workers.all())
        return slots if self._limits.per_instance is None else min(slots, self._limits.per_instance)

    def slots(self) -> dict[str, int]:
        """How many jobs of each name may run at once."""
        return {name: self._slots(worker) for worker in self._workers.all() for name in worker.names}

    def occupy(self, name: str, slots: int = 1) -> None:
        """Jobs of `name` are about to start."""
        self._running[name] += slots

    def vacate(self, name: str, slots: int = 1) -> None:
        """Jobs of `name` have ended, or were not to be had."""
        self._running[name] -= slots

    def open(self, names: Iterable[str]) -> None:
        """There may be due jobs of these names."""
        self._open.update(names)

    def heed(self, paused: AbstractSet[str], *, draining: bool) -> None:
        """No jobs of these names are to be taken, or none at all; they stay open meanwhile."""
        self._open.update(self._paused - paused)
        self._paused, self._draining = paused, draining

    def wanted(self) -> tuple[dict[str, int], int]:
        """Free slots by open name, those first whose turn it is, and how many jobs may start in all."""
        if self._draining:
            return {}, 0
        names = self._open - self._paused if self._paused else self._open
        free = {name: self._free(name) for name in self._workers.names() if name in names}
        wanted = self._shared({name: number for name, number in sorted(free.items(), key=self._by_turn) if number > 0})
        total = sum(wanted.values())
        if self._limits.per_instance is not None:
            total = min(total, self._limits.per_instance - self.running)
        return wanted, max(total, 0)

    def close(self, names: Collection[str]) -> None:
        """A look for due jobs of these names begins."""
        self._open.difference_update(names)

    def closed(self) -> AbstractSet[str]:
        """The names of which all due jobs are taken."""
        return set(self._workers.names()) - self._open

    def choose(self, wanted: dict[str, int], limit: int, sighting: Sighting) -> list[Candidate]:
        """Which of the candidates to take; names that have more stay open.

        The names take turns, so that a flood of one delays the others by its share only; within a name, and between
        names whose turn it is alike, the order is that of the candidates.
        """
        seen = Counter(candidate.name for candidate in sighting.candidates)
        if seen.total() <= limit and all(number <= wanted[name] for name, number in seen.items()):
            chosen = sighting.candidates
            self._count_turns(seen)
        else:
            chosen = self._take_turns(wanted, limit, sighting.candidates)
            seen -= Counter(candidate.name for candidate in chosen)
            self._open.update(seen)
        self._open.update(name for name in wanted if name not in sighting.exhausted)
        return chosen

    def _count_turns(self, taken: Counter[str]) -> None:
        """These names had so many turns each."""
        begun = self._turn
        for name, number in taken.items():
            self._turns[name] = max(self._turns[name], begun) + number
            self._turn = max(self._turn, self._turns[name] - 1)

    def _take_turns(self, wanted: dict[str, int], limit: int, candidates: list[Candidate]) -> list[Candidate]:
        """Take candidates, one at a time, from the name that has had the fewest turns."""
        queues: defaultdict[str, deque[tuple[int, Candidate]]] = defaultdict(deque)
        for place in enumerate(candidates):
            queues[place[1].name].append(place)
        waiting = [(max(self._turns[name], self._turn), queue[0][0], name) for name, queue in queues.items()]
        heapq.heapify(waiting)
        left = dict(wanted)
        chosen: list[Candidate] = []
        while waiting and len(chosen) < limit:
            turn, _, name = heapq.heappop(waiting)
            chosen.append(queues[name].popleft()[1])
            left[name] -= 1
            self._turn = turn
            self._turns[name] = turn + 1
            if left[name] and queues[name]:
                heapq.heappush(waiting, (turn + 1, queues[name][0][0], name))
        return chosen

    def _shared(self, free: dict[str, int]) -> dict[str, int]:
        """Share the slots of a worker among its names, those first whose turn it is.

        What one of them has no jobs for, the others get at the next look, when it is closed.
        """
        siblings = {name: [other for other in self._workers.siblings(name) if other in free] for name in free}
        if all(len(names) == 1 for names in siblings.values()):
            return free
        places = {name: place for place, name in enumerate(free)}
        shares: dict[str, int] = {}
        for name, slots in free.items():
            before = sum(places[other] < places[name] for other in siblings[name])
            share, left = divmod(slots, len(siblings[name]))
            shares[name] = share + (before < left)
        return {name: share for name, share in shares.items() if share}

    def _free(self, name: str) -> int:
        return self._slots(self._workers[name]) - sum(self._running[other] for other in self._workers.siblings(name))

    def _slots(self, worker: AnyWorker) -> int:
        return worker.concurrency or self._limits.per_worker

    def _by_turn(self, item: tuple[str, int]) -> tuple[int, str]:
        return self._turns[item[0]], item[0]
