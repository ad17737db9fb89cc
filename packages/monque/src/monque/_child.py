"""A pool process from the inside: what goes through its pipe, and how a handler runs in it.

The main thread runs one handler at a time. A second thread listens: to the pipe, for the next run and for interrupts of
the present one, and for the death of the parent.
"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from multiprocessing.connection import wait
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from monque.errors import HandlerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from types import TracebackType

# Pickles travel between this process and one it has started itself, nowhere else.

# Interrupts a handler. By default systems ignore SIGURG, and hardly a program has a use for it; Windows knows no such
# signal, and sends itself no SIGTERM.
_INTERRUPT = getattr(signal, "SIGURG", signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a function is found in any process: its module, and its name there.

    Attributes:
        module: The module's name; `"__main__"` is the program.
        qualname: The name in the module, with dots.
    """

    module: str
    qualname: str

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Reference:
        """Refer to a function, which has to be one that another process finds by importing its module.

        Args:
            function: A function at the top level of a module or class.

        Raises:
            ValueError: It is a lambda, a nested function, a bound method or an object; the message says what to do.
        """
        qualname = getattr(function, "__qualname__", "")
        if problem := _problem(function, qualname):
            raise ValueError(
                f"expected a function that another process can import, got {problem} ({function!r}); "
                "define it with `def` at the top level of a module"
            )
        return cls(function.__module__, qualname)

    def resolve(self) -> Callable[..., Any]:
        """Import the module and find the function; behind a worker, the function it was made of.

        Raises:
            LookupError: The module has no such name.
        """
        found: Any = import_module(self.module)
        for part in self.qualname.split("."):
            if not hasattr(found, part):
                raise LookupError(
                    f"there is no {self.qualname!r} in the module {self.module!r} as a new process imports it; "
                    "define the handler at the top level of a module, outside of `if` blocks"
                )
            found = getattr(found, part)
        function: Callable[..., Any] = getattr(found, "function", found)
        return function


def _problem(function: Callable[..., Any], qualname: str) -> str | None:
    """Why another process could not find it by name."""
    if inspect.ismethod(function):
        return "a bound method"
    if not qualname:
        return f"an object of type {type(function).__name__}"
    if "<lambda>" in qualname:
        return "a lambda"
    return "a nested function" if "<locals>" in qualname else None


@dataclass(frozen=True, slots=True)
class PackedError:
    """An exception on its way between processes, with a description in case that it does not arrive.

    Attributes:
        pickled: The exception; None if it does not survive pickling.
        type_name: The name of its class, with the module.
        message: Its text.
        traceback: The traceback's text, where it was raised.
    """

    pickled: bytes | None
    type_name: str
    message: str
    traceback: str

    @classmethod
    def of(cls, error: BaseException) -> PackedError:
        """Pack an exception."""
        kind = type(error)
        lines = traceback.format_exception(error.with_traceback(_beyond_this_file(error.__traceback__)))
        return cls(_pickled(error), f"{kind.__module__}.{kind.__qualname__}", _text(error), "".join(lines))

    def open(self) -> BaseException:
        """The exception itself if it can be had, else a `HandlerError`."""
        error = None if self.pickled is None else _unpickled(self.pickled)
        return HandlerError(self.type_name, self.message, self.traceback) if error is None else error


def _beyond_this_file(position: TracebackType | None) -> TracebackType | None:
    while position is not None and position.tb_frame.f_code.co_filename == __file__:
        position = position.tb_next
    return position


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  an exception without a text is one, too
        return "(its text could not be had)"


def _pickled(error: BaseException) -> bytes | None:
    # Many exceptions can be pickled but not unpickled: those whose constructor takes other arguments than `args`.
    with suppress(Exception):
        content = pickle.dumps(error)
        return content if type(_unpickled(content)) is type(error) else None
    return None


def _unpickled(content: bytes) -> BaseException | None:
    with suppress(Exception):
        error = pickle.loads(content)  # noqa: S301
        return error if isinstance(error, BaseException) else None
    return None


@dataclass(frozen=True, slots=True)
class Task:
    """To the child: run this. The content is a pickled (reference, arguments, context)."""

    number: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Interrupt:
    """To the child: raise this in the handler of that run, if it is still at work."""

    number: int
    error: PackedError


@dataclass(frozen=True, slots=True)
class Told:
    """From the child: what the handler says while it runs."""

    number: int
    message: object


@dataclass(frozen=True, slots=True)
class Returned:
    """From the child: the handler's result, pickled."""

    number: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Raised:
    """From the child: what the handler raised."""

    number: int
    error: PackedError


