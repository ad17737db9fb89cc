"""What handlers, and routes, can ask FastAPI for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends
from starlette.requests import HTTPConnection  # noqa: TC002  FastAPI reads the annotations

from monque import Job, Monque
from monque_fastapi.errors import DependencyError

if TYPE_CHECKING:
    from monque_fastapi._module import MonqueModule

__all__ = ["JobDep", "MonqueDep", "get_job", "get_monque"]

# In the scope of what stands for a request while a job runs.
MONQUE = "monque"
JOB = "monque.job"
# In the state of an application.
MODULES = "monque_modules"


def get_monque(connection: HTTPConnection) -> Monque:
    """The `Monque` whose job is running, or else that of the application.

    Args:
        connection: The request.

    Raises:
        DependencyError: The application has no `MonqueModule`, or several.
    """
    if MONQUE in connection.scope:
        return cast("Monque", connection.scope[MONQUE])
    modules: list[MonqueModule] = getattr(connection.app.state, MODULES, [])
    if not modules:
        problem = "no MonqueModule is at work in this application; use its lifespan, or call module.install(app)"
        raise DependencyError("a Monque", problem)
    if len(modules) > 1:
        raise DependencyError("a Monque", f"there are {len(modules)}; name one: Depends(module.get_monque)")
    return modules[0].monque


def get_job(connection: HTTPConnection) -> Job[Any]:
    """The job that is running.

    Args:
        connection: The request.

    Raises:
        DependencyError: This is a route.
    """
    if JOB not in connection.scope:
        raise DependencyError("the job", "this is a route, and no job is running here")
    return cast("Job[Any]", connection.scope[JOB])


MonqueDep = Annotated[Monque, Depends(get_monque)]
"""The `Monque`: in routes, in handlers, and in dependencies of both."""

JobDep = Annotated[Job[Any], Depends(get_job)]
"""The job that is running: in dependencies of handlers."""
