"""The doctor on servers of other kinds: a standalone one, and one that allows its users little."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from monque import Diagnosis, IndexConflictError, Monque, Options, Retention, Severity
from monque._store import indexes
from monque.embedded import find_mongod

from .support import FUTURE, Document, free_port, stored

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

PASSWORD = "s3cret/p@ss"  # noqa: S105  of a server that is gone in a moment
LEFT_ALONE = Options(create_indexes=False)


@contextmanager
def mongod(directory: Path, *options: str) -> Generator[int]:
    port = free_port()
    command = [str(find_mongod()), f"--dbpath={directory}", "--bind_ip=127.0.0.1", f"--port={port}", "--nounixsocket"]
    command += ["--quiet", "--wiredTigerCacheSizeGB=0.25", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.kill()


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with mongod(tmp_path_factory.mktemp("standalone")) as port:
        yield f"mongodb://127.0.0.1:{port}/jobs"


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Generator[MongoClient[Document]]:
    """A replica set that knows its users, as its administrator."""
    directory = tmp_path_factory.mktemp("strict")
    key = directory / "key"
    key.write_text("monque")
    key.chmod(0o600)
    data = directory / "data"
    data.mkdir()
    with mongod(data, "--replSet=rs", f"--keyFile={key}") as port:
        with MongoClient[Document]("127.0.0.1", port, directConnection=True) as first:
            members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
            first.admin.command("replSetInitiate", {"_id": "rs", "members": members})
        # The driver waits for the primary. Of the first user nobody asks who makes it, on the machine itself.
        with MongoClient[Document]("127.0.0.1", port, replicaSet="rs") as first:
            first.admin.command("createUser", "root", pwd=PASSWORD, roles=["root"])
        with MongoClient[Document](_uri(port, "root", "admin")) as client:
            yield client


def _uri(port: int, user: str, database: str) -> str:
    return f"mongodb://{user}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{database}?replicaSet=rs&authSource=admin"


def user(root: MongoClient[Document], name: str, *roles: Any) -> str:
    """The URI of somebody with these roles only."""
    assert root.address is not None
    root.admin.command("createUser", name, pwd=PASSWORD, roles=list(roles))
    return _uri(root.address[1], name, "jobs")


async def diagnose(uri: str) -> Diagnosis:
    async with Monque(uri, LEFT_ALONE) as monque:
        return await monque.diagnose()


def checks(diagnosis: Diagnosis, severity: Severity) -> set[str]:
    return {finding.check for finding in diagnosis.of(severity)}


async def test_a_standalone_server(standalone: str) -> None:
    async with Monque(standalone):
        pass
    diagnosis = await diagnose(standalone)
    assert checks(diagnosis, Severity.WARNING) == {"server.topology", "server.stream"}
    assert diagnosis.severity is Severity.WARNING
    seen = " ".join(finding.seen for finding in diagnosis.findings)
    assert "jobs are found by polling, every 1 s" in seen
    assert "oplog" not in seen


async def test_whoever_may_read_and_write_sees_most(strict: MongoClient[Document]) -> None:
    uri = user(strict, "worker", {"role": "readWrite", "db": "jobs"})
    async with Monque(uri):
        pass
    diagnosis = await diagnose(uri)
    assert checks(diagnosis, Severity.UNKNOWN) == {
        "server.compatibility",
        "server.majority",
        "server.oplog",
        "indexes.used",
    }
    assert diagnosis.severity is Severity.UNKNOWN
    for finding in diagnosis.of(Severity.UNKNOWN):
        assert finding.seen.startswith("could not be seen: not authorized on ")
        assert "clusterMonitor" in str(finding.advice)
    assert PASSWORD not in repr(diagnosis)
    assert quote(PASSWORD, safe="") not in repr(diagnosis)


async def test_with_the_roles_it_names_it_sees_all(strict: MongoClient[Document]) -> None:
    roles = [{"role": "readWrite", "db": "jobs"}, "clusterMonitor", {"role": "read", "db": "local"}]
    uri = user(strict, "doctor", *roles)
    async with Monque(uri):
        pass
    assert (await diagnose(uri)).severity is Severity.OK


async def test_whoever_may_only_see_the_collection_is_told_what_is_hidden(strict: MongoClient[Document]) -> None:
    privilege = {"resource": {"db": "jobs", "collection": "monque_jobs"}, "actions": ["find", "listIndexes"]}
    strict["jobs"].command("createRole", "onlooker", privileges=[privilege], roles=[])
    strict["jobs"]["monque_jobs"].create_indexes(indexes.models())
    strict["jobs"]["monque_jobs"].insert_one(stored(name="late"))
    diagnosis = await diagnose(user(strict, "onlooker", {"role": "onlooker", "db": "jobs"}))
    # Whether anybody works on it cannot be seen.
    assert checks(diagnosis, Severity.WARNING) == {"server.stream", "jobs.overdue"}
    strict["jobs"]["monque_jobs"].delete_many({})
    assert {"collection", "plan.settle"} <= checks(diagnosis, Severity.UNKNOWN)
    assert {"index.monque_claim", "jobs.leases", "plan.claim"} <= checks(diagnosis, Severity.OK)


async def test_whoever_may_not_create_indexes_needs_to_only_if_one_is_missing(strict: MongoClient[Document]) -> None:
    actions = ["find", "insert", "update", "remove", "listIndexes", "changeStream"]
    privilege = {"resource": {"db": "jobs", "collection": "monque_jobs"}, "actions": actions}
    strict["jobs"].command("createRole", "tied", privileges=[privilege], roles=[])
    strict["jobs"]["monque_jobs"].create_indexes(indexes.models())
    uri = user(strict, "tied", {"role": "tied", "db": "jobs"})
    async with Monque(uri) as monque:
        assert (await monque.enqueue("work")).name == "work"
    with pytest.raises(Exception, match="not authorized") as caught:
        await Monque(uri, Options(retention=Retention(completed=60))).initialize()
    assert isinstance(caught.value.__cause__, PyMongoError)
    assert not isinstance(caught.value, IndexConflictError)


async def test_jobs_are_seen_by_whoever_may_read(strict: MongoClient[Document]) -> None:
    strict["jobs"]["monque_jobs"].create_indexes(indexes.models())
    strict["jobs"]["monque_jobs"].insert_one(stored("processing", lastHeartbeat=FUTURE))
    diagnosis = await diagnose(user(strict, "reader", {"role": "read", "db": "jobs"}))
    assert {"collection", "jobs.leases", "jobs.documents", "server.stream"} <= checks(diagnosis, Severity.OK)
