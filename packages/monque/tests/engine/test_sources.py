from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pymongo import AsyncMongoClient

from monque import ConfigurationError, Monque
from monque.errors import ConnectionError

from .support import forgotten_sockets

if TYPE_CHECKING:
    from .support import Bench


async def _stores_in(monque: Monque, bench: Bench) -> bool:
    async with monque:
        job = await monque.enqueue("greet")
    return bench.count(_id=job.id) == 1


async def test_a_uri_is_a_source(bench: Bench) -> None:
    assert await _stores_in(Monque(bench.uri), bench)


async def test_a_database_is_a_source_and_its_client_stays_open(bench: Bench) -> None:
    async with AsyncMongoClient[dict[str, Any]](bench.uri) as client:
        assert await _stores_in(Monque(client[bench.database_name]), bench)
        assert await client.admin.command("ping")


async def test_a_client_is_a_source_and_stays_open(bench: Bench) -> None:
    async with AsyncMongoClient[dict[str, Any]](bench.uri) as client:
        assert await _stores_in(Monque(client), bench)
        assert await client.admin.command("ping")


async def test_without_a_source_the_uri_comes_from_the_environment(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONQUE_URI", bench.uri)
    assert await _stores_in(Monque(), bench)


@pytest.mark.parametrize("source", ["http://127.0.0.1", 5, object()])
def test_what_is_no_source_is_refused_at_once(source: Any) -> None:
    with pytest.raises(ConfigurationError, match="source"):
        Monque(source)


def test_what_are_no_options_is_refused_at_once(bench: Bench) -> None:
    options: Any = {"collection": "jobs"}
    with pytest.raises(ConfigurationError, match="options"):
        Monque(bench.uri, options)


async def test_the_settings_of_a_uri_win_over_those_of_monque(bench: Bench) -> None:
    async with Monque(f"{bench.uri}&serverSelectionTimeoutMS=1234") as monque:
        options = monque._connection().client.options
    assert (options.pool_options.appname, options.server_selection_timeout) == (bench.app, 1.234)


async def test_an_unreachable_server_is_told_early_and_without_the_password() -> None:
    monque = Monque("mongodb://ada:secret@127.0.0.1:1/?serverSelectionTimeoutMS=100")
    with forgotten_sockets(), pytest.raises(ConnectionError) as raised:
        await monque.initialize()
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is not None
    assert not monque.is_healthy()
    await monque.close()
