"""`monque worker`: running the workers of a program."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter, validators

from monque.cli._errors import UsageError
from monque.cli._options import Flag  # noqa: TC001  read at run time for the command's arguments
from monque.cli._worker.process import NO_LIMITS, Limits, log_to_stderr, work
from monque.cli._worker.supervisor import Plan, Supervisor
from monque.cli._worker.target import load, split

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_Number = Annotated[int | None, Parameter(validator=validators.Number(gte=1))]
_Level = Literal["debug", "info", "warning", "error"]


def command(
    target: str,
    /,
    *,
    processes: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1,
    max_jobs: _Number = None,
    max_memory: _Number = None,
    reload: Flag = False,
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

    Args:
        target: module:attribute, a Monque or a function that makes one; imported from the current directory.
        processes: How many processes work.
        max_jobs: Replace a process after so many runs; those under way finish.
        max_memory: Replace a process that has so many MiB of memory; it is looked at after each run.
        reload: Start anew when a Python file below the current directory changes.
        log_level: What is logged on stderr, unless the program sets up its own logging.
    """
    split(target)
    log_to_stderr(log_level)
    limits = Limits(jobs=max_jobs, memory=max_memory)
    if processes == 1 and limits == NO_LIMITS and not reload:
        work(load(target))
        return 0
    plan = Plan(target=target, processes=processes, limits=limits, log_level=log_level, waits_for_changes=reload)
    return asyncio.run(_supervise(plan))


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
