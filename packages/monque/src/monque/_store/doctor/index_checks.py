"""The indexes: whether they are there, what they should be, and of use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monque._store import indexes
from monque._store.doctor.patient import FIX, aware, error, few, ok, warning
from monque.job import JobStatus

if TYPE_CHECKING:
    from datetime import datetime

    from pymongo import IndexModel

    from monque._store.doctor.patient import Document, Patient
    from monque.diagnosis import Finding
    from monque.errors import IndexConflictError

# Of the jobs that have ended, so many of each status are looked at.
_SOME = 1000


async def present(patient: Patient) -> list[Finding]:
    """Whether each is there, and what its name says."""
    there = await indexes.existing(patient.jobs)
    problems = indexes.conflicts(patient.indexes, there)
    found = [_finding(model, there, problems.get(indexes.name_of(model))) for model in patient.indexes]
    for name in indexes.old_ones(there):
        advice = "once no instance of an earlier version is at work: `monque doctor --drop-old-indexes`"
        found.append(
            warning(f"index.{name}", seen="an earlier version made it, and this one has no use for it", advice=advice)
        )
    return found


def _finding(model: IndexModel, there: dict[str, Document], conflict: IndexConflictError | None) -> Finding:
    name = indexes.name_of(model)
    check = f"index.{name}"
    if conflict is not None:
        make = warning if conflict.is_usable else error
        replace = (
            f"{FIX}, which replaces it; jobs wait meanwhile" if name in there else "drop the other one, then " + FIX
        )
        return make(check, seen=conflict.problem, advice=replace)
    if name not in there:
        return error(check, seen="it is missing", advice=f"{FIX}, or start an instance with create_indexes=True")
    return ok(check, seen="it is there")


async def used(patient: Patient) -> list[Finding]:
    """How often each was used since the server began to count."""
    counts: dict[str, int] = {}
    since: dict[str, datetime] = {}
    building: list[str] = []
    async for row in await patient.jobs.aggregate([{"$indexStats": {}}]):
        name: str = row["name"]
        counts[name] = counts.get(name, 0) + int(row["accesses"]["ops"])
        begun = aware(row["accesses"]["since"])
        since[name] = min(since.get(name, begun), begun)
        building += [name] if row.get("building") else []
    ours = [name for name in counts if name.startswith("monque_")]
    others = [name for name in counts if name not in ours and name != "_id_"]
    found = [ok("indexes.used", seen=_uses(ours, counts, since))] if ours else []
    if others:
        cost = "each costs something at every change of a job"
        found.append(ok("indexes.others", seen=f"{_uses(others, counts, since)}; {cost}"))
    if building:
        advice = "wait: until they are, what needs them fails"
        found.append(warning("indexes.building", seen=f"not built yet: {few(building)}", advice=advice))
    return found


def _uses(names: list[str], counts: dict[str, int], since: dict[str, datetime]) -> str:
    begun = min(since[name] for name in names)
    return f"{few([f'{name} {counts[name]:,} ×' for name in sorted(names)], 10)}, since {begun:%Y-%m-%d %H:%M} UTC"


async def retention(patient: Patient) -> list[Finding]:
    """Whether what is to be deleted some time will be."""
    if indexes.EXPIRY in await indexes.existing(patient.jobs):
        kept: dict[str, Any] = {"completed": None, "failed": None, "cancelled": None}
        kept = {status: getattr(patient.options.retention, status) for status in kept}
        said = ", ".join(f"{status} {length}" for status, length in kept.items() if length is not None)
        return [ok("retention", seen=f"the server deletes jobs that have ended; by these options: {said or 'none'}")]
    for status in indexes.ENDED:
        some = patient.jobs.find({"status": status}, {"expireAt": 1}, hint=indexes.ENDED_AT).limit(_SOME)
        if any("expireAt" in row for row in await some.to_list()):
            seen = f"{JobStatus(status)} jobs say when to delete them, but the index by which that happens is missing"
            advice = "start an instance with that retention and create_indexes=True, or see docs/reference/indexes.md"
            return [warning("retention", seen=seen, advice=advice)]
    return [ok("retention", seen="off: jobs that have ended are kept for ever")]
