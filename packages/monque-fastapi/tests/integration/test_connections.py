"""Connections of every kind, with the libraries themselves, against a real server."""

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Annotated, Any

import mongoengine  # type: ignore[import-untyped]
import pytest
from beanie import Document, init_beanie  # pyright: ignore[reportUnknownVariableType]
from fastapi import Depends, FastAPI, Request
from motor.motor_asyncio import AsyncIOMotorClient
from odmantic import AIOEngine, SyncEngine
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database
from pymongo.errors import InvalidOperation

from monque import ConfigurationError, ConnectionError, Options
from monque.testing import eventually
from monque_fastapi import MonqueModule

from .support import PATIENCE, living, note

Documents = Database[dict[str, Any]]


class Pet(Document):
    name: str


class Zoo(mongoengine.Document):  # type: ignore[misc]
    meta = {"db_alias": "zoo"}  # noqa: RUF012
    name = mongoengine.StringField()


@asynccontextmanager
async def asynchronous_client(uri: str, name: str) -> AsyncGenerator[Any]:
    async with AsyncMongoClient[Any](uri) as client:
        yield client


@asynccontextmanager
async def asynchronous_database(uri: str, name: str) -> AsyncGenerator[Any]:
    async with asynchronous_client(uri, name) as client:
        yield client[name]


@asynccontextmanager
async def plain_client(uri: str, name: str) -> AsyncGenerator[Any]:
    with MongoClient[Any](uri) as client:
        yield client


@asynccontextmanager
async def plain_database(uri: str, name: str) -> AsyncGenerator[Any]:
    with MongoClient[Any](uri) as client:
        yield client[name]


@asynccontextmanager
async def motor_client(uri: str, name: str) -> AsyncGenerator[Any]:
    motor_client: Any = AsyncIOMotorClient
    client = motor_client(uri)
    yield client
    client.close()


@asynccontextmanager
async def motor_database(uri: str, name: str) -> AsyncGenerator[Any]:
    async with motor_client(uri, name) as client:
        yield client[name]


@asynccontextmanager
async def odmantic_engine(uri: str, name: str) -> AsyncGenerator[Any]:
    async with motor_client(uri, name) as client:
        yield AIOEngine(client, database=name)


@asynccontextmanager
async def plain_odmantic_engine(uri: str, name: str) -> AsyncGenerator[Any]:
    async with plain_client(uri, name) as client:
        yield SyncEngine(client, database=name)


@asynccontextmanager
async def mongoengine_class(uri: str, name: str) -> AsyncGenerator[Any]:
    engine: Any = mongoengine
    engine.connect(host=uri, alias="zoo", uuidRepresentation="standard")
    yield Zoo
    mongoengine.disconnect("zoo")


@asynccontextmanager
async def mongoengine_database(uri: str, name: str) -> AsyncGenerator[Any]:
    async with mongoengine_class(uri, name):
        yield mongoengine.get_db("zoo")


Form = Callable[[str, str], AbstractAsyncContextManager[Any]]
FORMS: list[Form] = [
    *(asynchronous_client, asynchronous_database, plain_client, plain_database, motor_client, motor_database),
    *(odmantic_engine, plain_odmantic_engine, mongoengine_class, mongoengine_database),
]


async def works(module: MonqueModule, documents: Documents, within: FastAPI | None = None) -> None:
    """See that jobs are enqueued in, and run from, the test's own database."""
    async with living(module, within) as app:
        await note.enqueue(text="hello")
        await eventually(lambda: app.state.notes == ["hello"], timeout=PATIENCE)
    assert [job["name"] for job in documents["monque_jobs"].find()] == ["note"]


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:motor")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
async def test_a_connection_of_this_form(monque_uri: str, monque_database: Documents, form: Form) -> None:
    async with form(monque_uri, monque_database.name) as connection:
        await works(MonqueModule(connection, jobs=[note]), monque_database)


async def test_a_uri(monque_uri: str, monque_database: Documents) -> None:
    await works(MonqueModule(monque_uri, jobs=[note]), monque_database)


async def test_the_database_of_beanie(monque_uri: str, monque_database: Documents) -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with AsyncMongoClient[Any](monque_uri) as client:
            await init_beanie(database=client[monque_database.name], document_models=[Pet])
            yield
            await Pet(name="Rex").insert()  # still open

    module = MonqueModule(Pet, jobs=[note])
    await works(module, monque_database, FastAPI(lifespan=module.wrap(lifespan)))
    assert monque_database["Pet"].count_documents({}) == 1


async def test_a_database_of_pymongo_is_shared_and_stays_open(monque_uri: str) -> None:
    async with AsyncMongoClient[Any](monque_uri) as client:
        database = client.get_default_database()
        module = MonqueModule(database, jobs=[note])
        async with living(module), client.start_session() as session, await session.start_transaction():
            await note.with_(session=session).enqueue(text="hello")
            await session.abort_transaction()
        assert await database["monque_jobs"].count_documents({}) == 0


async def test_what_was_opened_for_a_synchronous_client_is_closed(monque_server: str, monque_uri: str) -> None:
    with MongoClient[Any](monque_uri) as client:
        module = MonqueModule(client)
        async with living(module):
            pass
        assert client.admin.command("ping")["ok"] == 1


async def test_a_client_without_a_default_database_gives_one(monque_server: str) -> None:
    with MongoClient[Any](monque_server) as client:
        module = MonqueModule(client, options=Options(create_indexes=False), work=False)
        async with living(module):
            assert module.monque.is_healthy()


# --- factories ------------------------------------------------------------------------------------------------------


