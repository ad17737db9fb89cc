"""A MongoDB without change streams: `python -m monque.cli._bench.standalone`. Not for people.

It reads which mongod to run as a line of JSON, answers with the URI, and ends with its input; so does the server.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile

from monque.cli._bench.child import tell


def main() -> None:
    """Run it until the parent closes the pipe."""
    mongod = json.loads(sys.stdin.buffer.readline())["mongod"]
    with tempfile.TemporaryDirectory(prefix="monque-bench-") as directory:
        port = _free_port()
        command = [mongod, f"--dbpath={directory}", "--bind_ip=127.0.0.1", f"--port={port}", "--nounixsocket"]
        command += ["--quiet", "--wiredTigerCacheSizeGB=0.25"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:  # noqa: S603  found by find_mongod
            tell(uri=f"mongodb://127.0.0.1:{port}/")
            sys.stdin.buffer.read()
            # Nobody will ask for its data.
            server.kill()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
