"""Processes that run handlers, seen from the parent: kept, reused, interrupted and killed."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from contextlib import suppress
from functools import partial
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from monque import _child
from monque._child import Interrupt, PackedError, Raised, Reference, Returned, Task, Told, Unsendable
from monque._threads import call_on_loop, fail, start_in_thread, succeed
from monque.errors import InvalidArgumentError, InvalidResultError, ProcessDiedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import SpawnProcess

__all__ = ["ProcessPool", "ProcessRun", "Reference"]

# What a process that should be ending may still take, in seconds, before it is killed.
_GRACE = 5.0
# A program that a handler left behind can hold the pipe open, so its end is not the only thing to look for.
_LOOK = 1.0

_spawning = multiprocessing.get_context("spawn")
# The standard library keeps a set of all children, and goes through it without minding other threads.
_children = threading.RLock()


class ProcessPool:
    """Runs functions in processes, one at a time in each; processes are started when none is idle, and reused.

    It belongs to one event loop at a time and limits nothing: it has as many processes as runs were started at once.
    """

    def __init__(self, around: str, *, keep: int | None = None) -> None:
        """Make an empty pool.

        Args:
            around: `"module:function"`: a factory of context managers, called with the run's context and a function
                that tells the parent something; the handler runs within. It is imported in the children only.
            keep: How many idle processes stay, ready for the next run; as many as there are processors if None.
        """
        self._around = around
        self._keep = os.cpu_count() or 1 if keep is None else keep
        self._numbers = itertools.count(1)
        self._idle: list[_Process] = []
        self._busy: set[ProcessRun] = set()
        self._threads: set[asyncio.Future[Any]] = set()

    def start(
        self,
        reference: Reference,
        arguments: tuple[Any, ...],
        *,
        context: dict[str, Any],
        heard: Callable[[object], None],
    ) -> ProcessRun:
        """Call a function in a process.

        Args:
            reference: Where the function is found.
            arguments: Its arguments.
            context: What the child's context manager gets to know.
            heard: Called on the event loop with whatever the child tells.

        Returns:
            The run, which has begun.

        Raises:
            InvalidArgumentError: The arguments or the context cannot be pickled.
        """
        task = Task(next(self._numbers), _pickled((reference, arguments, context)))
        run = ProcessRun(self._take(), task, heard)
        self._busy.add(run)
        self._await(run.reading, partial(self._ended, run))
        return run

    async def close(self) -> None:
        """End every process: idle ones in good order, busy ones by force. The pool is empty then."""
        while self._idle or self._threads:
            for run in self._busy:
                run.kill()
            while self._idle:
                self._dismiss(self._idle.pop())
            await asyncio.wait(self._threads)
        atexit.unregister(self._kill_all)

    def _take(self) -> _Process:
        while self._idle:
            process = self._idle.pop()
            if not process.has_ended():
                return process
            self._dismiss(process)
        # At the interpreter's end the standard library waits for every child there is; each has to be ending by then.
        atexit.unregister(self._kill_all)
        atexit.register(self._kill_all)
        return _Process(self._around)

    def _await(self, thread: asyncio.Future[Any], then: Callable[[asyncio.Future[Any]], object]) -> None:
        self._threads.add(thread)
        thread.add_done_callback(self._threads.discard)
        thread.add_done_callback(then)

    def _ended(self, run: ProcessRun, reading: asyncio.Future[Any]) -> None:
        self._busy.discard(run)
        if reading.exception() is None:
            self._keep_or_dismiss(run.process)
        run.finish(reading)

    def _keep_or_dismiss(self, process: _Process) -> None:
        if process.is_doomed or len(self._idle) >= self._keep:
            self._dismiss(process)
        else:
            self._idle.append(process)

    def _dismiss(self, process: _Process) -> None:
        self._await(start_in_thread(process.leave, name="monque-process-leave"), _look_at)

    def _kill_all(self) -> None:
        # The interpreter ends. The standard library is about to wait for every child, so none is to be given back any
        # more by the threads that are left.
        _children.acquire()
        for process in [*self._idle, *(run.process for run in self._busy)]:
            process.kill()


class ProcessRun:
    """One call in a process.

    Attributes:
        done: The function's result, or what it raised with the child's traceback as a note; `HandlerError` if that
            cannot be pickled, `InvalidResultError` if the result cannot, `ProcessDiedError` if the process ended.
        process: The process it runs in.
        reading: The thread that waits for what the process has to say.
    """

    def __init__(self, process: _Process, task: Task, heard: Callable[[object], None]) -> None:
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Any] = loop.create_future()
        self.process = process
        self._task = task
        self._told = partial(call_on_loop, loop, heard)
        self._interrupted = self._over = False
        self._sent = threading.Event()
        self.reading = start_in_thread(self._perform, name="monque-process")

    def interrupt(self, error: BaseException) -> None:
        """Have `error` raised in the function: once at most, and not at all if it has ended by then."""
        if self._interrupted or self._over:
            return
        self._interrupted = True
        message = Interrupt(self._task.number, PackedError.of(error))
        start_in_thread(partial(self._send, message), name="monque-process-interrupt")

    def kill(self) -> None:
        """End the process, and what it has started, at once and by force."""
        if not self._over:
            self.done.add_done_callback(_look_at)
            self.process.kill()

    def finish(self, reading: asyncio.Future[tuple[Any, BaseException | None]]) -> None:
        """Pass on what came of it; called on the event loop when the thread has ended."""
        self._over = True
        error = reading.exception()
        result, raised = (None, error) if error is not None else reading.result()
        if raised is None:
            succeed(self.done, result)
        else:
            fail(self.done, raised)

    def _perform(self) -> tuple[Any, BaseException | None]:
        try:
            self.process.begin(self._task)
        finally:
            self._sent.set()
        return self.process.outcome(self._task.number, self._told)

    def _send(self, message: Interrupt) -> None:
        self._sent.wait()
        self.process.send(message)


class _Process:
    """A process and the pipe to it. What may block here is called in threads; what does not block says so."""

    def __init__(self, around: str) -> None:
        self._ours, self._theirs = _spawning.Pipe()
        self._process = _spawning.Process(target=_child.main, args=(self._theirs, around), name="monque-process")
        self._sending = threading.Lock()
        self._killing = threading.Lock()
        self._pid: int | None = None
        self.is_doomed = False

    def begin(self, task: Task) -> None:
        """Send a task; the first one starts the process."""
        if not self._theirs.closed:
            self._start()
        self.send(task)

    def outcome(self, number: int, told: Callable[[object], None]) -> tuple[Any, BaseException | None]:
        """Wait for the function's result, or what it raised."""
        try:
            return self._read(number, told)
        except (EOFError, OSError):
            raise ProcessDiedError(self._end()) from None
        except BaseException:  # what came cannot be understood, so nothing more can be expected of it
            self.kill()
            self._end()
            raise

    def send(self, message: Task | Interrupt | None) -> None:
        """Send something; that the process is gone is noticed by whoever reads."""
        with self._sending, suppress(OSError):
            self._ours.send(message)

    def leave(self) -> None:
        """Let the process end in good order, and see to it that it does."""
        self.send(None)
        self._end()

    def kill(self) -> None:
        """Kill the process, now or instead of starting it. Does not block."""
        with self._killing:
            self.is_doomed = True
            if self._pid is not None:
                _kill_group(self._process, self._pid)

    def has_ended(self) -> bool:
        """Whether the process, idle until now, is gone. Does not block."""
        return bool(wait([self._process.sentinel], timeout=0))

    def _start(self) -> None:
        try:
            with _children, self._killing:
                if not self.is_doomed:
                    self._process.start()
                    self._pid = self._process.pid
        finally:
            self._theirs.close()
            if self._pid is None:
                self._ours.close()
        if self._pid is None:
            raise ProcessDiedError(-signal.SIGKILL)

    def _read(self, number: int, told: Callable[[object], None]) -> tuple[Any, BaseException | None]:
        while True:
            message = self._next()
            if message.number != number:
                continue  # from a thread that an earlier handler has left behind
            if not isinstance(message, Told):
                return _opened(message)
            told(message.message)

    def _next(self) -> Told | Returned | Raised | Unsendable:
        while not self._ours.poll(_LOOK):
            if not self._process.is_alive() and not self._ours.poll():
                raise EOFError
        message: Told | Returned | Raised | Unsendable = self._ours.recv()
        return message

    def _end(self) -> int:
        """Wait for a process that is ending, kill what is left of it and of its own, and give back what it held."""
        wait([self._process.sentinel], _GRACE)
        self.kill()
        with self._killing:
            self._pid = None
        with _children:
            self._process.join()
            code = self._process.exitcode or 0
            self._process.close()
        with self._sending:
            self._ours.close()
        return code


