"""Every Python block on every page runs by itself, and prints what the page says it prints.

A block marked `text` right after one marked `python` is its output. Blocks of other languages are for the eye only.
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
