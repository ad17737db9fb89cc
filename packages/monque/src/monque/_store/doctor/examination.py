"""All checks, one after the other; one that cannot look keeps none of the others from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pymongo
from pymongo.errors import PyMongoError

from monque._store.doctor import collections, index_checks, job_checks, plans, server
from monque._store.doctor.patient import Patient, error, unseen
from monque._store.errors import INDEX_MISSING, is_index_missing
from monque.diagnosis import Diagnosis, Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymongo import IndexModel
    from pymongo.asynchronous.collection import AsyncCollection

    from monque.options import Options

Check = Callable[[Patient], Awaitable[list[Finding]]]

# Seconds that one check may take; the server ends what takes longer.
_PATIENCE = 5.0

_OF_THE_SERVER: Mapping[str, Check] = {
    "server.version": server.version,
    "server.compatibility": server.compatibility,
    "server.topology": server.topology,
    "server.majority": server.confirmation,
    "server.oplog": server.oplog,
    "server.stream": server.stream,
    "clock": server.clock,
    "collection": collections.queues,
}
_OF_THE_COLLECTION: Mapping[str, Check] = {
    "indexes": index_checks.present,
    "indexes.used": index_checks.used,
    "retention": index_checks.retention,
    "plans": plans.plans,
    "jobs.overdue": job_checks.overdue,
    "jobs.leases": job_checks.leases,
    "jobs.documents": job_checks.documents,
}


async def examine(
    collection: AsyncCollection[dict[str, Any]], options: Options, wanted: Sequence[IndexModel]
) -> Diagnosis:
    """Look at everything there is about a collection that is to have these indexes."""
    lenient = collection.codec_options.with_options(unicode_decode_error_handler="replace")
    patient = Patient(collection.with_options(codec_options=lenient), options, wanted)
    findings = [finding for name, check in _OF_THE_SERVER.items() for finding in await _look(name, check, patient)]
    # Of a collection that is not there nothing is missing.
    if await collections.exists(patient):
        for name, check in _OF_THE_COLLECTION.items():
            findings += await _look(name, check, patient)
    return Diagnosis(tuple(findings))


async def _look(name: str, check: Check, patient: Patient) -> list[Finding]:
    try:
        with pymongo.timeout(_PATIENCE):
            return await check(patient)
    except PyMongoError as problem:
        if is_index_missing(problem):
            return [error(name, seen=INDEX_MISSING)]
        return [unseen(name, problem)]
