"""What `monque doctor` says: findings, each with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monque.errors import IndexConflictError

__all__ = ["Diagnosis", "Finding", "IndexFix", "Severity"]


class Severity(StrEnum):
    """How bad a finding is.

    Example:
        >>> Severity("error") is Severity.ERROR
        True
    """

    OK = "ok"
    UNKNOWN = "unknown"
    """It could not be seen, for want of a privilege for instance."""
    WARNING = "warning"
    """It works, but not as well as it could."""
    ERROR = "error"
    """Something does not work, or will not for long."""


_ORDER = list(Severity)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What it was, as a word that stays the same from version to version.
        severity: How bad it is.
        seen: What was seen.
        advice: What to do about it, if there is something to do.
    """

    check: str
    severity: Severity
    seen: str
    advice: str | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found.

    Attributes:
        findings: What was looked at, in the order in which it was.

    Example:
        >>> diagnosis = Diagnosis((Finding("clock", Severity.WARNING, "90 s ahead"),))
        >>> print(diagnosis.severity)
        warning
    """

    findings: tuple[Finding, ...]

    @property
    def severity(self) -> Severity:
        """The worst there is among the findings."""
        return max((finding.severity for finding in self.findings), key=_ORDER.index, default=Severity.OK)

    def of(self, *severities: Severity) -> tuple[Finding, ...]:
        """The findings that are this bad.

        Args:
            severities: How bad.

        Returns:
            Those findings, in their order.

        Example:
            >>> Diagnosis((Finding("clock", Severity.OK, "right"),)).of(Severity.ERROR)
            ()
        """
        return tuple(finding for finding in self.findings if finding.severity in severities)


@dataclass(frozen=True, slots=True)
class IndexFix:
    """What was done about the indexes of a collection.

    Attributes:
        created: The names of those that were made.
        dropped: The names of those that were dropped: of earlier versions, or others than their names say.
        problems: What is still in the way.

    Example:
        >>> IndexFix(("monque_claim",)).created
        ('monque_claim',)
    """

    created: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    problems: tuple[IndexConflictError, ...] = ()
