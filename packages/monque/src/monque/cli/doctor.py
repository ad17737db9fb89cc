"""`monque doctor`: is everything in good health, and what to do if not."""

from __future__ import annotations

import asyncio
import json as _json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from monque import Diagnosis, Finding, IndexFix, Monque, Options, Severity
from monque.cli._options import check_uri

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
    fix_indexes: Annotated[bool, Parameter(negative=())] = False,
    drop_old_indexes: Annotated[bool, Parameter(negative=())] = False,
    strict: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
    collection: str = "monque_jobs",
    uri: Annotated[str | None, Parameter(env_var="MONQUE_URI", show_env_var=True)] = None,
) -> int:
    """Look whether everything is in good health: the server, the indexes, the jobs.

    It changes nothing unless it is told to, and says so about what it is not allowed to see. The exit code is 1 if
    there are errors.

    Args:
        fix_indexes: First make the indexes what they should be: create those that are missing, and replace those that
            have a name of Monque's and another definition.
        drop_old_indexes: The same, and drop those that only earlier versions use.
        strict: Warnings count as errors.
        json: Print the findings as one JSON object and nothing else on stdout.
        collection: The collection of the jobs.
        uri: The MongoDB to use; without it the embedded one.
    """
    check_uri(uri)
    # What an instance would log is among the findings.
    logging.getLogger("monque").addHandler(logging.NullHandler())
    options = Options(collection=collection, create_indexes=False)
    fixed, diagnosis = asyncio.run(_examine(uri or None, options, fix=fix_indexes, drop_old=drop_old_indexes))
    out = Console(highlight=False)
    if json:
        out.file.write(_json.dumps(_as_json(fixed, diagnosis), indent=2) + "\n")
    else:
        for line in _lines(fixed, diagnosis):
            out.print(line, soft_wrap=True)
    bad = (Severity.ERROR, Severity.WARNING) if strict else (Severity.ERROR,)
    return 1 if diagnosis.of(*bad) else 0


async def _examine(
    uri: str | None, options: Options, *, fix: bool, drop_old: bool
) -> tuple[IndexFix | None, Diagnosis]:
    async with Monque(uri, options) as monque:
        fixed = await monque.fix_indexes(drop_old=drop_old) if fix or drop_old else None
        return fixed, await monque.diagnose()


def _as_json(fixed: IndexFix | None, diagnosis: Diagnosis) -> dict[str, Any]:
    found: dict[str, Any] = {"severity": diagnosis.severity, "findings": [asdict(one) for one in diagnosis.findings]}
    if fixed is not None:
        problems = [str(problem) for problem in fixed.problems]
        found["fixed"] = {"created": fixed.created, "dropped": fixed.dropped, "problems": problems}
    return found


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
