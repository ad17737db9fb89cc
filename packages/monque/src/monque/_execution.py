"""Running one claimed job: the handler is called, an outcome comes back. The database plays no part."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from monque.outcome import COMPLETED, RELEASED, Failed, Outcome

if TYPE_CHECKING:
    from monque.job import Job
    from monque.worker import Worker

_LONGEST_REASON = 2000


async def execute(worker: Worker, job: Job[Any]) -> Outcome:
    """Run the handler and say what came of it."""
    try:
        await worker.handler(job)
    except asyncio.CancelledError as error:
        # Only the engine cancels a run; a cancellation that leaked out of the handler's own affairs is a failure.
        task = asyncio.current_task()
        return RELEASED if task is not None and task.cancelling() else Failed(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  SystemExit too: no handler ends the process
        return Failed(error)
    return COMPLETED


def reason(error: BaseException) -> str:
    """What is kept of an error: its kind and its message, bounded, and fit for BSON."""
    try:
        message = str(error)
    except Exception:  # noqa: BLE001  an exception that cannot be worded is still a failure
        message = "(its message cannot be shown)"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if len(text) > _LONGEST_REASON:
        text = text[: _LONGEST_REASON - 1] + "…"
    return text.encode("utf-8", "replace").decode("utf-8")
