"""Where `uv` is: it runs these programs, lies in `build/` as the README puts it there, or is on the path."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent


def uv() -> str:
    """The program's path."""
    here = ROOT / "build" / "uv" / "bin" / "uv"
    found = os.environ.get("UV") or (str(here) if here.exists() else shutil.which("uv"))
    if not found:
        raise SystemExit("there is no uv: python3 -m pip install --upgrade --target build/uv uv")
    return found
