"""The collection among the others of its database: is it the right one?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monque._store import indexes
from monque._store.doctor.patient import few, ok, warning

if TYPE_CHECKING:
    from monque._store.doctor.patient import Document, Patient
    from monque.diagnosis import Finding

# Of so many others the indexes are looked at.
_MOST = 100


async def exists(patient: Patient) -> bool:
    """Whether there is such a collection yet."""
    # So asked, users may who have privileges for this collection only.
    query: Document = {"filter": {"name": patient.jobs.name}, "authorizedCollections": True}
    return bool(await patient.jobs.database.list_collection_names(**query))


async def queues(patient: Patient) -> list[Finding]:
    """Whether there are other queues beside this one, or instead of it."""
    database, name = patient.jobs.database, patient.jobs.name
    names = sorted(await database.list_collection_names(filter={"type": "collection"}))
    others = [other for other in names if other != name and not other.startswith("system.")]
    found = [other for other in others[:_MOST] if indexes.CLAIM in await database[other].index_information()]
    beside = f"; other queues in this database: {few(found)}" if found else ""
    if name in names:
        return [ok("collection", seen=f"{database.name}.{name} is there{beside}")]
    if not found:
        return [ok("collection", seen=f"{database.name}.{name} is not there yet; it is made with the first job")]
    advice = "is this the right collection? Name another one with `--collection`, and in Options(collection=…)"
    return [warning("collection", seen=f"{database.name}.{name} is not there{beside}", advice=advice)]
