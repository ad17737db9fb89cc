from __future__ import annotations

import re
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import AutoReconnect, InvalidOperation, PyMongoError, ServerSelectionTimeoutError

from monque import ConfigurationError, ConnectionError, Monque
from monque._connection import DEFAULT_DATABASE, URI_VARIABLE, check_source, open_database
from monque._store.errors import driver_errors
from monque.sync import open_twin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from pymongo.asynchronous.database import AsyncDatabase

WHERE = "a URI that begins with mongodb:// or mongodb+srv://"
WHAT = "an AsyncDatabase, an AsyncMongoClient, a mongodb:// URI, a function that opens one of them, or None"


@pytest.fixture
async def client(monque_server: str) -> AsyncGenerator[AsyncMongoClient[dict[str, Any]]]:
    async with AsyncMongoClient[dict[str, Any]](monque_server) as client:
        yield client


async def answers(database: AsyncDatabase[Any]) -> bool:
    try:
        return bool((await database.command("ping"))["ok"])
    except InvalidOperation:
        return False


# --- what a source can be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [None, "mongodb://localhost", "mongodb+srv://cluster.example/app?retryWrites=true", "mongodb://ada:secret@db/app"],
)
def test_a_uri_or_nothing_is_a_source(source: str | None) -> None:
    check_source(source)
    Monque(source)


async def test_a_client_and_a_database_are_sources() -> None:
    async with AsyncMongoClient[dict[str, Any]]("mongodb://localhost") as client:
        for source in (client, client["app"]):
            check_source(source)
            Monque(source)


