"""Draw the README's badges, from what the configuration says: `uv run scripts/badges.py`."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
BADGE = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{left}: {right}">
  <title>{left}: {right}</title>
  <clipPath id="round"><rect width="{width}" height="20" rx="3"/></clipPath>
  <g clip-path="url(#round)">
    <rect width="{middle}" height="20" fill="#555"/>
    <rect x="{middle}" width="{rest}" height="20" fill="{colour}"/>
  </g>
  <g fill="#fff" font-family="Verdana, DejaVu Sans, sans-serif" font-size="11" text-anchor="middle">
    <text x="{left_at}" y="14">{left}</text>
    <text x="{right_at}" y="14">{right}</text>
  </g>
</svg>
"""


def badges(root: Path = ROOT) -> dict[str, str]:
    """The badges, by the names of their files.

    Args:
        root: Where the repository is.

    Returns:
        Pictures.
    """
    workspace = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]
    project = tomllib.loads((root / "packages/monque/pyproject.toml").read_text("utf-8"))["project"]
    versions = [
        version
        for line in project["classifiers"]
        if (version := line.removeprefix("Programming Language :: Python :: ")) != line and "." in version
    ]
    strict = (workspace["mypy"]["strict"], workspace["pyright"]["typeCheckingMode"]) == (True, "strict")
    facts = {
        "python": ("Python", f"{versions[0]} – {versions[-1]}", "#3775a9"),
        "coverage": ("coverage", f"{workspace['coverage']['report']['fail_under']} %", "#2f9e62"),
        "types": ("mypy, pyright", "strict" if strict else "on", "#2f9e62"),
        "licence": ("licence", project["license"], "#3775a9"),
    }
    return {f"badge-{name}.svg": _badge(*fact) for name, fact in facts.items()}


def _badge(left: str, right: str, colour: str) -> str:
    middle, rest = (round(12 + 6.6 * len(text)) for text in (left, right))
    return BADGE.format(
        left=left,
        right=right,
        colour=colour,
        width=middle + rest,
        middle=middle,
        rest=rest,
        left_at=middle / 2,
        right_at=middle + rest / 2,
    )


if __name__ == "__main__":
    for name, picture in badges().items():
        (ROOT / "docs" / "images" / name).write_text(picture, "utf-8")
