"""Running one claimed job: the handler is called in its place, an outcome comes back. The database plays no part."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from bson.codec_options import DEFAULT_CODEC_OPTIONS

from monque._child import Reference
from monque._intake import measure
from monque._processes import ProcessPool
from monque._records import kept
from monque._scope import enter
from monque._settlement import outcome_of, reason
from monque._threads import outlast_thread, start_in_thread
from monque.job import Job
from monque.outcome import COMPLETED, RELEASED, Completed, Failed, Outcome, Verdict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from bson.codec_options import CodecOptions

    from monque._scope import Scope
    from monque.worker import AnyWorker

Middleware = Callable[[Job[Any]], AbstractAsyncContextManager[object]]


class Executor:
    """Runs handlers, each in its place, within the middleware."""

    def __init__(
        self,
        middleware: Sequence[Middleware],
        *,
        codec: CodecOptions[Any] = DEFAULT_CODEC_OPTIONS,
        max_result_bytes: int = 1_000_000,
    ) -> None:
        self._middleware = middleware
        self._codec = codec
        self._max_result_bytes = max_result_bytes
        self._processes = ProcessPool("monque._records:in_child")

    async def close(self) -> None:
        """End the processes there are; a handler at work in one ends with it."""
        await self._processes.close()

    async def execute(self, worker: AnyWorker, run: Scope) -> Outcome:
        """Run the handler and say what came of it."""
        try:
            returned = await self.call(worker, run)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  SystemExit too: no handler ends the process
            return ended_with(error, run)
        return self.returned(worker, returned)

    def call(self, worker: AnyWorker, run: Scope) -> Awaitable[object]:
        """Run the handler: what it returns, or raises, comes out as it is."""
        enter(run)
        is_plain = not self._middleware and not worker.keep_logs
        return self._call(worker, run) if is_plain else self._within(worker, run)

    def returned(self, worker: AnyWorker, value: object) -> Outcome:
        """What it means that the handler returned this."""
        if isinstance(value, Verdict):
            return outcome_of(value, value)
        return COMPLETED if not worker.store_result else self._with_result(worker, value)

    def _with_result(self, worker: AnyWorker, returned: object) -> Completed:
        """The job has completed, whatever becomes of its result."""
        try:
            result = worker.payload.dump_result(returned)
            size = measure("result", result, self._codec)
        except Exception as error:  # noqa: BLE001  the result's own code may take part in it
            return Completed(problem=reason(error))
        if size <= self._max_result_bytes:
            return Completed(result)
        return Completed(
            problem=f"result: expected at most {self._max_result_bytes:,} bytes of BSON, got {size:,}; store the "
            "content elsewhere (GridFS, object storage) and return a reference to it, or raise max_result_bytes"
        )

    async def _within(self, worker: AnyWorker, run: Scope) -> object:
        async with AsyncExitStack() as stack:
            if worker.keep_logs:
                stack.enter_context(kept())
            for middleware in self._middleware:
                await stack.enter_async_context(middleware(run.job))
            run.returned = await self._call(worker, run)
            return run.returned
        return None  # the middleware has swallowed an exception

    def _call(self, worker: AnyWorker, run: Scope) -> Awaitable[object]:
        if worker.run_in == "loop":
            return worker.handler(run.job)
        args, kwargs = worker.payload.arguments(run.job)
        if worker.run_in == "thread":
            call = partial(worker.function, *args, **kwargs)
            return outlast_thread(start_in_thread(call, name=f"monque-{worker.name}"))
        return self._in_process(worker, run, args, kwargs)

    async def _in_process(self, worker: AnyWorker, run: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        call = (Reference.of(worker.function), args, kwargs)
        process = self._processes.start(
            _HERE,
            call,
            context={"job": run.job, "keep_logs": run.keep_logs, "around": run.around},
            heard=run.note,
        )
        while not process.done.done():
            try:
                await asyncio.wait([process.done])
            except asyncio.CancelledError:
                if run.is_lost or run.is_overdue:
                    process.kill()
                else:
                    process.interrupt(run.ending or asyncio.CancelledError())
        return process.done.result()


def call_in_child(reference: Reference, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    """Call a function with arguments by name, too."""
    return reference.resolve()(*args, **kwargs)


_HERE = Reference.of(call_in_child)


def ended_with(error: BaseException, run: Scope) -> Outcome:
    """What it means that a run ended with this error."""
    if isinstance(error, Verdict):
        return outcome_of(error, error)
    # A cancellation that leaked out of the handler's own affairs is a failure like any other.
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return Failed(error)
    # The engine has told it to end, and whatever the handler raises on its way out then is not its fault.
    if run.ending is None:
        return RELEASED
    if run.ending is not error and run.ending.__cause__ is None:
        run.ending.__cause__ = error  # its traceback shows where the handler was
    return Failed(run.ending)
