"""Whether a job is what a test expects, and if not, where it differs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from monque._codec import restored, stored
from monque.options import is_duration, seconds

if TYPE_CHECKING:
    from monque.job import Job, JobStatus

Due = datetime | timedelta | float | Callable[[datetime], object]

# How exactly a time has to be met: the test's clock and the server's may differ by a moment.
_TOLERANCE = timedelta(seconds=1)
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Expected:
    """What a test expects of a job; None is anything.

    Attributes:
        name: The job's name.
        data: Its data, or a part of them, or a function that says whether they are right.
        unique_key: Its unique key.
        due: When it is due; or how long after it was enqueued; or a function that says whether its time is right.
        statuses: The statuses it may have.
    """

    name: str | None
    data: Any
    unique_key: str | None
    due: Due | None
    statuses: Collection[JobStatus]

    def differences(self, job: Job[Any]) -> list[str]:
        """Where the job differs, the gravest first."""
        found: list[str] = []
        if self.name is not None and job.name != self.name:
            found.append(f"its name is {job.name!r}")
        if self.data is not None:
            found += differences(self.data, job.data, "data")
        if self.unique_key is not None and job.unique_key != self.unique_key:
            found.append(f"its unique key is {job.unique_key!r}")
        if self.due is not None and not _is_due(self.due, job):
            found.append(f"it is due at {job.next_run_at:%Y-%m-%d %H:%M:%S} UTC, {_since(job)} after it was enqueued")
        if job.status not in self.statuses:
            found.append(f"it is {job.status}")
        return found

    def __str__(self) -> str:  # type: ignore[explicit-override]  # typing.override is newer
        said = {"name": self.name, "data": self.data, "unique_key": self.unique_key, "due": self.due}
        conditions = [f"{name}={_shown(value)}" for name, value in said.items() if value is not None]
        return " ".join([" or ".join(self.statuses), "job", *(["with", ", ".join(conditions)] if conditions else [])])


def differences(expected: object, actual: object, path: str) -> list[str]:
    """Where stored data differ from what is expected of them: a mapping may have more than is said of it."""
    whole = expected  # whatever the type checkers make of it below
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        return _in_mapping(cast("Mapping[Any, object]", expected), cast("Mapping[Any, object]", actual), path)
    if isinstance(expected, list | tuple) and isinstance(actual, list):
        return _in_list(cast("list[object]", expected), cast("list[object]", actual), path)
    return _at_once(whole, actual, path)


def _at_once(expected: object, actual: object, path: str) -> list[str]:
    if isinstance(expected, type):
        is_right = isinstance(actual, expected)
    elif callable(expected):
        is_right = bool(expected(actual))
    else:
        is_right = _is_equal(expected, actual)
    return [] if is_right else [f"{path} is {_shown(actual)}, expected {_shown(expected)}"]


def _in_mapping(expected: Mapping[Any, object], actual: Mapping[Any, object], path: str) -> list[str]:
    found: list[str] = []
    for key, part in expected.items():
        name = key if key in actual else str(stored({key: None}).popitem()[0])
        if name in actual:
            found += differences(part, actual[name], f"{path}[{name!r}]")
        else:
            found.append(f"{path} has no {name!r}")
    return found


def _in_list(expected: list[object] | tuple[object, ...], actual: list[object], path: str) -> list[str]:
    if len(expected) != len(actual):
        return [f"{path} has {len(actual)} items, expected {len(expected)}"]
    pairs = enumerate(zip(expected, actual, strict=True))
    return [difference for place, pair in pairs for difference in differences(*pair, f"{path}[{place}]")]


def _is_equal(expected: object, actual: object) -> bool:
    """Equal as it is, or once it has been through the database."""
    read = restored(actual)
    return bool(expected in (actual, read) or stored(expected) in (actual, read))


def described(job: Job[Any]) -> str:
    """A job in a line."""
    parts = [job.name, _shown(job.data), job.status.value, f"due {job.next_run_at:%Y-%m-%d %H:%M:%S} UTC"]
    parts += [f"unique key {job.unique_key!r}"] if job.unique_key is not None else []
    parts += [f"cron {job.repeat_interval!r}"] if job.repeat_interval is not None else []
    parts += [_cut(job.fail_reason)] if job.fail_reason is not None else []
    return "  ".join(parts)


def _is_due(due: Due, job: Job[Any]) -> bool:
    if isinstance(due, datetime):
        return abs(job.next_run_at - due) <= _TOLERANCE
    if is_duration(due):
        return abs(job.next_run_at - job.created_at - timedelta(seconds=seconds(due))) <= _TOLERANCE
    return bool(cast("Callable[[datetime], object]", due)(job.next_run_at))


def _since(job: Job[Any]) -> timedelta:
    return timedelta(seconds=round((job.next_run_at - job.created_at).total_seconds()))


def _shown(value: object) -> str:
    return _cut(_text(value))


def _text(value: object) -> str:
    """As `repr` has it, but functions and types by their names."""
    if isinstance(value, dict):
        parts = [f"{key!r}: {_text(part)}" for key, part in cast("dict[object, object]", value).items()]
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, cast("list[object]", value))) + "]"
    return str(getattr(value, "__name__", None) or repr(value)) if callable(value) else repr(value)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
