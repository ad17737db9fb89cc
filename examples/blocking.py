"""Ask for work without an event loop: from threads, and in a transaction with the application's own data.

python examples/blocking.py
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient

from monque.embedded import EmbeddedMongoDB
from monque.sync import Monque

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession


def order(client: MongoClient[dict[str, Any]], monque: Monque, number: int) -> str:
    """Store an order, and ask for it to be shipped: both, or neither."""

    def store(session: ClientSession) -> None:
        client.get_default_database("shop")["orders"].insert_one({"number": number}, session=session)
        monque.enqueue("ship", {"order": number}, session=session)
        if number % 5 == 0:
            raise LookupError("sold out")

    try:
        with client.start_session() as session:
            session.with_transaction(store)
    except LookupError as error:
        return f"order {number}: {error}"
    return f"order {number}: stored"


def main() -> None:
    with ExitStack() as stack:
        uri = os.environ.get("MONQUE_URI") or stack.enter_context(EmbeddedMongoDB(ephemeral=True)).uri
        client = stack.enter_context(MongoClient[dict[str, Any]](uri))
        monque = stack.enter_context(Monque(client.get_default_database("shop")))
        monque.now("warm-up")  # transactions are quicker when the collections exist
        with ThreadPoolExecutor(5) as threads:
            print(*threads.map(partial(order, client, monque), range(1, 11)), sep="\n")
        jobs = client.get_default_database("shop")["monque_jobs"]
        print("to ship:", *sorted(job["data"]["order"] for job in jobs.find({"name": "ship"})))


if __name__ == "__main__":
    main()
