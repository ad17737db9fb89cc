"""Jobs for people: to look at, and to change by hand, one or many."""

from __future__ import annotations

from monque._store.changing_many import BulkResult, ChangingMany
from monque._store.changing_one import ChangingOne
from monque._store.observing import Observing

__all__ = ["BulkResult", "Jobs"]


class Jobs(ChangingOne, ChangingMany, Observing):
    """The jobs of a collection, for people to look at and to change; `Monque.jobs` is one.

    Each change says which status it starts from, in the same write, so that it cannot get in the way of an instance
    that claims or completes the job at this very moment.
    """
