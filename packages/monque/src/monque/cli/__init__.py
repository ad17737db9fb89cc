"""The command line `monque`. It needs `pip install "monque[cli]"`."""

from __future__ import annotations

import sys

__all__ = ["main"]

_MISSING = 'The command line needs the package {!r}: pip install "monque[cli]"\n'


def main() -> int:
    """Run the command line with the arguments of this process.

    Returns:
        The exit code: 0 for success, 1 for an error, 2 for wrong arguments, 128 + n after signal n.
    """
    try:
        from monque.cli._app import run
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("cyclopts", "rich"):
            raise
        sys.stderr.write(_MISSING.format(package))
        return 2
    return run(sys.argv[1:])