@pytest.mark.parametrize(
    "source",
    ["", "localhost", "localhost:27017", "mongo://localhost", "http://localhost", " mongodb://localhost", "mongodb:/x"],
)
def test_another_text_is_refused(source: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Monque(source)
    assert (caught.value.option, caught.value.value) == ("source", source)
    assert str(caught.value) == f"option source: expected {WHERE}, got {source!r}"


@pytest.mark.parametrize("source", [1, b"mongodb://localhost", ["mongodb://localhost"], {}, object], ids=repr)
def test_another_type_is_refused(source: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Monque(source)
    assert (caught.value.option, caught.value.value) == ("source", source)
    assert str(caught.value) == f"option source: expected {WHAT}, got {source!r}"


def test_the_synchronous_driver_is_refused() -> None:
    with MongoClient[dict[str, Any]]("mongodb://ada:secret@localhost", connect=False) as client:
        for source in (client, client["app"]):
            with pytest.raises(ConfigurationError, match=f"expected {WHAT}") as caught:
                check_source(source)
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "mongo://ada:secret@db.example",
        "MONGODB://ada:secret@db.example",
        "mongodb+src://ada:secret@db.example/app",
        "mongodb:/ada:secret@db.example",
        "mongodb//ada:secret@db.example",
        "mongodb:ada:secret@db.example",
        "ada:secret@db.example:27017",
        "postgres://ada:secret@db.example/app",
        " mongodb://ada:secret@db.example",
        "mongo://ada:se@secret@db.example",
        "mongo://ada:a/secret?@db.example",
    ],
)
def test_a_uri_that_is_mistyped_does_not_show_its_password(source: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Monque(source)
    assert "secret" not in f"{caught.value} {caught.value.value} {caught.value.args}"
    assert "db.example" in str(caught.value)


# --- opening ------------------------------------------------------------------------------------------------------


async def test_a_database_is_used_as_it_is_and_stays_open(client: AsyncMongoClient[dict[str, Any]]) -> None:
    given_ = client["app"]
    async with open_database(given_) as database:
        assert database is given_
    assert await answers(given_)


async def test_a_client_gives_its_default_database_and_stays_open(monque_uri: str) -> None:
    async with AsyncMongoClient[dict[str, Any]](monque_uri) as client:
        async with open_database(client) as database:
            assert database.client is client
            assert database.name == client.get_default_database().name
        assert await answers(database)


async def test_a_client_without_a_default_database_gives_ours(client: AsyncMongoClient[dict[str, Any]]) -> None:
    async with open_database(client) as database:
        assert (database.client, database.name) == (client, DEFAULT_DATABASE)


async def test_what_a_uri_names_is_opened_and_closed_again(monque_uri: str) -> None:
    async with open_database(monque_uri) as database:
        assert f"/{database.name}?" in monque_uri
        assert await answers(database)
    assert not await answers(database)


async def test_what_was_opened_is_closed_when_the_block_fails(monque_uri: str) -> None:
    database: AsyncDatabase[Any] | None = None
    with pytest.raises(ValueError, match="mine"):
        async with open_database(monque_uri) as database:
            raise ValueError("mine")
    assert database is not None
    assert not await answers(database)


async def test_a_uri_without_a_database_gives_ours(monque_server: str) -> None:
    async with open_database(monque_server) as database:
        assert database.name == DEFAULT_DATABASE == "monque"


async def test_the_environment_names_the_database_if_nothing_else_does(
    monque_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URI_VARIABLE, monque_uri)
    async with open_database(None) as database:
        assert f"/{database.name}?" in monque_uri
        assert await answers(database)
    assert not await answers(database)


async def test_a_uri_that_is_given_counts_more_than_the_environment(
    monque_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONQUE_URI", "mongodb://ada:secret@elsewhere.invalid/other")
    async with open_database(monque_uri) as database:
        assert database.name != "other"


async def test_nonsense_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URI_VARIABLE, "mongo://ada:secret@db.example")
    with pytest.raises(ConfigurationError, match=re.escape(WHERE)) as caught:
        async with open_database(None):
            pytest.fail("opened")
    assert "secret" not in str(caught.value)


async def test_without_any_source_an_embedded_server_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(URI_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    async with open_database(None) as database:
        assert database.name == DEFAULT_DATABASE
        assert await answers(database)
    assert not await answers(database)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [("", 10.0), ("?serverSelectionTimeoutMS=1234", 1.234), ("?w=1&SERVERSELECTIONTIMEOUTMS=1234", 1.234)],
)
async def test_a_server_is_looked_for_for_ten_seconds_unless_the_uri_says_otherwise(
    options: str, seconds: float
) -> None:
    async with open_database(f"mongodb://localhost/{options}") as database:
        assert database.client.options.server_selection_timeout == seconds


async def test_the_server_is_told_who_asks(monque_server: str) -> None:
    async with open_database(monque_server) as database:
        assert database.client.options.pool_options.appname == "monque"


async def test_a_function_opens_the_source_and_closes_it(monque_uri: str) -> None:
    notes: list[str] = []

    @asynccontextmanager
    async def opened() -> AsyncGenerator[AsyncMongoClient[dict[str, Any]]]:
        async with AsyncMongoClient[dict[str, Any]](monque_uri) as client:
            yield client
        notes.append("closed")

    async with Monque(opened) as monque:
        await monque.enqueue("send-email")
        assert notes == []
    assert notes == ["closed"]


async def test_what_a_function_opens_may_be_a_uri(monque_uri: str) -> None:
    async with open_database(lambda: nullcontext(monque_uri)) as database:
        assert f"/{database.name}?" in monque_uri


@pytest.mark.parametrize(
    "opened", [None, 1, "localhost", dict, lambda: nullcontext(None)], ids=["none", "number", "text", "type", "nothing"]
)
async def test_a_function_that_opens_nothing_of_the_kind_is_refused(opened: Any) -> None:
    with pytest.raises(ConfigurationError, match="option source: expected "):
        async with open_database(lambda: nullcontext(opened)):
            pytest.fail("opened")


async def test_a_twin_is_an_asynchronous_database_of_its_own(monque_uri: str) -> None:
    with MongoClient[dict[str, Any]](monque_uri) as client:
        async with open_twin(client["app"]) as database:
            assert database.name == "app"
            assert await answers(database)
        assert not await answers(database)


# --- errors -------------------------------------------------------------------------------------------------------

BAD_URIS = [
    *("mongodb://", "mongodb:///app", "mongodb://db.example:port", "mongodb://db.example:99999", "mongodb://[::1"),
    *("mongodb://ada:sec/ret@db.example", "mongodb://ada:se@ret@db.example", "mongodb://ada:%zz@db.example"),
    *("mongodb://db.example/?tls=true&ssl=false", "mongodb://db.example/a b"),
]


@pytest.mark.parametrize("uri", BAD_URIS)
async def test_a_uri_the_driver_refuses_is_refused_with_its_reason(uri: str) -> None:
    with pytest.raises(ConnectionError, match=r"^cannot use this URI: .") as caught:
        async with open_database(uri):
            pytest.fail("opened")
    assert caught.value.__cause__ is not None


_passwords = st.text(st.characters(exclude_categories=["Cs"]), min_size=6)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the driver, on options it does not know
@given(password=_passwords)
@example(password="sec/ret")  # noqa: S106
@example(password="sec@ret")  # noqa: S106
@example(password="sec:ret")  # noqa: S106
@example(password="sec%ret")  # noqa: S106
@example(password="sec?ret=1")  # noqa: S106
async def test_no_message_shows_a_password(password: str) -> None:
    secret = f"<{password}>"
    try:
        async with open_database(f"mongodb://ada:{secret}@db.example:27017/app"):
            return
    except ConnectionError as error:
        assert secret not in str(error)  # noqa: PT017


@pytest.mark.parametrize("kind", [PyMongoError, AutoReconnect, ServerSelectionTimeoutError, InvalidOperation])
def test_the_drivers_errors_become_ours(kind: type[PyMongoError]) -> None:
    cause = kind("no primary at mongodb://ada:secret@db.example")
    with pytest.raises(ConnectionError) as caught, driver_errors("enqueue the job"):
        raise cause
    assert str(caught.value) == "cannot enqueue the job: no primary at mongodb://***@db.example"
    assert caught.value.__cause__ is cause


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), driver_errors("divide"):
        print(1 // 0)


async def test_an_error_in_the_block_is_not_taken_for_one_of_opening(monque_uri: str) -> None:
    with pytest.raises(AutoReconnect):
        async with open_database(monque_uri):
            raise AutoReconnect("gone")
