"""Running a handler, and writing that it has ended well, in one transaction: its effects happen exactly once.

What the handler writes through the session and the outcome of its job are committed together or not at all, so a
process may die at any instant: either both have happened, or neither, and then the job runs again.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, TypeVar

from pymongo import WriteConcern
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from monque.outcome import COMMITTED, Completed, Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pymongo import AsyncMongoClient
    from pymongo.asynchronous.client_session import AsyncClientSession

    from monque._scope import Scope

T = TypeVar("T")

# Two that write the same documents get out of step again within so many seconds.
_LONGEST_PAUSE = 0.05


async def transact(
    client: AsyncMongoClient[Any],
    run: Scope,
    execute: Callable[[], Awaitable[Outcome]],
    settle: Callable[[AsyncClientSession, Completed], Awaitable[Outcome | None]],
) -> Outcome:
    """Run a handler and settle its job in one transaction, again and again while others write the same documents.

    Args:
        client: What the session belongs to.
        run: The run; the handler finds the session there.
        execute: Runs the handler.
        settle: Writes a completion, and returns `COMMITTED`; or nothing is committed: None if it is to be tried again,
            else what came of the run instead.

    Returns:
        `COMMITTED` if all of it is written, else what came of the run, of which nothing is.
    """
    async with client.start_session() as session:
        run.session = session
        try:
            while True:
                outcome = await _attempt(session, execute, settle)
                if outcome is not None:
                    return outcome
                await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE))  # noqa: S311  no secret
        finally:
            run.session = None


async def _attempt(
    session: AsyncClientSession,
    execute: Callable[[], Awaitable[Outcome]],
    settle: Callable[[AsyncClientSession, Completed], Awaitable[Outcome | None]],
) -> Outcome | None:
    """One transaction; None if another one may bring more."""
    await session.start_transaction(ReadConcern("snapshot"), WriteConcern("majority"))
    outcome = await execute()
    if isinstance(outcome, Completed):
        return await _undisturbed(_conclude(session, outcome, settle))
    await _undisturbed(session.abort_transaction())
    return None if isinstance(outcome, Failed) and _is_transient(outcome.error) else outcome


async def _conclude(
    session: AsyncClientSession,
    outcome: Completed,
    settle: Callable[[AsyncClientSession, Completed], Awaitable[Outcome | None]],
) -> Outcome | None:
    try:
        settled = await settle(session, outcome)
        if settled is not COMMITTED:
            await session.abort_transaction()
            return settled
        await _commit(session)
    except PyMongoError as error:
        if session.in_transaction:
            await session.abort_transaction()
        return None if _is_transient(error) else Failed(error)
    return COMMITTED


async def _commit(session: AsyncClientSession) -> None:
    """Commit, and find out what came of it; the fence of the job's claim holds in any case."""
    for attempts_left in (2, 1, 0):
        try:
            await session.commit_transaction()
        except PyMongoError as error:
            if not attempts_left or not error.has_error_label("UnknownTransactionCommitResult"):
                raise
        else:
            return


async def _undisturbed(action: Coroutine[Any, Any, T]) -> T:
    """Await to the end what must not be cut short: a commit may have happened although its answer was not awaited."""
    doing = asyncio.ensure_future(action)
    while not doing.done():
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError:
            continue
    return doing.result()


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, PyMongoError) and error.has_error_label("TransientTransactionError")
