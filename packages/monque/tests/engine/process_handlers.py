"""Handlers for processes: a module of its own, which the children find by its name."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from monque import current_job

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

scope: ContextVar[tuple[dict[str, Any], Callable[[object], None]]] = ContextVar("scope")


@contextmanager
def around(context: dict[str, Any], tell: Callable[[object], None]) -> Generator[None]:
    token = scope.set((context, tell))
    try:
        yield
    finally:
        if context.get("farewell"):
            tell("left")
        scope.reset(token)


def tell(message: object) -> None:
    scope.get()[1](message)


def double(number: int) -> int:
    return 2 * number


def process_id() -> int:
    return os.getpid()


def context_and_arguments(*arguments: object) -> tuple[object, ...]:
    return (scope.get()[0], *arguments)


@dataclass
class Worker:
    """Stands where the function was, as a decorated function does."""

    function: Callable[..., Any]


@Worker
def decorated(number: int) -> int:
    return number + 1


class Namespace:
    @staticmethod
    def inside(number: int) -> int:
        return number + 2

    def method(self) -> None: ...


# --- telling --------------------------------------------------------------------------------------------------------


def count_aloud(upto: int) -> str:
    for number in range(upto):
        tell(number)
    return "done"


def tell_something_unsendable() -> None:
    tell(lambda: None)


class OnlyHere:
    """Can be pickled anywhere and unpickled where it was pickled."""

    def __reduce__(self) -> tuple[Callable[[int], OnlyHere], tuple[int]]:  # type: ignore[explicit-override]
        return (_only_here, (os.getpid(),))


def _only_here(process: int) -> OnlyHere:
    if process != os.getpid():
        raise LookupError("not here")
    return OnlyHere()


def tell_something_for_nobody() -> None:
    tell(OnlyHere())


def return_something_for_nobody() -> OnlyHere:
    return OnlyHere()


def return_something_unsendable() -> object:
    return threading.Lock()


def leave_a_thread_that_tells(directory: str) -> int:
    """The thread speaks once a file is there, and says so with another."""
    say = scope.get()[1]

    def run() -> None:
        while not Path(directory, "speak").exists():
            time.sleep(0.01)
        say("too late")
        Path(directory, "spoken").touch()

    threading.Thread(target=run, daemon=True).start()
    return os.getpid()


def tell_from_a_thread() -> None:
    say = scope.get()[1]
    thread = threading.Thread(target=say, args=("from a thread",))
    thread.start()
    thread.join()


# --- raising --------------------------------------------------------------------------------------------------------


class FussyError(Exception):
    """Its constructor takes other arguments than those it passes on, so it can be pickled only one way."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}, because {why}")


class TextlessError(Exception):
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __str__(self) -> str:  # type: ignore[explicit-override]
        raise ValueError("no text")


def fail(kind: str) -> NoReturn:
    raise {
        "plain": ValueError("wrong"),
        "fussy": FussyError("no", "this"),
        "textless": TextlessError(),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt("now"),
        "stop": StopIteration(7),
    }[kind]


# --- ending ---------------------------------------------------------------------------------------------------------


def exit_at_once(code: int) -> None:
    os._exit(code)


def die_of(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def send_to_itself(*numbers: int) -> str:
    for number in numbers:
        os.kill(os.getpid(), number)
    return "alive"


def start_a_program() -> NoReturn:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    tell(program.pid)
    time.sleep(600)
    raise AssertionError


def start_a_family() -> NoReturn:
    process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    process.start()
    tell(process.pid)
    time.sleep(600)
    raise AssertionError


def die_with_the_pipe_in_other_hands() -> None:
    """A copy of this process, in a group of its own, keeps every file open for a while."""
    copy = os.fork()
    if copy == 0:
        os.setpgid(0, 0)
        signal.alarm(600)  # not for ever, whatever happens
        time.sleep(600)
    tell(copy)
    os.kill(os.getpid(), signal.SIGKILL)


def stay_after_the_end() -> int:
    """Leaves a thread that keeps the interpreter from ending."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return os.getpid()


# --- being interrupted ----------------------------------------------------------------------------------------------


def sleep_aloud(seconds: float) -> str:
    tell(os.getpid())
    time.sleep(seconds)
    return "slept"


def compute_aloud() -> NoReturn:
    tell("computing")
    while True:
        pass


def catch_and_go_on(directory: str) -> str:
    """Catches the first interrupt, and goes on until a file is there; a second interrupt would end it."""
    try:
        tell("ready")
        time.sleep(60)
    except TimeoutError as error:
        tell(f"caught {error}")
    while not Path(directory, "go").exists():
        time.sleep(0.01)
    return "went on"


def chatter() -> NoReturn:
    """Tells big things without a pause, so that whatever comes in between comes in the middle of one."""
    while True:
        tell("x" * 300_000)


# --- speaking of the run --------------------------------------------------------------------------------------------


def say_how_far(message: str) -> None:
    current_job().progress(0.5, message)


def log_something(what: str) -> None:
    logging.getLogger("handlers").warning("in a process: %s", what)
