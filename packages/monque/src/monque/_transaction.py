"""Running a handler, and writing that it has ended well, in one transaction: its effects happen exactly once.

What the handler writes through the session and the outcome of its job are committed together or not at all, so a
process may die at any instant: either both have happened, or neither, and then the job runs again.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pymongo
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from monque.errors import MonqueError, TransactionsUnavailableError
from monque.outcome import COMMITTED, RELEASED, Committed, Completed, Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.client_session import AsyncClientSession

    from monque._scope import Scope

T = TypeVar("T")

# Two that write the same documents get out of step again within so many seconds.
_LONGEST_PAUSE = 0.05
# What is not aborted by then is aborted by the server, sooner or later.
_ABORT = 5.0


class InDoubtError(MonqueError):
    """Nobody knows whether a transaction was committed, and there is no time left to find out."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What a transaction is made of, as the engine knows how to do it.

    Attributes:
        execute: Runs the handler.
        settle: Writes its completion; False if it is not for this run any more to write one.
        is_settled: Whether a completion was written.
        is_held: Whether the claim still holds, before the handler runs again.
        persist: Gets an answer from the database, however often it takes; None if there was no time left for one.
    """

    execute: Callable[[], Awaitable[Outcome]]
    settle: Callable[[AsyncClientSession, Completed], Awaitable[bool]]
    is_settled: Callable[[AsyncClientSession], Awaitable[bool]]
    is_held: Callable[[], Awaitable[bool]]
    persist: Callable[[Callable[[], Awaitable[Committed | Failed]]], Awaitable[Committed | Failed | None]]


async def transact(client: AsyncMongoClient[Any], run: Scope, steps: Steps) -> Outcome:
    """Run a handler and settle its job in one transaction, again and again while others write the same documents.

    Args:
        client: What the session belongs to.
        run: The run; the handler finds the session there.
        steps: What there is to do.

    Returns:
        `COMMITTED` if all of it is written, else what came of the run, of which nothing is.

    Raises:
        TransactionsUnavailableError: The server has no transactions.
        InDoubtError: It is not known whether all of it is written or nothing.
    """
    servers = client.topology_description.server_descriptions().values()
    if any(server.server_type_name == "Standalone" for server in servers):
        raise TransactionsUnavailableError
    async with client.start_session() as session:
        run.session = session
        try:
            outcome = await _attempt(session, steps)
            while outcome is None:
                await _pause()
                outcome = await _attempt(session, steps) if await steps.is_held() else RELEASED
            return outcome
        finally:
            run.session = None


async def _pause() -> None:
    """Wait a moment, unless the run was told to end while that could not be heeded."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
    await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  no secret


async def _start(session: AsyncClientSession) -> None:
    """Begin a transaction, whatever the client's own settings are; one of this session that is still open ends."""
    await session.start_transaction(ReadConcern("snapshot"), WriteConcern("majority"), ReadPreference.PRIMARY)


async def _attempt(session: AsyncClientSession, steps: Steps) -> Outcome | None:
    """One transaction; None if another one may bring more."""
    await _start(session)
    outcome = await steps.execute()
    if isinstance(outcome, Completed):
        if session.in_transaction:
            return await _undisturbed(_conclude(session, outcome, steps))
        error = MonqueError(
            "the handler has ended the transaction that its run is part of: leave it to Monque to commit it, "
            "and raise an error to have it aborted"
        )
        return Failed(error, final=True)  # what it has committed would be committed again
    await _undisturbed(_abort(session))
    return None if isinstance(outcome, Failed) and _is_transient(outcome) else outcome


async def _conclude(session: AsyncClientSession, outcome: Completed, steps: Steps) -> Outcome | None:
    """Write the completion, and commit."""
    try:
        if not await steps.settle(session, outcome):
            await _abort(session)
            return RELEASED
    except PyMongoError as error:
        await _abort(session)
        ended: Committed | Failed | None = Failed(error)
    else:
        ended = await steps.persist(lambda: _commit(session, steps))
    if ended is None:
        raise InDoubtError(
            "the database did not say whether it has committed the transaction of this run; if it has not, "
            "the job runs again when its lease has run out"
        )
    return None if isinstance(ended, Failed) and _is_transient(ended) else ended


async def _commit(session: AsyncClientSession, steps: Steps) -> Committed | Failed:
    """Commit, and find out what came of it. Raises if that is not known: then to commit once more is safe."""
    try:
        await session.commit_transaction()
    except PyMongoError as error:
        if error.has_error_label("UnknownTransactionCommitResult"):
            raise
        failed = Failed(error)
        if _is_transient(failed) or not await _has_landed(session, steps):
            return failed
    return COMMITTED


async def _has_landed(session: AsyncClientSession, steps: Steps) -> bool:
    """Whether a transaction was committed although the server said that something was wrong with that.

    Another transaction of the same session is asked, before which it must have ended.
    """
    await _start(session)
    try:
        return await steps.is_settled(session)
    finally:
        await _abort(session)


async def _abort(session: AsyncClientSession) -> None:
    if session.in_transaction:
        with pymongo.timeout(_ABORT):
            await session.abort_transaction()


async def _undisturbed(action: Coroutine[Any, Any, T]) -> T:
    """Await to the end what must not be cut short: a commit may have happened although its answer was not awaited."""
    doing = asyncio.ensure_future(action)
    while not doing.done():
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError:
            continue
    return doing.result()


def _is_transient(failed: Failed) -> bool:
    """Whether the same may go well at once; not if the handler has said when, or that it never will."""
    if failed.final or failed.delay is not None or not isinstance(failed.error, PyMongoError):
        return False
    return failed.error.has_error_label("TransientTransactionError")
