"""What pages say is so: their Python blocks run, and the tests they name exist.

Every Python block on every page runs by itself, and prints what the page says it prints: a block marked `text` right
after one marked `python` is its output. Blocks of other languages are for the eye only.
"""
# ruff: noqa: D101, D102, D103, INP001, S101, S102

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(r"^\s*(?:```|~~~)\s*py", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```$)?", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^```console\n(?P<command>.*?)\n```$", re.MULTILINE)
NAMED_TEST = re.compile(r"`(?P<file>[\w/]*\btest_\w+)(?:\.py)?::(?P<test>test_\w+)`")
TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)
TABLE = re.compile(r"^\|(?P<head>.*)\| test \|\n\|[-|]+\n(?P<rows>(?:\|.*\n)+)", re.MULTILINE)


class Block(NamedTuple):
    page: Path
    line: int
    code: str
    output: str | None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> list[Block]:
    return [
        Block(page, text.count("\n", 0, match.start("code")), match["code"], match["output"])
        for page in PAGES
        for text in [page.read_text("utf-8")]
        for match in BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.where)
@pytest.mark.usefixtures("monque_environment")
def test_block(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    # The empty lines make the line numbers of a traceback those of the page.
    code = compile("\n" * block.line + block.code, block.page, "exec", dont_inherit=True)
    exec(code, {"__name__": "__main__"})
    if block.output is not None:
        assert capsys.readouterr().out == block.output


def existing_tests() -> dict[str, set[str]]:
    """The names of the tests in each file, by its path without suffix."""
    files = [
        file
        for folder in ("packages", "docs", "examples", "benchmarks", "scripts")
        for file in ROOT.glob(f"{folder}/**/test_*.py")
    ]
    return {str(file.relative_to(ROOT).with_suffix("")): set(TEST.findall(file.read_text("utf-8"))) for file in files}


def named_tests(text: str) -> list[tuple[str, str]]:
    return [(match["file"], match["test"]) for match in NAMED_TEST.finditer(text)]


def test_every_test_that_a_page_names_exists() -> None:
    files = existing_tests()
    named = [name for page in PAGES for name in named_tests(page.read_text("utf-8"))]
    missing = {
        f"{file}::{test}"
        for file, test in named
        if not any(f"/{path}".endswith(f"/{file}") and test in tests for path, tests in files.items())
    }
    assert len(named) > 100
    assert missing == set()


def test_every_row_of_a_table_of_tests_names_one() -> None:
    pages = {
        page.name: [row for table in TABLE.finditer(page.read_text("utf-8")) for row in table["rows"].splitlines()]
        for page in PAGES
    }
    cells = [row.split(" | ")[-1] for rows in pages.values() for row in rows]
    assert min(len(pages["crashes.md"]), len(pages["promises.md"])) > 20
    # All that is set apart in the last cell is a name, and there is one.
    assert [cell for cell in cells if not 2 * len(named_tests(cell)) == cell.count("`") > 0] == []


@pytest.mark.parametrize(
    ("page", "file", "beginning"),
    [("crashes", "acceptance/test_crashes", "test_"), ("promises", "engine/test_lessons", "test_lesson_")],
)
def test_every_test_that_is_made_for_a_page_is_named_on_it(page: str, file: str, beginning: str) -> None:
    tests = existing_tests()[f"packages/monque/tests/{file}"]
    named = named_tests((ROOT / f"docs/explanation/{page}.md").read_text("utf-8"))
    made_for_it = {test for test in tests if test.startswith(beginning)}
    assert made_for_it
    assert made_for_it - {test for _, test in named} == set()


def test_no_python_block_is_missed() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        assert len(PYTHON.findall(text)) == len(BLOCK.findall(text)), page


def test_the_gates_run_the_test_command_of_the_readme() -> None:
    demo, tests = COMMAND.findall((ROOT / "README.md").read_text("utf-8"))[:2]
    assert demo.endswith(" monque demo")
    for gate in (".ci/run", ".github/workflows/ci.yml"):
        lines = (ROOT / gate).read_text("utf-8").splitlines()
        assert tests in [line.strip().removeprefix("- run: ") for line in lines], gate
