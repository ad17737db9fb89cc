"""Health and metrics over HTTP, for Kubernetes, load balancers and Prometheus.

| path | |
|---|---|
| `/livez` | 200, or 503 if a restart is called for: the database is there, and yet nothing goes on |
| `/readyz`, `/health` | 200 if the instance is connected and makes progress, else 503; as JSON, what is known of it |
| `/metrics` | what prometheus-client's registry holds, if that is installed: see `monque.prometheus` |

`serve` answers from a thread of its own, also while the event loop of the instance is blocked; `asgi` is the same for
programs that have a web server.
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from monque._observed import Observed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from prometheus_client import CollectorRegistry

    from monque import sync
    from monque._monque import Monque

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]

__all__ = ["asgi", "serve"]

_logger = logging.getLogger("monque")
_TEXT = "text/plain; charset=utf-8"
# Seconds that a client has to say what it wants.
_PATIENCE = 5.0

Answer = tuple[int, str, bytes]


@contextmanager
def serve(
    monque: Monque | sync.Monque,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    registry: CollectorRegistry | None = None,
) -> Generator[int]:
    """Answer while the block lasts, which may be longer than the instance is connected.

    Args:
        monque: The instance.
        host: Where to listen: on this machine only, unless told otherwise. There is no authentication.
        port: On which port; 0 for any that is free.
        registry: What `/metrics` shows; None for prometheus-client's own.

    Returns:
        A context manager, which gives the port.

    Raises:
        InvalidArgumentError: `monque` is no `Monque`.
        OSError: It cannot listen there.

    Example:
        >>> from urllib.request import urlopen
        >>> from monque import Monque
        >>> with serve(Monque(), port=0) as port:
        ...     print(urlopen(f"http://127.0.0.1:{port}/livez").status)
        200
    """
    probes = _Probes(monque, registry)
    with _Server(host, port, partial(_Handler, probes)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="monque-probes", daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def asgi(
    monque: Monque | sync.Monque, registry: CollectorRegistry | None = None
) -> Callable[[dict[str, Any], Receive, Send], Awaitable[None]]:
    """Make an ASGI application that answers the same, to be mounted in another.

    Args:
        monque: The instance.
        registry: As for `serve`.

    Returns:
        The application.

    Raises:
        InvalidArgumentError: `monque` is no `Monque`.

    Example:
        >>> from monque import Monque
        >>> probes = asgi(Monque())  # app.mount("/monque", probes)
    """
    probes = _Probes(monque, registry)

    async def app(scope: dict[str, Any], _: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
        status, content_type, body = probes.answer(path, accept)
        headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


class _Probes:
    """What is answered to whom."""

    def __init__(self, monque: Monque | sync.Monque, registry: CollectorRegistry | None) -> None:
        self._observed = Observed(monque)
        self._registry = registry

    def answer(self, path: str, accept: str) -> Answer:
        if path == "/livez":
            return self._live()
        if path in ("/readyz", "/health"):
            return self._health()
        return self._metrics(accept) if path == "/metrics" else (404, _TEXT, b"/livez, /readyz, /health, /metrics\n")

    def _live(self) -> Answer:
        health = self._observed.monque.health()
        # A restart brings no database back.
        if health.healthy or not health.connected:
            return 200, _TEXT, b"ok\n"
        return 503, _TEXT, "".join(f"{reason}\n" for reason in health.reasons).encode()

    def _health(self) -> Answer:
        health = self._observed.monque.health()
        body = json.dumps(asdict(health), default=datetime.isoformat) + "\n"
        return 200 if health.healthy else 503, "application/json", body.encode()

    def _metrics(self, accept: str) -> Answer:
        try:
            from monque import prometheus
        except ImportError:
            return 404, _TEXT, b'there are no metrics without prometheus-client: pip install "monque[prometheus]"\n'
        return 200, *prometheus.written(self._registry or prometheus.REGISTRY, accept)


class _Server(ThreadingHTTPServer):
    """Serves each client in a thread."""

    daemon_threads = True

    def __init__(self, host: str, port: int, handler: Callable[..., BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        # The standard library's would ask the name service who this is, and wait for it.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "monque", self.socket.getsockname()[1]

    def handle_error(self, request: object, client_address: object) -> None:  # type: ignore[explicit-override]  # noqa: ARG002
        error = sys.exc_info()[1]
        # Clients may hang up whenever they like.
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        _logger.log(level, "probes: a client was not answered", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    """Answers one client."""

    timeout = _PATIENCE

    def __init__(self, probes: _Probes, *arguments: Any) -> None:  # noqa: ANN401  what the server gives it
        self._probes = probes
        super().__init__(*arguments)

    def do_GET(self) -> None:
        status, content_type, body = self._probes.answer(self.path.partition("?")[0], self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  so it is called

    def version_string(self) -> str:  # type: ignore[explicit-override]  # typing.override is newer
        return "monque"

    def log_message(self, format: str, *args: Any) -> None:  # type: ignore[explicit-override]  # noqa: A002, ANN401
        _logger.debug(f"probes: {format}", *args)  # noqa: G004
