from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
def test_a_database_of_its_own(monque_server, monque_uri, monque_database):
    assert monque_server == {uri!r}
    assert monque_database.name in monque_uri
    monque_database.jobs.insert_one({{}})
"""


def test_the_plugin_takes_the_server_that_the_environment_names(tmp_path: Path, monque_server: str) -> None:
    (tmp_path / "test_program.py").write_text(PROGRAM.format(uri=monque_server))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "MONQUE_TEST_URI": monque_server},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
