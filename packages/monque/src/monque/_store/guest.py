"""New jobs in a transaction of the synchronous driver: with the user's own client, collection and session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from monque._store.errors import is_key_taken
from monque._store.flow import collection_settings, unless_active
from monque.job import from_document, to_document

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection
    from pymongo.database import Database

    from monque._store.flow import Document
    from monque.job import Job


def guest_collection(database: Database[Any], name: str) -> Collection[Document]:
    """The jobs, as `job_collection` gives them to the asynchronous driver."""
    return database.get_collection(name, **collection_settings(database.codec_options))


def insert_in(jobs: Collection[Document], session: ClientSession, new: Sequence[Job[Any]]) -> list[Job[Any]]:
    """What `Flow.insert_in` does, in the user's thread."""
    plain = [to_document(job) for job in new if job.unique_key is None]
    if plain:
        jobs.insert_many(plain, session=session)
    return [job if job.unique_key is None else _upsert(jobs, session, job) for job in new]


def _upsert(jobs: Collection[Document], session: ClientSession, job: Job[Any]) -> Job[Any]:
    query, update = unless_active(job)
    while True:
        try:
            document = jobs.find_one_and_update(
                query, update, upsert=True, return_document=ReturnDocument.AFTER, session=session
            )
        except DuplicateKeyError as error:
            if session.in_transaction or not is_key_taken(error.details):
                raise
        else:
            return from_document(cast("Document", document))
