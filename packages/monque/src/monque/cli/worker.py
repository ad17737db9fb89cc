"""`monque worker`: running the workers of a program."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter, validators

from monque import probes
from monque.cli._errors import UsageError
from monque.cli._options import Flag  # noqa: TC001  read at run time for the command's arguments
from monque.cli._worker.process import Limits, log_to_stderr, work
from monque.cli._worker.supervisor import Plan, Supervisor
from monque.cli._worker.target import load, split

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from monque.cli._worker.target import Works

_logger = logging.getLogger("monque.worker")

_Number = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]
_Port = Annotated[int | None, Parameter(validator=validators.Number(gte=0, lte=65535))]
_Level = Literal["debug", "info", "warning", "error"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Supervision:
    """What takes a supervisor, if any of it is said.

    Attributes:
        processes: How many processes work.
        max_jobs: Replace a process after so many runs; those under way finish.
        max_memory: Replace a process that has so many MiB of memory; it is looked at after each run.
        reload: Start anew when a Python file below the current directory changes.
    """

    processes: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1
    max_jobs: _Number = None
    max_memory: _Number = None
    reload: Flag = False


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Health:
    """Where somebody may ask how the process is doing.

    Attributes:
        health_port: Answer /livez, /readyz, /health and /metrics on this port, 0 for any that is free.
        health_host: The address it listens at; there is no authentication.
    """

    health_port: _Port = None
    health_host: str = "127.0.0.1"


_NONE = Supervision()
_SILENT = Health()


def command(
    target: str,
    /,
    *,
    supervision: Supervision = _NONE,
    health: Health = _SILENT,
    log_level: _Level = "info",
) -> int:
    """Run the workers of a program until SIGTERM or Ctrl-C.

    Then running handlers finish; a second signal cuts them short, and their jobs go back to pending. With several
    processes, limits or --reload there is a supervisor that replaces processes which end, and ends with them.

    Examples:
        monque worker app:monque                     # the Monque called `monque` in app.py
        monque worker shop.jobs:make_monque          # or what a function returns
        monque worker app:monque --processes 4
        monque worker app:monque --max-jobs 10000 --max-memory 512
        monque worker app:monque --reload            # during development
        monque worker app:monque --health-port 8080 --health-host 0.0.0.0

    Args:
        target: module:attribute, a Monque or a function that makes one; imported from the current directory.
        supervision: What takes a supervisor.
        health: Where somebody may ask how it is doing.
        log_level: What is logged on stderr, unless the program sets up its own logging.
    """
    split(target)
    log_to_stderr(log_level)
    if supervision == _NONE:
        _work(load(target), health)
        return 0
    if health.health_port is not None:
        raise UsageError(
            "--health-port: expected one process that nobody replaces, since two cannot have the port; leave out "
            "--processes, --max-jobs, --max-memory and --reload, and start several of `monque worker` instead"
        )
    plan = Plan(
        target=target,
        processes=supervision.processes,
        limits=Limits(jobs=supervision.max_jobs, memory=supervision.max_memory),
        log_level=log_level,
        waits_for_changes=supervision.reload,
    )
    return asyncio.run(_supervise(plan))


def _work(monque: Works, health: Health) -> None:
    with ExitStack() as stack:
        if health.health_port is not None:
            host = health.health_host
            try:
                port = stack.enter_context(probes.serve(monque, host=host, port=health.health_port))
            except OSError as error:
                reason = error.strerror or error
                raise UsageError(
                    f"--health-port: cannot listen at {host}, port {health.health_port}: {reason}"
                ) from None
            _logger.info("answering /livez, /readyz, /health and /metrics at %s, port %d", host, port)
        work(monque)


async def _supervise(plan: Plan) -> int:
    supervisor = Supervisor(plan)
    if not plan.waits_for_changes:
        return await supervisor.run()
    changes = _changes(supervisor.stopping)
    async with asyncio.TaskGroup() as group:
        group.create_task(_reload(supervisor, changes))
        return await supervisor.run()


def _changes(stopping: asyncio.Event) -> AsyncIterator[object]:
    """Changes of Python files below the current directory."""
    try:
        import watchfiles
    except ModuleNotFoundError:
        raise UsageError("--reload needs the package 'watchfiles': pip install \"monque[cli]\"") from None
    library = cast("Any", watchfiles)  # its types are not known whole
    changes: AsyncIterator[object] = library.awatch(
        Path.cwd(), watch_filter=library.PythonFilter(), stop_event=stopping
    )
    return changes


async def _reload(supervisor: Supervisor, changes: AsyncIterator[object]) -> None:
    async for _ in changes:
        supervisor.reload()
