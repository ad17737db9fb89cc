"""Calling a function with all that FastAPI would give to a route, by nothing but FastAPI's public means.

Each function gets a hidden application with one route, which is called in process: FastAPI resolves its parameters, the
function runs where a route's does, and what was opened for it is closed afterwards. All of that is one task, so that
exceptions, cancellation and context variables take their natural ways.
"""

from __future__ import annotations

from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import FastAPIError, RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from monque_fastapi.errors import DependencyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from typing import NoReturn

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    Function = Callable[[dict[str, Any]], Awaitable[object]]

_CALL = "monque.call"
_PARAMETER = "monque_call_"
# Runs are for Monque's own traces and metrics; versions of FastAPI that make none take this for a note.
_UNSEEN: Any = {"telemetry": {"tracing": False, "metrics": False, "logs": False}}


class Surroundings(NamedTuple):
    """What a request would know.

    Attributes:
        app: The application.
        state: What its lifespan gave.
        more: Further entries of the scope.
    """

    app: FastAPI
    state: Mapping[str, Any]
    more: Mapping[str, Any]


class _Call:
    """One call of a function, and what came of it."""

    has_begun = False
    result: object = None
    error: BaseException | None = None

    def __init__(self, function: Function, app: FastAPI) -> None:
        self._function = function
        self.app = app

    async def make(self, values: dict[str, Any]) -> None:
        self.has_begun = True
        try:
            self.result = await self._function(values)
        except BaseException as error:
            self.error = error
            raise


class Injection:
    """Fills parameters, for one call after another.

    Args:
        parameters: What is to be filled; by keyword, with annotations that FastAPI understands.

    Raises:
        FastAPIError: It does not understand them.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        handlers: dict[Any, Any] = dict.fromkeys((HTTPException, StarletteHTTPException, RequestValidationError), _pass)
        self._app = FastAPI(openapi_url=None, exception_handlers=handlers, **_UNSEEN)
        self._app.add_middleware(_InPlaceOfTheApplication)
        self._app.add_api_route("/", _endpoint(parameters), methods=["POST"], response_model=None)

    async def call(self, function: Function, where: Surroundings) -> Any:  # noqa: ANN401  what the function returns
        """Call a function with the values of the parameters.

        Raises:
            DependencyError: One of them can be had from an HTTP request only.
        """
        call = _Call(function, where.app)
        self._app.dependency_overrides = where.app.dependency_overrides
        scope: dict[str, Any] = {**_SCOPE, "headers": [], "state": dict(where.state), **where.more, _CALL: call}
        try:
            await self._app(scope, _receive, _send)
        except RequestValidationError as error:
            if call.has_begun:
                raise
            raise _no_request(error) from None
        except FastAPIError:
            # It says so when a dependency swallows what the function raised.
            if call.error is None:
                raise
        if call.error is not None:
            raise call.error
        return call.result


def _endpoint(parameters: Sequence[Parameter]) -> Callable[..., Any]:
    async def endpoint(**values: Any) -> Response:  # noqa: ANN401  whatever is injected
        call: _Call = values.pop(_PARAMETER)
        await call.make(values)
        return Response()

    # Not the request itself, of which FastAPI passes on but one.
    own = Parameter(_PARAMETER, Parameter.KEYWORD_ONLY, annotation=Annotated[Any, Depends(_call)])
    described: Any = endpoint
    described.__signature__ = Signature([own, *parameters])
    return endpoint


async def _call(request: Request) -> Any:  # noqa: ANN401  `_Call`, which is none of FastAPI's business
    return request.scope[_CALL]


class _InPlaceOfTheApplication:
    """Lets `request.app` be the application itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = scope[_CALL].app
        await self._app(scope, receive, send)


def _no_request(error: RequestValidationError) -> DependencyError:
    first = error.errors()[0]
    where, *path = first["loc"]
    wanted = f"{'.'.join(map(str, path)) or 'the body'} ({where})"
    return DependencyError(wanted, "a dependency reads it from the HTTP request, and a job has none")


async def _pass(request: Request, error: Exception) -> NoReturn:  # noqa: ARG001  as Starlette calls it
    raise error


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Message) -> None:
    pass


_SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/",
    "raw_path": b"/",
    "root_path": "",
    "query_string": b"",
    "client": None,
    "server": None,
}
