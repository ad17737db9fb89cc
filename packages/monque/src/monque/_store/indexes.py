"""The indexes. What a claim or a settle has to write is kept small: most indexes are partial, and hold few jobs.

For the engine:

monque_claim    which job is next, by name
monque_urgent   when the next prioritised job is due; for normal ones monque_claim serves
monque_lease    whose lease ran out
monque_unique   one pending or processing job per name and unique key
monque_expiry   what has ended and is to be deleted, and when; only where there is a retention

For people:

monque_ended    what has ended, by when: written once, when a job is settled
monque_created  all jobs, by when they were made: written once, when they are
monque_key      jobs with a unique key, whatever their status
monque_tags     jobs with tags
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import OperationFailure

from monque.errors import IndexConflictError
from monque.job import JobStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pymongo.asynchronous.collection import AsyncCollection

Document = dict[str, Any]

CLAIM = "monque_claim"
URGENT = "monque_urgent"
LEASE = "monque_lease"
UNIQUE = "monque_unique"
EXPIRY = "monque_expiry"
ENDED_AT = "monque_ended"
CREATED = "monque_created"
KEY = "monque_key"
TAGS = "monque_tags"

UNIQUE_FIELDS = ["name", "uniqueKey"]
# Highest priority first, absent (normal) after the negative ones: see `Flow.look` for what follows from that.
CLAIM_ORDER = [("priority", DESCENDING), ("nextRunAt", ASCENDING), ("_id", ASCENDING)]
ACTIVE = [JobStatus.PENDING.value, JobStatus.PROCESSING.value]
ENDED = [JobStatus.COMPLETED.value, JobStatus.FAILED.value, JobStatus.CANCELLED.value]

# What earlier versions made and this one asks for no more. Another definition always gets another name, never the same:
# while a new version takes the place of an old one, each has to find what it names.
RETIRED = [
    IndexModel(
        [("name", ASCENDING), ("nextRunAt", ASCENDING)],
        name="monque_due",
        partialFilterExpression={"status": JobStatus.PENDING.value, "priority": {"$exists": True}},
    ),
    IndexModel(
        [("status", ASCENDING), ("name", ASCENDING), ("updatedAt", ASCENDING)],
        name="monque_settled",
        partialFilterExpression={"status": {"$in": ENDED}},
    ),
    IndexModel(
        [("status", ASCENDING), ("name", ASCENDING), ("createdAt", ASCENDING), ("_id", ASCENDING)],
        name="monque_undone",
        partialFilterExpression={"status": {"$in": ENDED[1:]}},
    ),
]

# The user lacks a privilege.
_NOT_ALLOWED = 13
# A duplicate key, another definition under the name, another name for the definition, one that cannot be made here.
_ABOUT_AN_INDEX = (11000, 85, 86, 67)


def models() -> list[IndexModel]:
    """Every index Monque needs."""
    pending = {"status": JobStatus.PENDING.value}
    return [
        IndexModel([("name", ASCENDING), *CLAIM_ORDER], name=CLAIM, partialFilterExpression=pending),
        _index(URGENT, "name", "nextRunAt", "_id", only={**pending, "priority": {"$exists": True}}),
        _index(LEASE, "lastHeartbeat", only={"status": JobStatus.PROCESSING.value}),
        IndexModel(
            [(field, ASCENDING) for field in UNIQUE_FIELDS],
            name=UNIQUE,
            unique=True,
            partialFilterExpression={"uniqueKey": {"$exists": True}, "status": {"$in": ACTIVE}},
        ),
        _index(ENDED_AT, "status", "name", "updatedAt", "_id", only={"status": {"$in": ENDED}}),
        _index(CREATED, "name", "createdAt", "_id"),
        _index(KEY, *UNIQUE_FIELDS, "createdAt", "_id", only={"uniqueKey": {"$exists": True}}),
        _index(TAGS, "tags", "createdAt", "_id", only={"tags": {"$exists": True}}),
    ]


def _index(name: str, *fields: str, only: dict[str, Any] | None = None) -> IndexModel:
    partial = {"partialFilterExpression": only} if only else {}
    return IndexModel([(field, ASCENDING) for field in fields], name=name, **partial)


def expiry() -> IndexModel:
    """The index by which the server deletes jobs.

    Only what has ended is in it: other programs that make jobs pending again know nothing of `expireAt`.
    """
    return IndexModel(
        [("expireAt", ASCENDING)],
        name=EXPIRY,
        expireAfterSeconds=0,
        partialFilterExpression={"expireAt": {"$exists": True}, "status": {"$in": ENDED}},
    )


async def create(
    collection: AsyncCollection[Document], wanted: Sequence[IndexModel] | None = None
) -> list[IndexConflictError]:
    """Create those that are missing, and wait for those that are being built; what cannot be created, and why.

    To indexes that are there already it does nothing, and waits for no transaction.
    """
    wanted = models() if wanted is None else wanted
    there = await existing(collection)
    found = conflicts(wanted, there)
    fitting = [model for model in wanted if name_of(model) not in found]
    return [*found.values(), *await _create(collection, fitting, there)]


async def _create(
    collection: AsyncCollection[Document], fitting: Sequence[IndexModel], there: Mapping[str, Document]
) -> list[IndexConflictError]:
    if not fitting:
        return []
    try:
        await collection.create_indexes(fitting)
    except OperationFailure as error:
        if error.code == _NOT_ALLOWED and all(name_of(model) in there for model in fitting):
            return []
        if error.code not in _ABOUT_AN_INDEX:
            raise
        if len(fitting) == 1:
            return [IndexConflictError(name_of(fitting[0]), f"it cannot be created: {_wording(error)}")]
        # One that cannot be created keeps none of the others from it.
        return [conflict for model in fitting for conflict in await _create(collection, [model], there)]
    return []


def _wording(error: OperationFailure) -> str:
    return str((error.details or {}).get("errmsg"))


async def existing(collection: AsyncCollection[Document]) -> dict[str, Document]:
    """What the collection has, by name; also what is being built yet."""
    return {index["name"]: dict(index) async for index in await collection.list_indexes()}


def name_of(model: IndexModel) -> str:
    """What it is called."""
    return str(model.document["name"])


def conflicts(wanted: Iterable[IndexModel], there: Mapping[str, Document]) -> dict[str, IndexConflictError]:
    """Which of the `wanted` ones have something in their place or in their way, by name."""
    found: dict[str, IndexConflictError] = {}
    for model in wanted:
        name, problem = name_of(model), _problem(model, there)
        if problem is not None:
            found[name] = IndexConflictError(name, problem, is_usable=_is_usable(model, there.get(name)))
    return found


def _problem(model: IndexModel, there: Mapping[str, Document]) -> str | None:
    index = there.get(name_of(model))
    if index is None:
        twin = next((name for name, other in there.items() if _identity(other) == _identity(model.document)), None)
        return twin and f"{twin!r} has the same definition, and the server allows it once only; drop that one"
    if index.get("hidden"):
        return "it is hidden"
    if definition(index) != definition(model.document):
        return f"there is another one of that name, on {definition(index)}; expected {definition(model.document)}"
    return None


def _is_usable(model: IndexModel, index: Mapping[str, Any] | None) -> bool:
    """Whether queries that name it find all there is, and what is to be unique is so."""
    if name_of(model) == EXPIRY:
        return True  # none names it
    if index is None or name_of(model) == UNIQUE or index.get("hidden") or index.get("sparse"):
        return False
    # The server believes the name, and passes over what is not in the index.
    return index.get("partialFilterExpression") in (None, model.document.get("partialFilterExpression"))


def old_ones(there: Mapping[str, Document]) -> list[str]:
    """Those that an earlier version made and this one does not ask for."""
    made = {name_of(model): definition(model.document) for model in RETIRED}
    return [name for name, index in there.items() if name in made and made[name] == definition(index)]


def definition(index: Mapping[str, Any]) -> dict[str, Any]:
    """What makes an index what it is: the same for one that is asked for as for one that is there."""
    # What is False is as good as absent; 0 is not.
    options = {name: index[name] for name in _OPTIONS if index.get(name) is not None and index[name] is not False}
    return {"key": list(index["key"].items()), **options}


_OPTIONS = ("unique", "sparse", "expireAfterSeconds", "partialFilterExpression")


def _identity(index: Mapping[str, Any]) -> object:
    """What there may be only one of in a collection."""
    return list(index["key"].items()), index.get("partialFilterExpression")
