"""A real MongoDB that starts with the first process that needs it and stops with the last.

    from monque.embedded import EmbeddedMongoDB

    with EmbeddedMongoDB() as server:
        print(server.uri)

It is a development and single-machine convenience; production names a URI. `docs/explanation/embedded.md`
tells how it works and what happens when any of its processes is killed.
"""

from monque.embedded._binary import find_mongod
from monque.embedded._errors import (
    DataDirectoryError,
    DiskFullError,
    IncompatibleDataError,
    MissingLibrariesError,
    MongodNotFoundError,
    MongodStartError,
    StartTimeoutError,
)
from monque.embedded._server import EmbeddedMongoDB

__all__ = [
    "DataDirectoryError",
    "DiskFullError",
    "EmbeddedMongoDB",
    "IncompatibleDataError",
    "MissingLibrariesError",
    "MongodNotFoundError",
    "MongodStartError",
    "StartTimeoutError",
    "find_mongod",
]
