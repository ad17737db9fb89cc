from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monque.cli._progress import Progress
from monque.cli._screen import Screen
from monque.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_terminal_shows_the_progress_live(terminal: Callable[..., Any], tree: Path) -> None:
    shown = terminal("demo", tree)
    assert shown.end() == 0
    assert "━" in shown.seen
    assert "of 9" in shown.seen
    assert "jobs/s" in shown.seen
    assert "4 completed" in shown.seen


def test_ctrl_c_in_a_terminal(terminal: Callable[..., Any], slow: Path) -> None:
    shown = terminal("demo", slow, "-c", "2")
    shown.read_until("1 done")
    shown.type(b"\x03")
    assert shown.end() == 130
    assert "Stopping" in shown.seen
    assert "pending" in shown.seen


async def test_elsewhere_there_is_a_line_now_and_then(capsys: Any) -> None:
    printed: list[str] = []

    def has_printed() -> bool:
        printed.append(capsys.readouterr().out)
        return "0 of 3 files" in "".join(printed)

    progress = Progress(3, label=str, on_end=lambda: None)
    with Screen(line_interval=0.01).showing(progress):
        await eventually(has_printed)
