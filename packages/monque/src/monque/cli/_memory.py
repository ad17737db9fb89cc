"""How much memory this process has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MEMORY = Path("/proc/self/statm")


def memory(statm: Path) -> int:
    """The memory this process has now, or where that is not to be found out, the most it had."""
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
