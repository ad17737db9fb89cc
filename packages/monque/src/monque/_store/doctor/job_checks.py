"""The jobs: what waits for nobody, what nobody takes back, and what is no job."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import bson
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument

from monque._recovery import expiry
from monque._store import indexes
from monque._store.doctor.patient import error, few, ok, span, warning
from monque._store.doctor.plans import some_names
from monque._store.fleet import Fleet
from monque._store.search import union
from monque.errors import ConnectionError, JobDocumentError
from monque.job import JobStatus, from_document
from monque.options import seconds

if TYPE_CHECKING:
    from datetime import datetime

    from pymongo.asynchronous.collection import AsyncCollection

    from monque._store.doctor.patient import Document, Patient
    from monque.diagnosis import Finding

_NOBODY = "no instance says that it works on them"
_LATE = timedelta(minutes=5)
# A recovery is to have come round by then.
_LEFT = timedelta(minutes=2)
_NAMES = 100
_NAMES_AT_ONCE = 50
_LEASES = 100
_NEWEST = 1000
_LEASE_FIELDS = {"name": 1, "lastHeartbeat": 1, "lockedAt": 1, "heartbeatInterval": 1}


async def overdue(patient: Patient) -> list[Finding]:
    """Whether jobs of some name have been due for long, and whether anybody works on them."""
    names, now = await some_names(patient, _NAMES), await patient.now()
    oldest = await _oldest(patient, names)
    late = {name: now - due for name, due in oldest.items() if now - due > _LATE}
    if not late:
        some = f"of {len(names)} name(s)" if len(names) < _NAMES else f"of the first {_NAMES} names"
        return [ok("jobs.overdue", seen=f"no pending job {some} has been due for more than {span(_LATE)}")]
    worst = sorted(late, key=lambda name: late[name], reverse=True)
    reasons = await _reasons(patient, worst)
    lines = [f"{name!r} for {span(late[name])}{reasons[name]}" for name in worst]
    make = error if any(_NOBODY in reason for reason in reasons.values()) else warning
    advice = "start instances with workers of these names, or more of them; cancel what is not wanted any more"
    return [make("jobs.overdue", seen=f"jobs have been due: {few(lines)}", advice=advice)]


async def _reasons(patient: Patient, names: list[str]) -> dict[str, str]:
    """Why jobs of these names may be waiting, as far as instances and pauses tell."""
    fleet = Fleet(patient.jobs, lambda: None)
    try:
        instances, pauses = await fleet.instances(), await fleet.paused()
    except ConnectionError:
        return dict.fromkeys(names, "")  # whoever may only use the jobs sees no instances
    working = {name for instance in instances if instance.status == "working" for name in instance.workers}
    paused = {pause.name: f" (paused{'' if pause.reason is None else f': {pause.reason}'})" for pause in pauses}
    return {name: paused.get(name, "" if name in working else f" ({_NOBODY})") for name in names}


async def _oldest(patient: Patient, names: list[str]) -> dict[str, datetime]:
    """When the pending job of each name that has waited longest was due: a key or two each, in one command for many."""
    found: dict[str, datetime] = {}
    for start in range(0, len(names), _NAMES_AT_ONCE):
        parts: list[list[Document]] = [
            [
                {
                    "$match": {
                        "name": name,
                        "status": JobStatus.PENDING.value,
                        "nextRunAt": {"$type": "date"},
                        **priority,
                    }
                },
                {"$sort": {"nextRunAt": 1}},
                {"$limit": 1},
                {"$project": {"_id": 0, "name": 1, "nextRunAt": 1}},
            ]
            for name in names[start : start + _NAMES_AT_ONCE]
            for priority in ({"priority": None}, {"priority": {"$exists": True}})
        ]
        async for row in await patient.jobs.aggregate(union(patient.jobs.name, parts), hint=indexes.CLAIM):
            name, due = row["name"], row["nextRunAt"]
            found[name] = min(found.get(name, due), due)
    return found


async def leases(patient: Patient) -> list[Finding]:
    """Whether there are jobs whose leases ran out, and nobody takes them back."""
    cursor = patient.jobs.find({"status": JobStatus.PROCESSING.value}, _LEASE_FIELDS, hint=indexes.LEASE)
    held, now = await cursor.sort("lastHeartbeat", 1).limit(_LEASES).to_list(), await patient.now()
    timeout = seconds(patient.options.lease.timeout)
    left: list[str] = []
    for job in held:
        ended = expiry(job, timeout)
        if ended is None or now - ended > _LEFT:
            since = f"{span(now - ended)} ago" if ended else "nobody knows when"
            left.append(f"{job['_id']} ({job.get('name')}), {since}")
    if not left:
        return [ok("jobs.leases", seen="no job is processing whose lease ran out long ago")]
    least = "at least " if len(left) == _LEASES else ""
    advice = "any instance takes them back, of whatever workers: start one, with recover=True"
    return [error("jobs.leases", seen=f"the leases of {least}{len(left)} job(s) ran out: {few(left)}", advice=advice)]


async def documents(patient: Patient) -> list[Finding]:
    """Whether there are documents that are no jobs, among those made last: of these, it is known who makes such."""
    number = await patient.jobs.estimated_document_count()
    options = patient.jobs.codec_options.with_options(document_class=RawBSONDocument)
    raw: AsyncCollection[Any] = patient.jobs.with_options(codec_options=options)
    # Picked at random from a large collection, each would have to be fetched from the disk.
    rows = await raw.find().sort("$natural", -1).limit(_NEWEST).to_list()
    broken = [problem for problem in (_problem(patient, row.raw) for row in rows) if problem is not None]
    some = (
        f"the newest {len(rows):,} of {number:,} documents" if len(rows) < number else f"all {len(rows):,} document(s)"
    )
    if not broken:
        return [ok("jobs.documents", seen=f"{some} were looked at, and are jobs")]
    advice = "instances let them fail where they can; correct or delete them, and whatever writes them"
    return [
        warning("jobs.documents", seen=f"{some} were looked at, {len(broken)} no jobs: {few(broken)}", advice=advice)
    ]


def _problem(patient: Patient, document: bytes) -> str | None:
    strict = patient.jobs.codec_options.with_options(unicode_decode_error_handler="strict")
    try:
        from_document(bson.decode(document, strict))  # pyright: ignore[reportUnknownMemberType]
    except JobDocumentError as problem:
        return str(problem)
    except InvalidBSON as problem:
        job = bson.decode(document, patient.jobs.codec_options)["_id"]  # pyright: ignore[reportUnknownMemberType]
        return f"job {job}: {problem}"
    return None
