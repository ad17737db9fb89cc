"""Handlers that run in processes: a module of its own, which the children find by its name."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monque import Cancel, Fail, Job, JobTimeoutError, RetryIn, Snooze

if TYPE_CHECKING:
    from monque.outcome import Verdict

VERDICTS: dict[str, Verdict] = {
    "snooze": Snooze(3600),
    "retry": RetryIn(3600, "busy"),
    "cancel": Cancel("gone"),
    "fail": Fail(ValueError("hopeless")),
}


def note(at: str, what: object) -> None:
    with Path(at).open("a") as file:
        file.write(f"{what}\n")


def hold(at: str) -> None:
    """Run until interrupted."""
    note(at, os.getpid())
    while True:
        time.sleep(3600)


def clean_up(at: str) -> None:
    """Run until interrupted, and say why."""
    try:
        hold(at)
    except JobTimeoutError as error:
        note(at, f"cleaned up: {error.timeout:g}")
        raise


def ignore(at: str) -> None:
    """Run until killed."""
    note(at, os.getpid())
    while True:
        try:
            time.sleep(3600)
        except BaseException as error:  # noqa: BLE001  that is what it is for
            note(at, type(error).__name__)


def ignore_once(at: str) -> None:
    """Run until killed, the first time."""
    if not Path(at).exists():
        ignore(at)


def wait_for(at: str, go: str) -> None:
    """Run until a file is there."""
    note(at, os.getpid())
    while not Path(go).exists():
        time.sleep(0.02)


def die_once(at: str) -> None:
    """Be killed, the first time."""
    if not Path(at).exists():
        note(at, os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)


def whereabouts(job: Job[dict[str, Any]]) -> list[object]:
    return [os.getpid(), threading.current_thread() is threading.main_thread(), job.data]


def say(verdict: str, *, aloud: bool) -> Verdict:
    if aloud:
        raise VERDICTS[verdict]
    return VERDICTS[verdict]


async def say_on_the_loop(verdict: str, *, aloud: bool) -> Verdict:
    return say(verdict, aloud=aloud)


def fail(text: str) -> None:
    raise ValueError(text)
