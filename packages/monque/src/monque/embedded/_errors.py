"""The errors of the embedded MongoDB, and what makes them of a mongod that did not start."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

from monque.errors import EmbeddedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class MongodNotFoundError(EmbeddedError):
    """There is no mongod that could be started."""


class MissingLibrariesError(EmbeddedError):
    """The system lacks shared libraries that mongod needs.

    Attributes:
        libraries: Their file names, such as `"libcurl.so.4"`.
    """

    def __init__(self, message: str, libraries: Sequence[str]) -> None:
        super().__init__(message)
        self.libraries = tuple(libraries)


class DataDirectoryError(EmbeddedError):
    """The data directory cannot be used.

    Attributes:
        directory: The data directory.
    """

    def __init__(self, directory: Path, problem: str) -> None:
        super().__init__(f"data directory {str(directory)!r}: {problem}")
        self.directory = directory


class IncompatibleDataError(DataDirectoryError):
    """The data directory was written by a version of MongoDB that this one cannot read."""


class DiskFullError(DataDirectoryError):
    """The file system of the data directory is full."""


class MongodStartError(EmbeddedError):
    """mongod ended instead of starting.

    Attributes:
        code: Its exit code; negative when a signal ended it.
        log: The end of its log.
    """

    def __init__(self, message: str, code: int, log: str) -> None:
        super().__init__(f"{message}\n{indented(log)}")
        self.code = code
        self.log = log


class StartTimeoutError(EmbeddedError):
    """The server was not ready in time."""


ANOTHER_DIRECTORY = "pass another one as data_directory, or set XDG_DATA_HOME"

_LIBRARIES = {
    "libcurl.so": ("libcurl4", "libcurl"),
    "libcrypto.so.3": ("libssl3", "openssl-libs"),
    "libssl.so.3": ("libssl3", "openssl-libs"),
    "libcrypto.so.1.1": ("libssl1.1", "openssl1.1"),
    "libssl.so.1.1": ("libssl1.1", "openssl1.1"),
    "liblzma.so": ("liblzma5", "xz-libs"),
    "libresolv.so": ("libc6", "glibc"),
    "libm.so": ("libc6", "glibc"),
    "libgcc_s.so": ("libgcc-s1", "libgcc"),
}
_LOADER = re.compile(r"error while loading shared libraries: (?P<library>[^\s:]+): cannot open")
_TRACE = re.compile(r"^\s*(?P<library>\S+) => not found", re.MULTILINE)
_VERSION = re.compile(r"version `(?P<version>[^']+)' not found")
_TOO_NEW = re.compile(
    r"UPGRADE PROBLEM|invalid featureCompatibilityVersion|Version incompatibility|unsupported WiredTiger|"
    r"WT_TRY_SALVAGE.*version|Wrong mongod version"
)
_NEEDS_OTHER_VERSION = 62
_FORBIDDEN = re.compile(r"Permission denied|Read-only file system|read-only directory")
_SERIOUS = re.compile(r'"s":"[EF]"')
_LINES = 12
_WIDTH = 400


def indented(log: str) -> str:
    """What matters of a log, set off from the message before it: its errors, or its end if there are none."""
    lines = log.splitlines()
    chosen = [line for line in lines if _SERIOUS.search(line)] or lines
    return "\n".join(f"    {line[:_WIDTH]}" for line in chosen[-_LINES:])


def libraries_in(output: str) -> list[str]:
    """The missing libraries that the dynamic loader names in `output`."""
    found = [match["library"] for pattern in (_TRACE, _LOADER) for match in pattern.finditer(output)]
    return list(dict.fromkeys(found))


def is_loader_failure(log: str) -> bool:
    """Whether mongod did not even begin to run."""
    return bool(_LOADER.search(log) or _VERSION.search(log))


def libraries_error(output: str) -> MissingLibrariesError:
    """The error for what the dynamic loader said."""
    libraries = libraries_in(output)
    if not libraries:
        return _too_old_system(output)
    packages = [_packages_of(library) for library in libraries]
    debian = " ".join(dict.fromkeys(debian for debian, _ in packages if debian))
    fedora = " ".join(dict.fromkeys(fedora for _, fedora in packages if fedora))
    return MissingLibrariesError(
        f"mongod needs shared libraries that this system lacks: {', '.join(libraries)}. Install them:\n"
        f"    Debian, Ubuntu: apt-get install {debian or '(no known package)'}\n"
        f"    Fedora, RHEL:   dnf install {fedora or '(no known package)'}",
        libraries,
    )


def _packages_of(library: str) -> tuple[str, str]:
    known = [packages for prefix, packages in _LIBRARIES.items() if library.startswith(prefix)]
    return known[0] if known else ("", "")


def _too_old_system(output: str) -> MissingLibrariesError:
    versions = sorted({match["version"] for match in _VERSION.finditer(output)})
    return MissingLibrariesError(
        f"this system is too old for this mongod, whose loader misses {', '.join(versions)}; name a mongod "
        "built for it in MONQUE_MONGOD, or use a MongoDB server of your own",
        versions,
    )


def start_error(directory: Path, code: int, log: str) -> EmbeddedError:
    """The error for a mongod that ended with `code` after saying `log`."""
    if code == _NEEDS_OTHER_VERSION or _TOO_NEW.search(log):
        return IncompatibleDataError(
            directory,
            "it was written by another version of MongoDB, which this one cannot read. Name a mongod of that "
            f"version in MONQUE_MONGOD, or {ANOTHER_DIRECTORY}\n{indented(log)}",
        )
    if "No space left on device" in log:
        return DiskFullError(directory, f"no space left on its file system; free some or {ANOTHER_DIRECTORY}")
    if "DBPathInUse" in log:
        return DataDirectoryError(directory, "a mongod started by other means uses it; stop that one")
    if _FORBIDDEN.search(log):
        return DataDirectoryError(directory, f"mongod may not write there; {ANOTHER_DIRECTORY}\n{indented(log)}")
    return MongodStartError(f"mongod did not start: {_ending(code)}. Its log says:", code, log)


def _ending(code: int) -> str:
    if code == -signal.SIGILL:
        return "this processor lacks instructions it needs; MongoDB from 5.0 on needs AVX, 4.4 does not"
    return f"signal {-code} ended it" if code < 0 else f"it ended with code {code}"


def directory_error(directory: Path, error: OSError) -> DataDirectoryError:
    """The error for a directory that cannot be made or written."""
    return DataDirectoryError(directory, f"cannot be used ({error.strerror}); {ANOTHER_DIRECTORY}")
