"""Keeps forked children from holding what belongs to their parent.

A connection to the keeper says "I use the server" for as long as any process has it open, and likewise the
lock says "taken". `exec` closes them by itself; a mere fork, such as those of `multiprocessing`, would copy
them.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Protocol, TypeVar
from weakref import WeakSet


class _Closable(Protocol):
    def close(self) -> None: ...


_T = TypeVar("_T", bound=_Closable)


def closed_in_children(resource: _T) -> _T:
    """Have `resource` closed in children that this process forks."""
    _ours().add(resource)
    return resource


@cache
def _ours() -> WeakSet[_Closable]:
    resources: WeakSet[_Closable] = WeakSet()
    os.register_at_fork(after_in_child=lambda: _close(resources))
    return resources


def _close(resources: WeakSet[_Closable]) -> None:
    for resource in list(resources):
        resource.close()