@dataclass(frozen=True, slots=True)
class Unsendable:
    """From the child: the handler returned something that cannot be pickled."""

    number: int
    type_name: str
    problem: str


class Interrupts:
    """Raises an exception in the main thread: once, and only while the handler runs that it is meant for."""

    def __init__(self) -> None:
        self._running: int | None = None
        self._pending: tuple[int, BaseException] | None = None
        self._held = 0

    def ask(self, number: int, error: BaseException) -> None:
        """Have `error` raised in the handler of that run; called from the listening thread."""
        self._pending = (number, error)
        if self._running == number:
            _wake_main_thread()

    def call(self, number: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> object:
        """Call a handler; from its first line to its last, and not beyond, it can be interrupted."""
        try:
            self._running = number
            self.check()  # it may have been asked for before the handler had begun
            return function(*arguments)
        finally:
            self._running = None

    def check(self, *_: object) -> None:
        """Raise what is to be raised now, if anything; this is the signal handler, too."""
        if self._held or self._pending is None or self._pending[0] != self._running:
            return
        error = self._pending[1]
        self._pending = None
        raise error

    def call_whole(self, function: Callable[[], None]) -> None:
        """Call something that is not to be torn in the middle; the interrupt is raised after it."""
        if threading.current_thread() is not threading.main_thread():
            return function()
        self._held += 1
        try:
            function()
        finally:
            self._held -= 1
        return self.check()


def _wake_main_thread() -> None:
    """Have the main thread run its signal handler, out of a blocking call as well where the system can do that."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, _INTERRUPT)
    else:
        import _thread

        _thread.interrupt_main(_INTERRUPT)


class Child:
    """Runs what comes through the pipe, one run at a time, until it is told to leave."""

    def __init__(self, connection: Connection[Any, Any], around: str) -> None:
        self._connection = connection
        self._around_name = around
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._interrupts = Interrupts()
        self._sending = threading.Lock()

    def serve(self) -> None:
        """Run tasks, in the main thread."""
        # SIGTERM is for the parent, which decides when a handler has to stop; some managers of services send it to
        # every process. Not SIG_IGN, which programs started by the handler would inherit.
        for number in (signal.SIGINT, signal.SIGTERM, _INTERRUPT):
            signal.signal(number, self._interrupts.check)
        threading.Thread(target=self._listen, name="monque-listener", daemon=True).start()
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        task = self._tasks.get()
        if task is not None:
            self._send(self._perform(task))
        return task is not None

    def _listen(self) -> None:
        parent = multiprocessing.parent_process()
        watched: list[Any] = [self._connection] if parent is None else [self._connection, parent.sentinel]
        with suppress(EOFError, OSError):
            while wait(watched) == [self._connection]:
                self._take(self._connection.recv())
        end_with_everything()

    def _take(self, message: Task | Interrupt | None) -> None:
        if isinstance(message, Interrupt):
            self._interrupts.ask(message.number, message.error.open())
        else:
            self._tasks.put(message)

    def _perform(self, task: Task) -> Returned | Raised | Unsendable:
        try:
            result = self._run(task)
        except BaseException as error:  # noqa: BLE001  SystemExit too: no handler ends the process
            return Raised(task.number, PackedError.of(error))
        try:
            return Returned(task.number, pickle.dumps(result))
        except Exception as problem:  # noqa: BLE001  pickling calls any code
            return Unsendable(task.number, type(result).__qualname__, _text(problem))

    def _run(self, task: Task) -> object:
        reference, arguments, context = pickle.loads(task.content)  # noqa: S301
        function = reference.resolve()
        with self._around(context, partial(self._tell, task.number)):
            return self._interrupts.call(task.number, function, arguments)

    @cached_property
    def _around(self) -> Callable[..., Any]:
        module, _, qualname = self._around_name.partition(":")
        return Reference(module, qualname).resolve()

    def _tell(self, number: int, message: object) -> None:
        self._send(Told(number, message))

    def _send(self, message: Told | Returned | Raised | Unsendable) -> None:
        content = pickle.dumps(message)
        self._interrupts.call_whole(partial(self._send_bytes, content))

    def _send_bytes(self, content: bytes) -> None:
        with self._sending:
            self._connection.send_bytes(content)


def main(connection: Connection[Any, Any], around: str) -> None:
    """What a process of the pool does."""
    # A process group of its own, so that what the handler starts can be ended along with it, and so that Ctrl-C, which
    # goes to the terminal's group, reaches the parent alone.
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    Child(connection, around).serve()


def end_with_everything() -> None:
    """End at once, in the middle of a handler too, with whatever it has started: the parent is gone."""
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
