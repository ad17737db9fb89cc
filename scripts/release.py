"""Release what has news: bump the versions, write the changelogs, commit and tag.

    uv run scripts/release.py minor                 every package that has news
    uv run scripts/release.py patch monque          this one
    uv run scripts/release.py current               the version that is in pyproject.toml, for a first release

It says what to push; the tags start the workflow that builds, checks and publishes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

from _uv import uv

ROOT = Path(__file__).parent.parent
BUMPS = ("current", "major", "minor", "patch", "stable", "alpha", "beta", "rc")


class ReleaseError(Exception):
    """There is nothing to release, or this is no state to release from."""


def main(words: list[str], root: Path = ROOT) -> None:
    """Release.

    Args:
        words: The command line.
        root: Where the repository is.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bump", choices=BUMPS)
    parser.add_argument("packages", nargs="*", help="names of packages; those that have news unless given")
    given = parser.parse_args(words)
    try:
        tags = release(root, given.bump, given.packages)
    except ReleaseError as error:
        sys.exit(f"release: {error}")
    print(f"Look at it (git show), and then: git push --atomic origin HEAD {' '.join(tags)}")


def release(root: Path, bump: str, names: list[str]) -> list[str]:
    """Bump, write, commit and tag.

    Args:
        root: Where the repository is.
        bump: Which part of the versions goes up; `"current"` for none.
        names: Of which packages; those with news if there are none.

    Returns:
        The tags.

    Raises:
        ReleaseError: There is nothing to release, or this is no state to release from.
    """
    if _run(root, "git", "status", "--porcelain"):
        raise ReleaseError("there are changes that are not committed")
    packages = _chosen(root, names)
    tags = {f"{name}-v{_next_version(root, name, bump)}": name for name in packages}
    if taken := tags.keys() & set(_run(root, "git", "tag").split()):
        raise ReleaseError(f"{', '.join(sorted(taken))} has been released already")
    for tag, name in tags.items():
        if bump != "current":
            _run(root, uv(), "version", "--package", name, "--bump", bump, "--no-sync")
        _write_changelog(root, name, tag.rpartition("-v")[2])
    _run(root, "git", "add", "--all")
    _run(root, "git", "commit", "--message", f"Release {', '.join(tag.replace('-v', ' ') for tag in tags)}")
    for tag in tags:
        _run(root, "git", "tag", "--annotate", tag, "--message", tag.replace("-v", " "))
    return list(tags)


def _chosen(root: Path, names: list[str]) -> list[str]:
    there = {file.parent.name: file.parent for file in sorted(root.glob("packages/*/pyproject.toml"))}
    if unknown := set(names) - there.keys():
        raise ReleaseError(f"there is no package {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    chosen = [name for name, folder in there.items() if name in names or (not names and _has_news(folder))]
    if not chosen:
        raise ReleaseError("no package has news: packages/*/changes/ are empty")
    if silent := [name for name in chosen if not _has_news(there[name])]:
        raise ReleaseError(f"there is no news in packages/{silent[0]}/changes/")
    return chosen


def _has_news(package: Path) -> bool:
    return any((package / "changes").glob("*.md"))


def _next_version(root: Path, name: str, bump: str) -> str:
    if bump != "current":
        return _run(root, uv(), "version", "--package", name, "--bump", bump, "--dry-run", "--short", "--frozen")
    project = tomllib.loads((root / "packages" / name / "pyproject.toml").read_text("utf-8"))["project"]
    return str(project["version"])


def _write_changelog(root: Path, name: str, version: str) -> None:
    today = datetime.now(UTC).date().isoformat()
    towncrier = (sys.executable, "-m", "towncrier", "build", "--yes", "--dir", f"packages/{name}")
    _run(root, *towncrier, "--version", version, "--date", today)


def _run(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True)
    if done.returncode:
        raise ReleaseError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    main(sys.argv[1:])
