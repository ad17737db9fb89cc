"""What several commands can be told in the same words."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from monque import JobFilter, JobStatus
from monque.cli._errors import UsageError
from monque.cli._times import parse_duration, parse_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import Token

_SCHEMES = ("mongodb://", "mongodb+srv://")


def _read_time(_: object, tokens: Sequence[Token]) -> datetime:
    return parse_time(tokens[0].value, datetime.now(UTC))


def _read_duration(_: object, tokens: Sequence[Token]) -> timedelta:
    return parse_duration(tokens[0].value)


Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False)]
Time = Annotated[datetime, Parameter(converter=_read_time, metavar="TIME")]
Duration = Annotated[timedelta, Parameter(converter=_read_duration, metavar="LENGTH")]
Texts = Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)]
Statuses = Annotated[tuple[JobStatus, ...], Parameter(negative=(), show_default=False)]
Uri = Annotated[str | None, Parameter(name="--uri", env_var="MONQUE_URI", show_env_var=True)]


def check_uri(uri: str | None) -> None:
    """Refuse what is none of MongoDB, without showing it: it may hold a password."""
    if uri and not uri.startswith(_SCHEMES):
        raise UsageError("--uri, or $MONQUE_URI: expected a URI that begins with mongodb:// or mongodb+srv://")


@Parameter(name="*", group=Group("Where", sort_key=3))
@dataclass(frozen=True, kw_only=True)
class Server:
    """Where the jobs are.

    Attributes:
        uri: The MongoDB to use; without it the embedded one.
        collection: The collection of the jobs.
    """

    uri: Uri = field(default=None, repr=False)
    collection: Annotated[str, Parameter(env_var="MONQUE_COLLECTION", show_env_var=True)] = "monque_jobs"


HERE = Server()


@Parameter(name="*", group=Group("Which jobs", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which jobs: those to which all of this applies.

    Attributes:
        name: Of this name, or of one of these names.
        status: In this state, or in one of these.
        tag: With this tag; with all of them, if there are several.
        key: With this unique key; it needs a name beside it.
        created_from: Enqueued then or later: `2h ago`, `today`, `2026-11-26 09:00`.
        created_until: Enqueued before that.
        updated_from: Last changed then or later.
        updated_until: Last changed before that.
        due_from: Due then or later.
        due_until: Due before that.
        error: With this text in the reason of the last failure.
    """

    name: Texts = ()
    status: Statuses = ()
    tag: Texts = ()
    key: str | None = None
    created_from: Time | None = None
    created_until: Time | None = None
    updated_from: Time | None = None
    updated_until: Time | None = None
    due_from: Time | None = None
    due_until: Time | None = None
    error: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return self == ANY

    def of_jobs(self) -> JobFilter:
        """The same for `monque.jobs`."""
        said: dict[str, Any] = {
            "name": self.name,
            "status": self.status,
            "tags": self.tag,
            "unique_key": self.key,
            "created_from": self.created_from,
            "created_until": self.created_until,
            "updated_from": self.updated_from,
            "updated_until": self.updated_until,
            "due_from": self.due_from,
            "due_until": self.due_until,
            "error": self.error,
        }
        return JobFilter(**{name: value for name, value in said.items() if value not in (None, ())})


ANY = Filter()
