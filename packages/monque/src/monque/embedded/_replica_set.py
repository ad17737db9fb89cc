"""Makes a mongod that accepts connections a writable primary."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from monque.embedded._keeper import REPLICA_SET

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymongo.database import Database


def uri_of(port: int) -> str:
    """The connection string of the server on this port."""
    return f"mongodb://127.0.0.1:{port}/?replicaSet={REPLICA_SET}"


def become_primary(port: int, wait: Callable[[], bool]) -> bool:
    """Initiate or correct the replica set as needed, and wait until its only member is primary.

    Any number of processes may do that at the same time. It is false when `wait`, which is called between two
    attempts, says that there is nothing to wait for.
    """
    client: MongoClient[dict[str, Any]] = MongoClient(
        "127.0.0.1",
        port,
        directConnection=True,
        serverSelectionTimeoutMS=1000,
        connectTimeoutMS=5000,
        socketTimeoutMS=5000,
    )
    with client:
        while not _is_primary(client.admin, f"127.0.0.1:{port}"):
            if not wait():
                return False
    return True


def _is_primary(admin: Database[dict[str, Any]], address: str) -> bool:
    with suppress(PyMongoError):  # mongod may be going up and down yet
        hello = admin.command("hello")
        if "setName" not in hello:
            _configure(admin, address)
        return bool(hello["isWritablePrimary"])
    return False


def _configure(admin: Database[dict[str, Any]], address: str) -> None:
    members = [{"_id": 0, "host": address}]
    try:
        admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
    except OperationFailure:  # the directory, or another process, is ahead of us
        _correct(admin, address)


def _correct(admin: Database[dict[str, Any]], address: str) -> None:
    """Replace the address of a former start, at which the member does not recognize itself."""
    configuration = admin.command("replSetGetConfig")["config"]
    if configuration["members"][0]["host"] != address:
        configuration["members"][0]["host"] = address
        configuration["version"] += 1
        admin.command("replSetReconfig", configuration, force=True)
