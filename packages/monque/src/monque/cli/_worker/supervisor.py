"""Keeping a number of processes at work: replacing those that end, and ending with them."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from monque._waiting import happens_within
from monque.cli._worker import process as program
from monque.cli._worker.process import LOADED, RETIRING

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable

    from monque.cli._worker.process import Limits

logger = logging.getLogger("monque.worker")

# One after the other; two of a kind would be taken for one if they came close together.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
_SAID = (
    "stopping: running handlers finish; a second signal cuts them short",
    "cutting running handlers short; a third signal kills the processes",
    "killing the processes",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a supervisor keeps up.

    Attributes:
        target: What each process runs.
        processes: How many there are.
        limits: When one is replaced.
        log_level: What they log.
        waits_for_changes: Whether a target that cannot be loaded may be loaded later.
        first_pause: Seconds before a process that crashed is replaced; twice as many each time.
        longest_pause: No more than that.
        settled: After so many seconds at work a crash counts as the first again.
    """

    target: str
    processes: int
    limits: Limits
    log_level: str = "info"
    waits_for_changes: bool = False
    first_pause: float = 0.5
    longest_pause: float = 30.0
    settled: float = 60.0

    def pause(self, crashes: int) -> float:
        """How long to wait after so many crashes in a row."""
        return min(self.first_pause * 2.0 ** (crashes - 1), self.longest_pause)


class Child:
    """A process, seen from its supervisor.

    Args:
        process: The process.
        ours: The supervisor's end of the socket between them.
        on_loaded: Called when it says that it has loaded its target.

    Attributes:
        loaded: Whether it has said so.
        retiring: Whether it has said that it is to be replaced.
        dismissed: Whether it was told to make room for one with newer code.
        leaving: Set when it retires, or has ended.
        code: Its exit code in the end.
        began: When it was started.
    """

    def __init__(self, process: Process, ours: socket.socket, on_loaded: Callable[[], None]) -> None:
        self.loaded = self.retiring = self.dismissed = False
        self._told = 0
        self.leaving = asyncio.Event()
        self.code = 0
        self.began = time.monotonic()
        self._process = process
        self._ours = ours
        self._on_loaded = on_loaded
        asyncio.get_running_loop().add_reader(ours, self._hear)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def _hear(self) -> None:
        said = self._ours.recv(16)
        if LOADED in said:
            self.loaded = True
            self._on_loaded()
        if RETIRING in said:
            self.retiring = True
            self._told = max(self._told, 1)  # by itself
            self.leaving.set()
        if not said:
            asyncio.get_running_loop().remove_reader(self._ours)

    async def end(self) -> None:
        """Wait for its end."""
        self.code = await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._ours)
        self._ours.close()
        self.leaving.set()

    def stop(self, urgency: int) -> None:
        """Tell it to stop, unless it knows or has ended: 1 in peace, 2 in a hurry, 3 at once."""
        for number in _SIGNALS[self._told : urgency] if self._process.returncode is None else ():
            self._process.send_signal(number)
        self._told = max(self._told, urgency)


class Supervisor:
    """Keeps up what was planned, until there is a signal: the first lets the processes stop, the second hurries them.

    Args:
        plan: What.

    Attributes:
        stopping: Set by the first signal.
    """

    def __init__(self, plan: Plan) -> None:
        self.stopping = asyncio.Event()
        self._plan = plan
        self._children: set[Child] = set()
        self._signals = 0
        self._exit_code = 0
        self._loaded = asyncio.Event()  # the target, by the first of them
        self._news = asyncio.Event()  # the code has changed, or all is to end

    async def run(self) -> int:
        """Work; say the exit code: 0, or that of a process that could not load the target."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_one(group))
            # An error in the target is to be seen once.
            await self._loaded.wait()
            for _ in range(self._plan.processes - 1):
                group.create_task(self._keep_one(group))
        return self._exit_code

    def reload(self) -> None:
        """The code has changed: new processes take the place of the present ones. Once more: and hurry."""
        self._news.set()
        self._news.clear()
        for child in self._children:
            child.stop(2 if child.dismissed else 1)
            child.dismissed = True

    def _signalled(self) -> None:
        logger.info(_SAID[min(self._signals, len(_SAID) - 1)])
        self._signals += 1
        self._stop()

    def _stop(self) -> None:
        self.stopping.set()
        self._loaded.set()
        self._news.set()
        for child in self._children:
            child.stop(max(self._signals, 1))

    async def _keep_one(self, group: asyncio.TaskGroup) -> None:
        crashes = 0
        while not self.stopping.is_set():
            child = await self._start(group)
            await child.leaving.wait()
            if not (child.retiring or child.dismissed or self.stopping.is_set()):
                crashes = await self._after_crash(child, crashes)

    async def _start(self, group: asyncio.TaskGroup) -> Child:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            # In a session of its own: Ctrl-C at the terminal is for the supervisor, which passes it on.
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", program.__name__, self._task(theirs)),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        child = Child(process, ours, self._loaded.set)
        self._children.add(child)
        group.create_task(self._see_off(child))
        if self.stopping.is_set():
            child.stop(max(self._signals, 1))
        return child

    def _task(self, theirs: socket.socket) -> str:
        plan = self._plan
        return json.dumps(
            {
                "target": plan.target,
                "limits": asdict(plan.limits),
                "log_level": plan.log_level,
                "socket": theirs.fileno(),
            }
        )

    async def _see_off(self, child: Child) -> None:
        await child.end()
        self._children.discard(child)

    async def _after_crash(self, child: Child, crashes: int) -> int:
        """Wait until another process may start; say how many have crashed in a row."""
        if not child.loaded and (self._plan.waits_for_changes or not self._loaded.is_set()):
            await self._after_failure(child)
            return 0
        lived = time.monotonic() - child.began
        crashes = 1 if lived >= self._plan.settled else crashes + 1
        pause = self._plan.pause(crashes)
        logger.warning("process %d ended with %s; another one starts in %g s", child.pid, ending(child.code), pause)
        await happens_within(self._news, pause)
        return crashes

    async def _after_failure(self, child: Child) -> None:
        """The target cannot be loaded, and the process has said why."""
        if self._plan.waits_for_changes:
            logger.warning("waiting for a change of the code")
            await self._news.wait()
        else:
            self._exit_code = child.code
            self._stop()


def ending(code: int) -> str:
    """What an exit code says."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
