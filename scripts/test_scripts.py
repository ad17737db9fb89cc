"""What is done with the repository as a whole: the site's pages, releases, and what is built."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent
# Programs find what lies beside them by themselves; tests do not.
sys.path.append(str(HERE))

import artefacts  # noqa: E402
import badges  # noqa: E402
import build_site  # noqa: E402
import picture  # noqa: E402
import release  # noqa: E402


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return root


# --- the site -------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = {
        "docs/index.md": "[a](guides/a.md#there) [examples](../examples/) [to work](../CONTRIBUTING.md) [b](https://b.org)",
        "docs/guides/a.md": (
            "[up](../index.md) [program](../../examples/small.py) ![p](../images/p.svg) [m](../../results/m.json)\n"
            "[decisions](../decisions/) [here](#there)\n\n```python\nlist[int](nowhere.md)\n```\n"
        ),
        "docs/decisions/index.md": "# Decisions",
        "docs/images/p.svg": "<svg/>",
        "docs/test_pages.py": "",
        "examples/small.py": '"""A small one.\n\nSecond line."""\n',
        "examples/test_examples.py": "",
        "examples/testing/test_small.py": '"""Its test."""\n',
        "results/m.json": "{}",
        "CONTRIBUTING.md": "[decisions](docs/decisions/)",
        "packages/p/pyproject.toml": "",
        "packages/p/changes/+new.feature.md": "Something\nnew.\n",
        "packages/p/changes/+old.bugfix.md": "Something old.\n",
        "packages/p/CHANGELOG.md": "## 0.1.0 (2026-01-01)\n\n### Features\n\n- The first.\n",
    }
    return write(tmp_path / "repository", files)


def test_links_lead_to_where_things_are_on_the_site(repository: Path, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    build_site.lay_out(repository, pages)
    assert (pages / "index.md").read_text() == (
        "[a](guides/a.md#there) [examples](examples/index.md) [to work](project/contributing.md) [b](https://b.org)"
    )
    assert (pages / "guides/a.md").read_text() == (
        "[up](../index.md) [program](../examples/small.md) ![p](../images/p.svg) [m](../files/results/m.json)\n"
        "[decisions](../decisions/index.md) [here](#there)\n\n```python\nlist[int](nowhere.md)\n```\n"
    )
    assert (pages / "project/contributing.md").read_text() == "[decisions](../decisions/index.md)"
    assert {str(file.relative_to(pages)) for file in pages.rglob("*") if file.is_file()} == {
        "changelog.md",
        "decisions/index.md",
        "examples/index.md",
        "examples/small.md",
        "examples/testing/index.md",
        "examples/testing/test_small.md",
        "files/results/m.json",
        "guides/a.md",
        "images/p.svg",
        "index.md",
        "project/contributing.md",
    }
    assert (
        "| [small.py](small.md) | A small one. |\n| [testing/test_small.py](testing/test_small.md) | Its test. |\n"
    ) in (pages / "examples/index.md").read_text()
    assert (pages / "examples/testing/index.md").read_text().startswith("# Testing\n")
    assert (pages / "examples/small.md").read_text().startswith('# small.py\n\n```python\n"""A small one.\n')


def test_the_changelog_has_what_was_released_and_what_is_to_come(repository: Path) -> None:
    assert build_site.changelog(repository) == (
        "# Changelog\n\n## p\n\n### Not released yet\n\n"
        "#### New\n\n* Something new.\n\n#### Mended\n\n* Something old.\n\n"
        "### 0.1.0 (2026-01-01)\n\n#### Features\n\n- The first.\n"
    )


@pytest.mark.parametrize("link", ["gone.md", "../gone.json", "../../gone/", "../results/"])
def test_a_link_that_leads_nowhere_is_refused(repository: Path, tmp_path: Path, link: str) -> None:
    write(repository, {"docs/bad.md": f"[x]({link})"})
    with pytest.raises(build_site.BrokenLinkError, match=rf"docs/bad\.md links to {link}, which does not exist"):
        build_site.lay_out(repository, tmp_path / "pages")


