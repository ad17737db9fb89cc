"""Running one claimed job: the handler is called, an outcome comes back. The database plays no part."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from monque.outcome import COMPLETED, RELEASED, Failed, Outcome

if TYPE_CHECKING:
    from monque.job import Job
    from monque.worker import AnyWorker


async def execute(worker: AnyWorker, job: Job[Any]) -> Outcome:
    """Run the handler and say what came of it."""
    try:
        if worker.run_in == "loop":
            await worker.handler(job)
        else:
            args, kwargs = worker.payload.arguments(job)
            await asyncio.to_thread(worker.function, *args, **kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  SystemExit too: no handler ends the process
        # Only the engine cancels a run, and whatever the handler raises on its way out then is not its fault. A
        # cancellation that leaked out of the handler's own affairs is a failure like any other.
        task = asyncio.current_task()
        return RELEASED if task is not None and task.cancelling() else Failed(error)
    return COMPLETED
