"""Routers: workers that are declared before, and apart from, the `Monque` that runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monque.errors import InvalidArgumentError
from monque.worker import AnyWorker, Declares, Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Register = Callable[[Sequence[AnyWorker]], None]

__all__ = ["Router"]


class Router(Declares):
    """A group of workers, declared in a module of its own and included into a `Monque` by the program.

    Example:
        >>> from monque import Monque
        >>> emails = Router()
        >>> @emails.worker("send-email")
        ... async def send_email(to: str) -> None:
        ...     print("to", to)
        >>> monque = Monque()
        >>> monque.include(emails)
    """

    def __init__(self) -> None:
        self._workers = Workers()
        self._attached: list[Register] = []
        self._parents: list[Router] = []

    def include(self, router: Router, *, replace: bool = False) -> None:
        """Take in the workers of another router, also those that it declares later.

        Args:
            router: The other router.
            replace: Whether they may take the place of other workers.

        Raises:
            InvalidArgumentError: This is no router, or one that includes this one.
            WorkerRegistrationError: One of the names is taken; none of the workers is taken in.

        Example:
            >>> emails, everything = Router(), Router()
            >>> everything.include(emails)
        """
        check_router(router)
        if router is self or router in self._all_parents():
            raise InvalidArgumentError("router", router, "a router that does not include this one")
        router.attach(lambda workers: self._take(workers, replace=replace))
        router._parents.append(self)

    def _all_parents(self) -> set[Router]:
        return {further for parent in self._parents for further in (parent, *parent._all_parents())}  # noqa: SLF001

    def attach(self, register: Register) -> None:
        """Hand the workers to whoever registers them, and then all that come later.

        Args:
            register: Called with one or several workers.
        """
        register(self._workers.all())
        self._attached.append(register)

    def _take(self, workers: Sequence[AnyWorker], *, replace: bool) -> None:
        self._workers.add(*workers, replace=replace)
        for register in self._attached:
            register(workers)

    def _add(self, worker: AnyWorker, *, replace: bool) -> None:  # type: ignore[explicit-override]  # typing.override is newer
        self._take([worker], replace=replace)


def check_router(router: object) -> None:
    """Refuse what is no router."""
    if not isinstance(router, Router):
        raise InvalidArgumentError("router", router, "a Router")