def test_every_page_of_this_repository_has_its_place(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    build_site.lay_out(ROOT, pages)
    written = {file.relative_to(ROOT / "docs") for file in (ROOT / "docs").rglob("*.md")}
    assert {file for file in written if not (pages / file).exists()} == set()


def test_every_folder_of_pages_is_in_the_navigation() -> None:
    order = (ROOT / "docs/.nav.yml").read_text("utf-8")
    folders = {file.parent.relative_to(ROOT / "docs") for file in (ROOT / "docs").rglob("*.md")} - {Path()}
    assert {folder for folder in folders if f"- glob: {folder}/*.md" not in order} == set()
    assert [file.name for file in (ROOT / "docs").glob("*.md")] == ["index.md"]


# --- pictures -------------------------------------------------------------------------------------------------------


def test_badges_say_what_the_configuration_says() -> None:
    drawn = badges.badges()
    assert drawn == {name: (ROOT / "docs/images" / name).read_text("utf-8") for name in drawn}, "scripts/badges.py"
    assert all(f"images/{name}" in (ROOT / "README.md").read_text("utf-8") for name in drawn)


def test_a_picture_shows_what_stays_in_the_terminal() -> None:
    program = (
        r"import shutil; print('before', shutil.get_terminal_size().columns);"
        r"print('\x1b[?25l passing\n\x1b[1A\x1b[2K\x1b[?25h\x1b[31mafter\x1b[0m')"
    )
    shown = picture.shown([sys.executable, "-c", program])
    assert shown == f"before {picture.WIDTH}\n\x1b[31mafter\x1b[0m\n"
    drawn = picture.drawn(shown, "a title")
    assert all(part in drawn for part in ("<svg", "a&#160;title", f"before&#160;{picture.WIDTH}", ">after<"))
    assert "font-face" not in drawn
    assert "url(http" not in drawn


# --- releases -------------------------------------------------------------------------------------------------------


def git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workspace, as far as a release is concerned, in a repository of its own."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "ada@example.org")
    monkeypatch.setenv("UV_OFFLINE", "1")
    root = tmp_path / "clone"
    for package in (ROOT / "packages").iterdir():
        if (package / "pyproject.toml").exists():
            shutil.copytree(
                package, root / "packages" / package.name, ignore=shutil.ignore_patterns("tests", "__pycache__")
            )
            shutil.rmtree(root / "packages" / package.name / "changes", ignore_errors=True)
    for name in ("pyproject.toml", "uv.lock", "README.md"):
        shutil.copy(ROOT / name, root / name)
    write(root, {"packages/monque/changes/+queue.feature.md": "Jobs in a collection.\n"})
    git(root, "init", "--initial-branch", "main")
    git(root, "add", "--all")
    git(root, "commit", "--message", "Begin")
    return root


def version(root: Path) -> str:
    return str(tomllib.loads((root / "packages/monque/pyproject.toml").read_text())["project"]["version"])


def test_a_release_bumps_writes_the_changelog_and_tags(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = version(clone)
    release.main(["current"], clone)
    assert capsys.readouterr().out == (
        f"Look at it (git show), and then: git push --atomic origin HEAD monque-v{first}\n"
    )
    assert git(clone, "tag") == f"monque-v{first}"
    assert git(clone, "log", "-1", "--format=%s") == f"Release monque {first}"
    write(clone, {"packages/monque/changes/+late.bugfix.md": "Nothing is late.\n"})
    git(clone, "add", "--all")
    git(clone, "commit", "--message", "Mend")
    major, minor, _ = first.split(".")
    second = f"{major}.{int(minor) + 1}.0"
    assert release.release(clone, "minor", []) == [f"monque-v{second}"]
    assert version(clone) == second
    assert f'name = "monque"\nversion = "{second}"' in (clone / "uv.lock").read_text()
    changelog = (clone / "packages/monque/CHANGELOG.md").read_text()
    assert changelog.index(f"## {second}") < changelog.index("Nothing is late.") < changelog.index(f"## {first}")
    assert "Jobs in a collection." in changelog
    assert list((clone / "packages/monque/changes").glob("*.md")) == []
    assert git(clone, "status", "--porcelain") == ""
    assert git(clone, "tag", "--points-at", "HEAD") == f"monque-v{second}"


def test_what_cannot_be_released_says_why(clone: Path) -> None:
    with pytest.raises(release.ReleaseError, match="there is no package nothing; there are monque"):
        release.release(clone, "minor", ["nothing"])
    git(clone, "tag", f"monque-v{version(clone)}")
    with pytest.raises(release.ReleaseError, match=f"monque-v{version(clone)} has been released already"):
        release.release(clone, "current", ["monque"])
    write(clone, {"new.md": "new"})
    with pytest.raises(SystemExit, match="release: there are changes that are not committed"):
        release.main(["minor"], clone)
    git(clone, "rm", "-r", "packages/monque/changes")
    git(clone, "add", "--all")
    git(clone, "commit", "--message", "Without news")
    with pytest.raises(release.ReleaseError, match="no package has news"):
        release.release(clone, "minor", [])
    with pytest.raises(release.ReleaseError, match="there is no news in packages/monque/changes/"):
        release.release(clone, "minor", ["monque"])


def test_workflows_use_actions_as_they_were_looked_at() -> None:
    uses = [
        line.strip()
        for file in (ROOT / ".github/workflows").glob("*.yml")
        for line in file.read_text("utf-8").splitlines()
        if "uses:" in line
    ]
    assert len(uses) > 10
    assert [line for line in uses if not re.fullmatch(r"-? ?uses: [\w/-]+@[0-9a-f]{40} # v[\d.]+", line)] == []


# --- what is built --------------------------------------------------------------------------------------------------

PROJECT: dict[str, Any] = {
    "name": "small",
    "version": "1.2",
    "description": "A small one.",
    "requires-python": ">=3.11",
    "license": "MIT",
    "optional-dependencies": {"extra": ["rich"]},
}
METADATA = """\
Name: small
Version: 1.2
Summary: A small one.
Requires-Python: >=3.11
License-Expression: MIT
Provides-Extra: extra
Description-Content-Type: text/markdown

What it is.
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "src", {"small/__init__.py": "", "small/py.typed": ""})


def wheel(folder: Path, metadata: str = METADATA, *, without: str = "", beside: str = "") -> Path:
    file = folder / "small-1.2-py3-none-any.whl"
    info = "small-1.2.dist-info"
    contents = {
        "small/__init__.py": "",
        "small/py.typed": "",
        f"{info}/METADATA": metadata,
        f"{info}/RECORD": "",
        f"{info}/WHEEL": "",
        f"{info}/licenses/LICENSE": "",
        beside: "",
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in contents.items():
            if name not in ("", without):
                archive.writestr(name, text)
    return file


def sdist(folder: Path, *names: str) -> Path:
    file = folder / "small-1.2.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"small-1.2/{name}"), io.BytesIO())
    return file


def test_a_wheel_that_has_everything_is_fine(source: Path, tmp_path: Path) -> None:
    artefacts.check_wheel(wheel(tmp_path), source, PROJECT)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"without": "small/py.typed"}, "lacks small/py.typed"),
        ({"without": "small-1.2.dist-info/licenses/LICENSE"}, "lacks its metadata, its licence or py.typed"),
        ({"beside": "tests/test_small.py"}, "has what should not be there: tests/test_small.py"),
        ({"metadata": METADATA.replace("MIT", "BSD-3-Clause")}, "License-Expression is 'BSD-3-Clause', not 'MIT'"),
        ({"metadata": METADATA.replace("Provides-Extra: extra\n", "")}, r"has the extras \[\]"),
        ({"metadata": METADATA.replace("What it is.", "")}, "has no description"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_said(
    source: Path, tmp_path: Path, changes: dict[str, str], problem: str
) -> None:
    with pytest.raises(artefacts.ArtefactError, match=problem):
        artefacts.check_wheel(wheel(tmp_path, **changes), source, PROJECT)


def test_an_sdist_has_the_sources_and_what_builds_them(source: Path, tmp_path: Path) -> None:
    needed = ("pyproject.toml", "README.md", "LICENSE", "PKG-INFO", "src/small/__init__.py", "src/small/py.typed")
    artefacts.check_sdist(sdist(tmp_path, *needed, "pyproject.toml.orig"), source)
    with pytest.raises(artefacts.ArtefactError, match=r"lacks PKG-INFO, src/small/py\.typed"):
        artefacts.check_sdist(sdist(tmp_path, *(name for name in needed if name not in (needed[3], needed[5]))), source)
    with pytest.raises(artefacts.ArtefactError, match=r"should not be there: \.env"):
        artefacts.check_sdist(sdist(tmp_path, *needed, ".env"), source)


def test_a_tag_names_a_package_in_its_version(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"the tag monque-v99\.0 is no version that is here: monque"):
        artefacts.main(["--dist", str(tmp_path), "--tag", "monque-v99.0"])
    with pytest.raises(SystemExit, match="was not built"):
        artefacts.main(["--dist", str(tmp_path)])