def _kill_group(process: SpawnProcess, pid: int) -> None:
    # By itself first: it may not have a group of its own yet.
    process.kill()
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):  # it had no group, or nothing of it is left
            os.killpg(pid, signal.SIGKILL)


def _pickled(task: tuple[Reference, tuple[Any, ...], dict[str, Any]]) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception as error:  # pickling calls any code
        raise InvalidArgumentError(
            "arguments", task[1], f"something that can be pickled, to be sent to a process ({error})"
        ) from error


def _opened(message: Returned | Raised | Unsendable) -> tuple[Any, BaseException | None]:
    """The function's result, or what it raised."""
    if isinstance(message, Raised):
        error = message.error.open()
        error.add_note(f"In the process that ran the handler:\n{message.error.traceback}")
        return None, error
    if isinstance(message, Unsendable):
        return None, InvalidResultError(message.type_name, message.problem)
    try:
        return pickle.loads(message.content), None  # noqa: S301  from a process of our own
    except Exception as error:  # noqa: BLE001  unpickling calls any code
        return None, InvalidResultError("a value", f"{type(error).__name__}: {error}")


def _look_at(done: asyncio.Future[Any]) -> None:
    """Keep asyncio from complaining when nobody asks how a run ended that was killed."""
    if not done.cancelled():
        done.exception()