async def test_a_factory_makes_the_connection_when_the_application_starts(
    monque_uri: str, monque_database: Documents
) -> None:
    made: list[str] = []

    def factory() -> str:
        made.append("plain")
        return monque_uri

    async def async_factory() -> AsyncMongoClient[Any]:
        made.append("async")
        return client

    client = AsyncMongoClient[Any](monque_uri)
    for one in (factory, async_factory):
        module = MonqueModule(factory=one, jobs=[note])
        assert len(made) < 2
        async with living(module) as app:
            await note.enqueue(text="hello")
            await eventually(lambda: app.state.notes == ["hello"], timeout=PATIENCE)
    assert made == ["plain", "async"]
    assert (await client.admin.command("ping"))["ok"] == 1
    await client.close()


# --- dependencies ---------------------------------------------------------------------------------------------------

closed: list[str] = []


def get_uri(request: Request) -> str:
    uri: str = request.app.state.uri
    return uri


async def get_database(uri: Annotated[str, Depends(get_uri)]) -> AsyncGenerator[AsyncDatabase[Any]]:
    async with AsyncMongoClient[Any](uri) as client:
        yield client.get_default_database()
        assert (await client.admin.command("ping"))["ok"] == 1
    closed.append("closed")


def application(module: MonqueModule, uri: str) -> FastAPI:
    app = FastAPI(lifespan=module.lifespan)
    app.state.uri = uri
    return app


async def test_a_dependency_provides_the_connection(monque_uri: str, monque_database: Documents) -> None:
    closed.clear()
    module = MonqueModule(dependency=get_database, jobs=[note])
    await works(module, monque_database, application(module, monque_uri))
    assert closed == ["closed"]


async def test_a_dependency_can_be_overridden(monque_uri: str, monque_database: Documents) -> None:
    module = MonqueModule(dependency=get_database, jobs=[note])
    app = application(module, "mongodb://elsewhere.invalid")
    app.dependency_overrides[get_database] = lambda: monque_uri
    await works(module, monque_database, app)


async def test_a_dependency_that_fails_says_why() -> None:
    def broken() -> str:
        raise LookupError("no such setting")

    module = MonqueModule(dependency=broken)
    with pytest.raises(LookupError, match="no such setting"):
        async with living(module):
            pytest.fail("lives")


async def test_what_a_dependency_has_opened_is_closed_when_there_is_no_database() -> None:
    closed.clear()

    async def get_client() -> AsyncGenerator[AsyncMongoClient[Any]]:
        async with AsyncMongoClient[Any]("mongodb://127.0.0.1:1", serverSelectionTimeoutMS=50) as client:
            yield client
        closed.append("closed")

    with pytest.raises(ConnectionError):
        async with living(MonqueModule(dependency=get_client)):
            pytest.fail("lives")
    assert closed == ["closed"]


# --- none, several, wrong -------------------------------------------------------------------------------------------


def test_no_connection_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="expected one of connection, factory and dependency, got 'nothing'"):
        MonqueModule()


def test_several_connections_are_an_error(monque_uri: str) -> None:
    with pytest.raises(ConfigurationError, match="got 'connection and factory'"):
        MonqueModule(monque_uri, factory=lambda: monque_uri)
    with pytest.raises(ConfigurationError, match="got 'factory and dependency'"):
        MonqueModule(factory=lambda: monque_uri, dependency=get_database)


@pytest.mark.parametrize("name", ["factory", "dependency"])
def test_what_is_no_function_is_an_error(name: str) -> None:
    wrong: Any = {name: "mongodb://localhost"}
    with pytest.raises(ConfigurationError, match=f"option {name}: expected a function"):
        MonqueModule(**wrong)


@pytest.mark.parametrize("connection", [5, Exception(), str, dict, FastAPI, MongoClient], ids=repr)
def test_what_is_no_connection_is_an_error(connection: Any) -> None:
    with pytest.raises(ConfigurationError, match="option connection: expected a mongodb:// URI; an AsyncDatabase or"):
        MonqueModule(connection)


def test_a_text_that_is_no_uri_is_an_error_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="expected a URI that begins with mongodb://") as caught:
        MonqueModule("mongo://ada:secret@db.example")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("made", [None, 5, object])
async def test_a_factory_that_makes_no_connection_is_an_error_at_start_up(made: Any) -> None:
    with pytest.raises(ConfigurationError, match="option connection: expected a mongodb:// URI; an AsyncDatabase or"):
        async with living(MonqueModule(factory=lambda: made)):
            pytest.fail("lives")


async def test_a_factory_that_makes_no_uri_is_an_error_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="expected a URI that begins with mongodb://") as caught:
        async with living(MonqueModule(factory=lambda: "mongo://ada:secret@db.example")):
            pytest.fail("lives")
    assert "secret" not in str(caught.value)


async def test_a_class_that_beanie_does_not_know_yet_is_an_error_at_start_up() -> None:
    class Stray(Document):
        name: str

    with pytest.raises(ConfigurationError, match="expected a document class that Beanie knows; await init_beanie"):
        async with living(MonqueModule(Stray)):
            pytest.fail("lives")


async def test_a_class_that_is_not_connected_is_an_error_at_start_up() -> None:
    with pytest.raises(ConfigurationError, match="expected a document class whose database is connected"):
        async with living(MonqueModule(Zoo)):
            pytest.fail("lives")


async def test_a_client_that_is_closed_is_the_users_affair(monque_uri: str) -> None:
    client = AsyncMongoClient[Any](monque_uri)
    await client.close()
    with ExitStack() as stack:
        stack.enter_context(pytest.raises((ConnectionError, InvalidOperation)))
        async with living(MonqueModule(client)):
            pytest.fail("lives")
