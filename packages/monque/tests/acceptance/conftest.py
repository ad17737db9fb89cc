from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from pymongo.uri_parser import parse_uri

from .support import Process, Proxy, ReplicaSet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

# A program, which finds what lies beside it only when it is run as one.
collect_ignore = ["bank_program.py"]


@pytest.fixture
def start_process(monque_uri: str) -> Iterator[Callable[..., Process]]:
    """Starts processes of Monque, by default on this test's database. None of them outlives the test."""
    with ExitStack() as processes:

        def start(**given: Any) -> Process:
            return processes.enter_context(Process(**{"uri": monque_uri, **given}))

        yield start


@pytest.fixture(scope="session")
def three_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    yield from _replica_set(tmp_path_factory, 3)


@pytest.fixture(scope="session")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """A replica set of one, to be frozen and killed; whoever does so brings it back."""
    yield from _replica_set(tmp_path_factory, 1)


def _replica_set(factory: pytest.TempPathFactory, members: int) -> Iterator[ReplicaSet]:
    servers = ReplicaSet(factory.mktemp("servers"), members)
    try:
        servers.start()
        yield servers
    finally:
        servers.end()


@pytest.fixture
async def proxy(monque_server: str) -> AsyncIterator[Proxy]:
    """A network between this test and the server; `proxy_uri` leads through it."""
    proxy = Proxy(parse_uri(monque_server)["nodelist"][0][1])
    await proxy.accept()
    yield proxy
    await proxy.end()


@pytest.fixture
def proxy_uri(proxy: Proxy, monque_database: Any) -> str:
    # Through a proxy, the driver must not go on to the addresses that a replica set names.
    return f"mongodb://127.0.0.1:{proxy.port}/{monque_database.name}?directConnection=true"
