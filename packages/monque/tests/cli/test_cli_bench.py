"""The bench, run as its users run it: as a process, with a real MongoDB. The figures mean nothing here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def test_drain_says_how_fast_it_is_beside_the_bare_loop(run: Callable[..., Any], monque_database: Any) -> None:
    done = run("bench", "drain", "--json", "--jobs=60", "--concurrency=20", "--repetitions=2")
    assert (done.code, done.err) == (0, "")
    drain = json.loads(done.out)["drain"]
    for figure in ("jobs_per_second", "bare_jobs_per_second", "ratio"):
        assert 0 < drain["spread"][figure]["lowest"] <= drain[figure] <= drain["spread"][figure]["highest"]
    assert monque_database.list_collection_names() == []
