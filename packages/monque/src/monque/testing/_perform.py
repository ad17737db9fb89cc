"""Running one job without storing it: through validation, BSON, middleware and the executor."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

import bson

from monque._execution import ended_with
from monque._intake import NewJob
from monque._scope import Scope
from monque._transaction import Steps, transact
from monque.errors import InvalidArgumentError, ResultError
from monque.job import Job, JobStatus, from_document, to_document
from monque.outcome import Completed, Failed, Outcome, Verdict
from monque.worker import AnyWorker, Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from monque._execution import Executor
    from monque._monque import Monque

C = TypeVar("C")
P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")


@overload
async def perform(monque: Monque, worker: Worker[P, C, Q, R], /, *args: Q.args, **kwargs: Q.kwargs) -> R: ...
@overload
async def perform(monque: Monque, job: str | NewJob, data: Any = ..., /, *, attempt: int = ...) -> Any: ...  # noqa: ANN401  see below
async def perform(monque: Monque, job: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Run one job here and now, as an instance that has claimed it would, but without storing anything.

    Its data are checked as at the enqueue, go through BSON, and are checked again; middleware, threads, processes and
    transactions are the real ones. What the engine does around that is not: no attempt is counted, nothing is retried,
    no time limit is kept, no event is emitted. That is for `drain`.

    Args:
        monque: The connected instance whose middleware and worker run the job.
        job: The worker, with what its `enqueue` takes after it; or a job name, with the data after it; or what a
            worker's `new` has made.
        *args: See there.
        **kwargs: See there. Beside a name or a `NewJob`: `attempt`, which attempt it is to be, from 1.

    Returns:
        What the handler returned, `Snooze` and the like included. A result that the worker stores comes back as
        `JobHandle.result` would give it.

    Raises:
        Exception: What the handler raised, `Snooze` and the like included, or its middleware.
        InvalidPayloadError: The worker does not take such data.
        InvalidArgumentError: There is no worker of this name here, or another argument makes no sense.
        ResultError: The result could not be stored.
        ConnectionError: Not connected.

    Example:
        >>> import asyncio
        >>> from monque import Monque
        >>> monque = Monque()
        >>> @monque.worker("add")
        ... async def add(one: int, other: int) -> int:
        ...     return one + other
        >>> async def main() -> None:
        ...     async with monque:
        ...         print(await perform(monque, add, 1, other=2))
        ...         print(await perform(monque, "add", {"one": 3, "other": 4}))
        >>> asyncio.run(main())
        3
        7
    """
    if isinstance(job, Worker):
        return await _perform(monque, job.new(*args, **kwargs))
    return await _perform(monque, *_request(job, *args, **kwargs))


def _request(job: str | NewJob, data: object = None, /, *, attempt: int = 1) -> tuple[NewJob, int]:
    if isinstance(attempt, bool) or not isinstance(attempt, int) or attempt < 1:
        raise InvalidArgumentError("attempt", attempt, "a whole number, at least 1")
    if not isinstance(job, NewJob):
        return NewJob(name=job, data=data), attempt
    if data is not None:
        raise InvalidArgumentError("data", data, "nothing beside a NewJob, which has it as a field")
    return job, attempt


async def _perform(monque: Monque, request: NewJob, attempt: int = 1) -> Any:  # noqa: ANN401  what the handler returns
    connected = monque._connection()
    worker = monque._workers.get(request.name)
    job = _as_claimed(monque, connected.producer.make(request), attempt)
    if worker is None:
        expected = f"a name that has a worker here: {', '.join(monque._workers.names()) or 'there are none'}"
        raise InvalidArgumentError("job", request.name, expected)
    performance = _Performance(monque._executor(connected), worker, Scope(job, keep_logs=worker.keep_logs))
    try:
        # In a task of its own, so that what is set in its context stays there.
        await asyncio.create_task(performance.run(connected.client))
    finally:
        await performance.executor.close()
    return performance.result()


def _as_claimed(monque: Monque, job: Job[Any], attempt: int) -> Job[Any]:
    """The job as it would be read once it is claimed."""
    codec = monque._connection().collection.codec_options
    now = monque._connection().clock.now()
    document = to_document(job) | {
        "status": JobStatus.PROCESSING.value,
        "failCount": attempt - 1,
        "attempts": attempt,
        "claimedBy": monque.instance_id,
        "claimToken": secrets.token_hex(12),
        "lockedAt": now,
        "lastHeartbeat": now,
        "heartbeatInterval": round(monque._options.lease.heartbeat_interval * 1000),
    }
    read: dict[str, Any] = bson.decode(bson.encode(document, codec_options=codec), codec)  # pyright: ignore[reportUnknownMemberType]
    return from_document(read)


@dataclass(eq=False, slots=True)
class _Performance:
    """One run, and what came of it: what the handler returned, or raised, and what that means."""

    executor: Executor
    worker: AnyWorker
    scope: Scope
    value: object = None
    error: BaseException | None = None
    outcome: Outcome | None = None

    async def run(self, client: Any) -> None:  # noqa: ANN401  the client of any documents
        """Run the handler, in a transaction if it is to be in one."""
        if not self.worker.transaction:
            await self._execute()
            return
        steps = Steps(
            execute=self._execute,
            settle=partial(_say, answer=True),
            is_settled=partial(_say, answer=False),
            is_held=partial(_say, answer=True),
            persist=_ask,
        )
        outcome = await transact(client, self.scope, steps)
        if isinstance(outcome, Failed):
            self.outcome = outcome

    async def _execute(self) -> Outcome:
        self.value = self.error = None
        try:
            self.value = await self.executor.call(self.worker, self.scope)
        except BaseException as error:  # noqa: BLE001  SystemExit too, which would end the event loop
            self.error = error
            self.outcome = ended_with(error, self.scope)
        else:
            self.outcome = self.executor.returned(self.worker, self.value)
        return self.outcome

    def result(self) -> object:
        """What the handler returned; raises what it raised, or what kept it from having an effect."""
        if self.error is not None:
            raise self.error
        if isinstance(self.value, Verdict):
            return self.value
        if isinstance(self.outcome, Failed):
            raise self.outcome.error
        return self._result(cast("Completed", self.outcome)) if self.worker.store_result else self.value

    def _result(self, completed: Completed) -> object:
        if completed.problem is not None:
            raise ResultError(self.scope.job.id, completed.problem)
        return None if completed.result is None else self.worker.payload.load_result(completed.result)


async def _say(*_: object, answer: bool) -> bool:
    return answer


async def _ask(question: Callable[[], Awaitable[T]]) -> T:
    return await question()
