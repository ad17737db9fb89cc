from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from bson import ObjectId

from monque import Job, JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def make_job() -> Callable[..., Job[Any]]:
    """Makes jobs that differ from a plain one in the fields given."""

    def make(**changes: Any) -> Job[Any]:
        moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
        values: dict[str, Any] = {
            "id": ObjectId(),
            "name": "greet",
            "data": {},
            "status": JobStatus.PROCESSING,
            "next_run_at": moment,
            "fail_count": 0,
            "created_at": moment,
            "updated_at": moment,
        }
        return Job(**(values | changes))

    return make
