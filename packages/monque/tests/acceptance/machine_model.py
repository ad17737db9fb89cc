"""What the documents of a queue should look like, told by the state diagram alone: the model of the state machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

PENDING, PROCESSING, DONE, FAILED, CANCELLED = "pending", "processing", "completed", "failed", "cancelled"
ACTIVE = (PENDING, PROCESSING)

# The state diagram as documented. `renew`, `age` and `redefine` leave the status as it is.
EDGES: dict[str, set[tuple[str | None, str]]] = {
    "enqueue": {(None, PENDING)},
    "claim": {(PENDING, PROCESSING)},
    "complete": {(PROCESSING, DONE)},
    "repeat": {(PROCESSING, PENDING)},
    "retry": {(PROCESSING, PENDING)},
    "fail": {(PROCESSING, FAILED)},
    "release": {(PROCESSING, PENDING)},
    "recover": {(PROCESSING, PENDING), (PROCESSING, FAILED)},
    "cancel": {(PENDING, CANCELLED), (PROCESSING, CANCELLED)},
    "revive": {(FAILED, PENDING), (CANCELLED, PENDING)},
    "reschedule": {(PENDING, PENDING)},
    "redefine": {(PENDING, PENDING), (PROCESSING, PROCESSING)},
    "renew": {(PROCESSING, PROCESSING)},
    "age": {(PROCESSING, PROCESSING)},
}
CLAIM_FIELDS = {"claimedBy", "claimToken", "lockedAt", "lastHeartbeat", "heartbeatInterval"}


@dataclass(frozen=True)
class Yearly:
    """A schedule of one moment a year, far from today, so that no test run meets it."""

    day: datetime
    timezone: str

    @classmethod
    def in_days(cls, days: int, timezone: str) -> Yearly:
        day = datetime.now(UTC).replace(hour=4, minute=30, second=0, microsecond=0) + timedelta(days=days)
        # A day that every month has.
        return cls(day.replace(day=min(day.day, 28), tzinfo=None), timezone)

    @property
    def expression(self) -> str:
        return f"{self.day.minute} {self.day.hour} {self.day.day} {self.day.month} *"

    @property
    def wire_timezone(self) -> str | None:
        return None if self.timezone == "UTC" else self.timezone

    def after(self, moment: datetime) -> datetime:
        years = range(moment.year - 1, moment.year + 3)
        times = [self.day.replace(year=year, tzinfo=ZoneInfo(self.timezone)).astimezone(UTC) for year in years]
        return min(time for time in times if time > moment)


@dataclass
class Expected:
    """A job as it should be now."""

    name: str
    data: Any
    next_run_at: datetime
    unique_key: str | None = None
    priority: int = 0
    expression: str | None = None
    timezone: str | None = None
    status: str = PENDING
    attempts: int = 0
    fail_count: int = 0
    token: str | None = None
    holder: str | None = None
    settled_by: str | None = None
    has_reason: bool = False

    @property
    def rank(self) -> tuple[int, datetime]:
        return -self.priority, self.next_run_at

    def is_held_by(self, token: str) -> bool:
        return self.status == PROCESSING and self.token == token

    def claim(self, token: str, holder: str) -> None:
        self.status, self.token, self.holder = PROCESSING, token, holder
        self.attempts += 1

    def leave(self, status: str) -> None:
        """Claim fields go on every way out of processing."""
        self.status, self.token, self.holder = status, None, None

    def start_over(self) -> None:
        self.attempts = self.fail_count = 0

    def described(self) -> dict[str, Any]:
        return asdict(self)


def seen(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a document."""
    return Expected(
        name=document["name"],
        data=document["data"],
        next_run_at=document["nextRunAt"],
        unique_key=document.get("uniqueKey"),
        priority=document.get("priority", 0),
        expression=document.get("repeatInterval"),
        timezone=document.get("timezone"),
        status=document["status"],
        attempts=document.get("attempts", 0),
        fail_count=document["failCount"],
        token=document.get("claimToken"),
        holder=document.get("claimedBy"),
        settled_by=document.get("settledBy"),
        has_reason="failReason" in document,
    ).described()
