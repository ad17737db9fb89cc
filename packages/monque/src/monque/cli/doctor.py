"""`monque doctor`: is everything in good health, and what to do if not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from rich.text import Text

from monque import Diagnosis, Finding, IndexFix, Severity
from monque.cli._connect import connected
from monque.cli._options import HERE, Flag, Json, Server
from monque.cli._output import Output

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARKS = {
    Severity.OK: ("✓", "green"),
    Severity.UNKNOWN: ("?", "cyan"),
    Severity.WARNING: ("!", "yellow"),
    Severity.ERROR: ("✗", "red"),
}
_COUNTED = {
    Severity.ERROR: "error(s)",
    Severity.WARNING: "warning(s)",
    Severity.UNKNOWN: "not seen",
    Severity.OK: "ok",
}


def command(
    *,
    fix_indexes: Flag = False,
    drop_old_indexes: Flag = False,
    strict: Flag = False,
    json: Json = False,
    server: Server = HERE,
) -> int:
    """Look whether everything is in good health: the server, the indexes, the jobs.

    It changes nothing unless it is told to, and says so about what it is not allowed to see. The exit code is 1 if
    there are errors.

    Examples:
        monque doctor                      # look
        monque doctor --strict --json      # for scripts
        monque doctor --fix-indexes        # before a new version is deployed
        monque doctor --drop-old-indexes   # once no instance of the old one is left

    Args:
        fix_indexes: First make the indexes what they should be: create those that are missing, and replace those that
            have a name of Monque's and another definition.
        drop_old_indexes: The same, and drop those that only earlier versions use.
        strict: Warnings count as errors.
        json: Print the findings as one JSON object and nothing else on stdout.
        server: Where the jobs are.
    """
    fixed, diagnosis = asyncio.run(_examine(server, fix=fix_indexes or drop_old_indexes, drop_old=drop_old_indexes))
    out = Output(as_json=json)
    if json:
        out.document(_facts(fixed, diagnosis))
    else:
        for line in _lines(fixed, diagnosis):
            # A terminal would break it within words.
            out.console.print(line, soft_wrap=not out.console.is_terminal)
    bad = (Severity.ERROR, Severity.WARNING) if strict else (Severity.ERROR,)
    return 1 if diagnosis.of(*bad) else 0


async def _examine(server: Server, *, fix: bool, drop_old: bool) -> tuple[IndexFix | None, Diagnosis]:
    async with connected(server) as monque:
        fixed = await monque.fix_indexes(drop_old=drop_old) if fix else None
        return fixed, await monque.diagnose()


def _facts(fixed: IndexFix | None, diagnosis: Diagnosis) -> dict[str, Any]:
    found = {"severity": diagnosis.severity, "findings": diagnosis.findings}
    return found if fixed is None else {**found, "fixed": fixed}


def _lines(fixed: IndexFix | None, diagnosis: Diagnosis) -> Iterator[Text]:
    if fixed is not None:
        done = {"created": fixed.created, "dropped": fixed.dropped, "still to do": fixed.problems}
        said = [f"{what}: {', '.join(map(str, which))}" for what, which in done.items() if which]
        yield Text("Indexes: " + ("; ".join(said) or "nothing to do"), style="bold")
    width = max(len(finding.check) for finding in diagnosis.findings)
    for finding in diagnosis.findings:
        yield from _finding(finding, width)
    counts = {word: len(diagnosis.of(severity)) for severity, word in _COUNTED.items()}
    yield Text(", ".join(f"{number} {word}" for word, number in counts.items() if number), style="bold")


def _finding(finding: Finding, width: int) -> Iterator[Text]:
    mark, style = _MARKS[finding.severity]
    yield Text.assemble((f"{mark} {finding.check:<{width}}", style), f"  {finding.seen}")
    if finding.advice:
        yield Text(f"{'':<{width}}    → {finding.advice}", style="dim")
