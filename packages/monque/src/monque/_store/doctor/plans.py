"""How the server is about to answer what instances ask all the time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from bson import ObjectId
from pymongo.errors import PyMongoError

from monque import _transitions as transitions
from monque._store import indexes
from monque._store.doctor.patient import FIX, error, ok, unseen, warning
from monque._store.errors import is_index_missing
from monque._store.flow import survey_pipeline
from monque.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from monque._store.doctor.patient import Document, Patient
    from monque.diagnosis import Finding

_NAMES = 20
# Keys that are looked at in vain for each name: one for each priority, and the one at which a scan ends.
_IN_VAIN = 2 * 21
_LOOK = 50


async def plans(patient: Patient) -> list[Finding]:
    """Whether each is found by an index, at the cost of what it returns."""
    names = await some_names(patient, _NAMES) or ["monque-doctor"]
    return [
        await _examine(patient, f"plan.{what}", command, len(names))
        for what, command in commands(patient.jobs.name, names).items()
    ]


async def some_names(patient: Patient, most: int) -> list[str]:
    """The first names of pending jobs; one key each."""
    names: list[str] = []
    while len(names) < most:
        query: Document = {"status": JobStatus.PENDING.value, "name": {"$gt": names[-1] if names else ""}}
        found = await patient.jobs.find_one(query, {"name": 1}, sort=[("name", 1)], hint=indexes.CLAIM)
        if found is None:
            break
        names.append(found["name"])
    return names


def commands(collection: str, names: Sequence[str]) -> dict[str, Document]:
    """What instances ask: to look for jobs, to look ahead, to write an outcome, to find who has a key."""
    settle = transitions.complete([ObjectId()], "monque-doctor", now=datetime.now(UTC))
    due = {"name": {"$in": list(names)}, "status": JobStatus.PENDING.value, **transitions.DUE}
    key = {"name": names[0], "uniqueKey": "monque-doctor", "status": {"$in": indexes.ACTIVE}}
    return {
        "claim": {
            "find": collection,
            "filter": due,
            "sort": dict(indexes.CLAIM_ORDER),
            "limit": _LOOK,
            "hint": indexes.CLAIM,
        },
        "survey": {
            "aggregate": collection,
            "pipeline": survey_pipeline(collection, names, 0),
            "hint": indexes.CLAIM,
            "cursor": {},
        },
        "settle": {"update": collection, "updates": [{"q": settle.filter, "u": settle.update}]},
        "unique": {"find": collection, "filter": key, "hint": indexes.UNIQUE},
    }


async def _examine(patient: Patient, check: str, command: Document, names: int) -> Finding:
    try:
        answer = await patient.jobs.database.command({"explain": command, "verbosity": "executionStats"})
    except PyMongoError as problem:
        if is_index_missing(problem):
            return error(check, seen="the index it names is missing", advice=FIX)
        return unseen(check, problem)
    return judge(check, read_plan(answer), names)


@dataclass(frozen=True, slots=True)
class Plan:
    """How the server ran a command.

    Attributes:
        stages: The kinds of its steps.
        keys: Index keys examined.
        documents: Documents examined.
        returned: Documents returned.
        milliseconds: How long it took.
    """

    stages: set[str]
    keys: int
    documents: int
    returned: int
    milliseconds: int


def read_plan(answer: Document) -> Plan:
    """What `explain` says, of all parts of a command and on all shards."""
    parts = list(_walk(answer))
    ran = [part["executionStats"] for part in parts if "totalKeysExamined" in part.get("executionStats", {})]
    return Plan(
        {part["stage"] for part in parts if isinstance(part.get("stage"), str)},
        sum(stats["totalKeysExamined"] for stats in ran),
        sum(stats["totalDocsExamined"] for stats in ran),
        sum(stats["nReturned"] for stats in ran),
        max((stats["executionTimeMillis"] for stats in ran), default=0),
    )


def judge(check: str, plan: Plan, names: int) -> Finding:
    """Whether that is what it should cost."""
    read = f"{plan.keys:,} key(s) and {plan.documents:,} document(s)"
    seen = f"{read} for {plan.returned:,}, {plan.milliseconds:,} ms"
    if "COLLSCAN" in plan.stages:
        return error(check, seen=f"it reads the whole collection: {seen}", advice=FIX)
    if plan.keys > 2 * plan.returned + _IN_VAIN * names + _LOOK:
        advice = "look at the findings about indexes; if they are right, report it with the output of `--json`"
        return warning(check, seen=f"it examines more than it returns: {seen}", advice=advice)
    return ok(check, seen=f"by index: {seen}")


def _walk(value: object) -> Iterator[Document]:
    parts: Iterable[Any] = ()
    if isinstance(value, dict):
        document = cast("Document", value)
        yield document
        parts = document.values()
    elif isinstance(value, list):
        parts = cast("list[object]", value)
    for part in parts:
        yield from _walk(part)
