"""Counting what is left: a plain function, which runs in a thread."""

from typing import Annotated

from fastapi import Depends

from monque_fastapi import job

_SHELVES = {"book": 3, "lamp": 7}


def get_shelves() -> dict[str, int]:
    return _SHELVES


@job("stock.locate", store_result=True)
def locate(item: str, shelves: Annotated[dict[str, int], Depends(get_shelves)]) -> int | None:
    return shelves.get(item)
