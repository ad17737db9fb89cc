"""One process that works: by itself, or as one of several under a supervisor.

A supervisor's process has a socket to it. Through that it says that it has loaded its target, and that it retires; that
the other end is closed tells it that the supervisor is gone. Whatever the reason, it stops as it does at SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from monque import Monque
from monque.cli._errors import UsageError
from monque.cli._memory import MEMORY, memory
from monque.cli._worker.target import load
from monque.errors import MonqueError, redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from monque.cli._worker.target import Works

LOADED = b"l"
RETIRING = b"r"

logger = logging.getLogger("monque.worker")

_FORMAT = "%(asctime)s %(levelname)s [%(process)d] %(name)s: %(message)s"
_MIB = 1024 * 1024
_LEVELS = logging.getLevelNamesMapping()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a process is replaced by a new one.

    Attributes:
        jobs: After so many runs; None for never.
        memory: Once it has so many MiB; None for never.
    """

    jobs: int | None = None
    memory: int | None = None

    def reason(self, runs: int) -> str | None:
        """Why the process is to be replaced after so many runs, if it is."""
        if self.jobs is not None and runs >= self.jobs:
            return f"it has run {runs:,} jobs"
        if self.memory is not None and (taken := memory(MEMORY)) >= self.memory * _MIB:
            return f"it has {taken // _MIB:,} MiB of memory"
        return None


NO_LIMITS = Limits()


def log_to_stderr(level: str) -> None:
    """Show what is logged, unless the program has its own way of that."""
    # The driver's debugging shows what is in the jobs.
    logging.basicConfig(level=max(logging.INFO, _LEVELS[level.upper()]), format=_FORMAT)
    logging.getLogger("monque").setLevel(_LEVELS[level.upper()])


def work(monque: Works) -> None:
    """Work until a signal comes."""
    logger.info("working")
    if isinstance(monque, Monque):
        asyncio.run(monque.run())
    else:
        monque.run()
    logger.info("stopped")


def retire_after(monque: Works, limits: Limits, tell: Callable[[], None]) -> None:
    """Stop once there is a reason to, and tell the supervisor before that."""
    runs = 0
    retiring = False

    def count(_: object) -> None:
        nonlocal runs, retiring
        runs += 1
        reason = None if retiring else limits.reason(runs)
        if reason:
            retiring = True
            logger.info("retiring: %s", reason)
            tell()
            os.kill(os.getpid(), signal.SIGTERM)

    monque.on("job:complete", count)
    monque.on("job:fail", count)


def main() -> int:
    """Be one of several processes; what to do is in the only argument, as JSON."""
    task: dict[str, Any] = json.loads(sys.argv[1])
    supervisor = socket.socket(fileno=task["socket"])
    supervisor.set_inheritable(False)
    threading.Thread(target=_end_with, args=(supervisor,), daemon=True).start()
    log_to_stderr(task["log_level"])
    try:
        monque = load(task["target"])
        retire_after(monque, Limits(**task["limits"]), lambda: supervisor.sendall(RETIRING))
        supervisor.sendall(LOADED)
        work(monque)
    except UsageError as error:
        sys.stderr.write(f"monque: {error}\n")
        return 2
    except MonqueError as error:
        logger.error("%s", redact(str(error)))
        return 1
    return 0


def _end_with(supervisor: socket.socket) -> None:
    supervisor.recv(1)  # nothing is ever sent: this returns when the supervisor ends
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
