"""Errors of the command line alone."""

from __future__ import annotations


class UsageError(Exception):
    """What was asked for makes no sense; the exit code is 2."""
