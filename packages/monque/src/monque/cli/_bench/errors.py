"""What can go wrong with a measurement."""

from __future__ import annotations

from monque.errors import MonqueError


class BenchError(MonqueError):
    """A run did not come to its end; there are no figures."""


class SkippedError(Exception):
    """A part cannot be measured here; the others can."""
