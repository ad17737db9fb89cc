"""Build the documentation site: `uv run --group docs scripts/build_site.py`, and then open `site/index.html`.

Pages live where they can be read without a site, too, and link to files beside `docs/`: programs, measurements, the
changelogs. This lays out all of them as pages in `build/pages/`, mends the links between them, and lets Zensical make
the site. A link that leads nowhere ends it, and so does a reference to something that is not in the code.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "build" / "pages"
# Pages that do not come from `docs/`: their files, and where they are on the site.
OTHERS = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CODE_OF_CONDUCT.md": "project/conduct.md",
    "LICENSE": "files/LICENSE",
    "benchmarks/README.md": "project/benchmarks.md",
}
LINK = re.compile(r"(?P<before>\]\(|<img src=\")(?P<target>[^)\s\"]+)")
FENCED = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
CHANGE = re.compile(r"^\+?(?P<topic>[\w-]+)\.(?P<kind>\w+)\.md$")
KINDS = {"removal": "Removed", "feature": "New", "bugfix": "Mended", "doc": "Documentation", "misc": "Other"}


class BrokenLinkError(Exception):
    """A link leads nowhere."""


def main(root: Path = ROOT, pages: Path = PAGES) -> None:
    """Lay the pages out, and build the site of them."""
    lay_out(root, pages)
    zensical = Path(sys.executable).with_name("zensical")
    # Paths in the configuration are relative to it.
    if subprocess.run([zensical, "build", "--clean", "--strict"], cwd=root, check=False).returncode:
        sys.exit("The site was not built: see above.")


def lay_out(root: Path, pages: Path) -> None:
    """Write every page and picture below `pages`.

    Args:
        root: Where the repository is.
        pages: Where the pages go; whatever is there is deleted.

    Raises:
        BrokenLinkError: A page links to a file that does not exist.
    """
    shutil.rmtree(pages, ignore_errors=True)
    places = {root / source: page for source, page in OTHERS.items() if (root / source).exists()}
    for file in sorted((root / "docs").rglob("*")):
        if file.is_file() and file.suffix not in {".py", ".pyc"}:
            places[file] = str(file.relative_to(root / "docs"))
    examples = sorted(file for file in (root / "examples").rglob("*.py") if file.name != "test_examples.py")
    places |= {file: f"{file.relative_to(root).with_suffix('.md')}" for file in examples}
    for folder in {file.parent for file in examples}:
        places[folder] = f"{folder.relative_to(root)}/index.md"
        _write(pages / places[folder], _list(folder, [file for file in examples if file.is_relative_to(folder)]))
    _write(pages / "changelog.md", changelog(root))
    for file, page in list(places.items()):
        if file.suffix == ".md":
            _write(pages / page, mended(file, page, root, places))
        elif file in examples:
            _write(pages / page, _program(file))
        elif file.is_file():
            _copy(file, pages / page)
    # What a page links to beside all that comes along as it is.
    for file, page in places.items():
        if not (pages / page).exists():
            _copy(file, pages / page)


def mended(file: Path, page: str, root: Path, places: dict[Path, str]) -> str:
    """The text of a page, with its links as they have to be where it goes.

    Args:
        file: The page.
        page: Where it goes.
        root: Where the repository is.
        places: What goes where; files that are linked to are added.

    Raises:
        BrokenLinkError: A link leads nowhere.
    """
    text = file.read_text("utf-8")
    code = [match.span() for match in FENCED.finditer(text)]

    def mend(match: re.Match[str]) -> str:
        url = urlsplit(match["target"])
        if url.scheme or not url.path or any(start <= match.start() < end for start, end in code):
            return match[0]
        target = Path(os.path.normpath(file.parent / url.path))
        if target.is_dir() and target not in places:
            target /= "index.md"  # a folder of pages
        if not target.exists():
            raise BrokenLinkError(f"{file.relative_to(root)} links to {match['target']}, which does not exist")
        place = places.setdefault(target, f"files/{target.relative_to(root)}")
        way = os.path.relpath(place, Path(page).parent)
        return match["before"] + way + (f"#{url.fragment}" if url.fragment else "")

    return LINK.sub(mend, text)


def changelog(root: Path) -> str:
    """What changed, by package: what is to be released next, and then the changelog of what was released."""
    parts = ["# Changelog\n"]
    for package in sorted(file.parent for file in root.glob("packages/*/pyproject.toml")):
        parts.append(f"## {package.name}\n")
        if coming := _coming(package / "changes"):
            parts.append(f"### Not released yet\n\n{coming}")
        file = package / "CHANGELOG.md"
        if file.exists():
            # Its headings go one level down.
            parts.append(re.sub(r"^#(?=#)", "##", file.read_text("utf-8"), flags=re.MULTILINE))
    return "\n".join(parts)


def _coming(folder: Path) -> str:
    """The news fragments of a package, by kind."""
    news: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for file in sorted(folder.glob("*.md")):
        if match := CHANGE.match(file.name):
            news[match["kind"]].append(" ".join(file.read_text("utf-8").split()))
    return "\n".join(
        f"#### {KINDS[kind]}\n\n" + "".join(f"* {line}\n" for line in lines) for kind, lines in news.items() if lines
    )


def _program(file: Path) -> str:
    """A page that shows a program."""
    code = file.read_text("utf-8").rstrip()
    return f"# {file.name}\n\n```python\n{code}\n```\n"


def _list(folder: Path, files: list[Path]) -> str:
    """The page that lists programs, with the first line of each."""
    names = {file: file.relative_to(folder) for file in files}
    rows = "".join(f"| [{name}]({name.with_suffix('.md')}) | {_summary(file)} |\n" for file, name in names.items())
    return f"# {folder.name.capitalize()}\n\nSmall programs; the tests run each of them.\n\n| | |\n|---|---|\n{rows}"


def _summary(file: Path) -> str:
    first = file.read_text("utf-8").split("\n", 1)[0]
    return first.strip('"') if first.startswith('"""') else ""


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


if __name__ == "__main__":
    main()
