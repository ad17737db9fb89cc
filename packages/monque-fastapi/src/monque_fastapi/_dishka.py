"""What dishka's containers provide, as dependencies that FastAPI knows."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request

from monque import Job, Monque
from monque_fastapi.errors import DependencyError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from inspect import Parameter

    from fastapi import FastAPI

# Where dishka's own integration keeps it, both in applications and in requests.
_CONTAINER = "dishka_container"


def dependency_of(parameter: Parameter, kind: object) -> Any:  # noqa: ANN401  an annotation
    """The annotation that has FastAPI ask the container; None for a parameter that is not dishka's."""
    if "dishka" not in sys.modules:  # then nobody can have named it
        return None
    from dishka.integrations.base import default_parse_dependency

    key = default_parse_dependency(parameter, kind)
    if key is None:
        return None

    async def provided(request: Request) -> object:
        container = getattr(request.state, _CONTAINER, None)
        if container is None:
            raise DependencyError(str(key.type_hint), "there is no container; call setup_dishka(container, app)")
        return await container.get(key.type_hint, component=key.component)

    return Annotated[Any, Depends(provided)]


@asynccontextmanager
async def request_scope(app: FastAPI, job: Job[Any], monque: Monque) -> AsyncGenerator[dict[str, Any]]:
    """A scope of the application's container, if it has one, for one run; as what `request.state` has of it."""
    container = getattr(app.state, _CONTAINER, None)
    if container is None:
        yield {}
        return
    async with container({Job: job, Monque: monque}) as scope:
        yield {_CONTAINER: scope}
