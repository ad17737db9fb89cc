"""Transfers between accounts by processes that are killed all the time: to the cent, and each exactly once.

    MONQUE_BANK_KILLS=200 pytest packages/monque/tests/acceptance/test_bank.py

kills so many processes instead of a few.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pymongo import MongoClient

from monque import Monque
from monque.embedded import EmbeddedMongoDB
from monque.testing import eventually
from monque.testing.plugin import with_database

from .support import patiently, statuses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pymongo.database import Database

PROGRAM = Path(__file__).with_name("bank_program.py")
KILLS = int(os.environ.get("MONQUE_BANK_KILLS", "30"))
ACCOUNTS = 200
START = 10_000
# Enough for there to be some left whenever a process is killed: they are enqueued as they are used up.
BATCH = 200


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    # What a process that was killed has locked is locked until the server ends its transaction, by default 60 s later.
    with EmbeddedMongoDB(ephemeral=True, parameters={"transactionLifetimeLimitSeconds": "1"}) as server:
        yield with_database(server.uri, "bank")


@pytest.fixture
def bank(uri: str) -> Iterator[Database[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](uri, tz_aware=True) as client:
        bank = client.get_default_database()
        bank.accounts.insert_many([{"_id": number, "cents": START} for number in range(ACCOUNTS)])
        bank.ledger.insert_one({})  # so that no transaction has to make it
        bank.ledger.delete_many({})
        yield bank
        for collection in ("accounts", "ledger", "monque_jobs"):
            bank[collection].delete_many({})


@pytest.fixture
def start(uri: str) -> Iterator[Callable[[], int]]:
    """Starts processes that work for the bank; they end with the one they come from."""
    with subprocess.Popen(
        [sys.executable, PROGRAM, uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as nursery:
        assert nursery.stdin
        assert nursery.stdout
        to, back = nursery.stdin, nursery.stdout

        def start() -> int:
            print(file=to, flush=True)
            return int(back.readline())

        yield start
        nursery.kill()


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class Orders:
    """Transfers, enqueued as they are used up, so that every process that is killed has something to do."""

    def __init__(self, monque: Monque, bank: Database[dict[str, Any]]) -> None:
        self._monque = monque
        self._bank = bank
        self.number = 0

    async def top_up(self) -> None:
        if self.number - self._bank.ledger.estimated_document_count() < BATCH:
            await self._monque.enqueue_many([("transfer", self._random()) for _ in range(BATCH)])

    def _random(self) -> dict[str, Any]:
        self.number += 1
        giver, taker = random.sample(range(ACCOUNTS), 2)
        return {"from": giver, "to": taker, "cents": random.randint(1, 999), "transfer": self.number}


def has_moved(bank: Database[dict[str, Any]], transfers: int) -> bool:
    return bank.ledger.estimated_document_count() >= transfers


async def work_and_die(bank: Database[dict[str, Any]], orders: Orders, start: Callable[[], int]) -> None:
    """Four processes at work, of which one after the other is killed, at no particular moment, and replaced."""
    processes = [start() for _ in range(4)]
    for _ in range(KILLS):
        await orders.top_up()
        moved = bank.ledger.estimated_document_count() + random.randint(1, 15)
        await patiently(partial(has_moved, bank, moved))
        os.kill(processes.pop(0), signal.SIGKILL)
        processes.append(start())


@pytest.mark.timeout(120 + 5 * KILLS)
async def test_processes_that_are_killed_at_any_moment_lose_and_double_no_cent(
    uri: str, bank: Database[dict[str, Any]], start: Callable[[], int]
) -> None:
    async with Monque(uri) as monque:
        orders = Orders(monque, bank)
        await work_and_die(bank, orders, start)
    await eventually(lambda: statuses(bank) == {"completed": orders.number}, timeout=120, poll=0.1)

    assert sorted(row["transfer"] for row in bank.ledger.find()) == list(range(1, orders.number + 1))
    expected = dict.fromkeys(range(ACCOUNTS), START)
    for job in bank.monque_jobs.find():
        expected[job["data"]["from"]] -= job["data"]["cents"]
        expected[job["data"]["to"]] += job["data"]["cents"]
    assert {row["_id"]: row["cents"] for row in bank.accounts.find()} == expected
    assert sum(expected.values()) == ACCOUNTS * START
    # Some were caught in the middle of a run, or this would show nothing.
    interrupted = bank.monque_jobs.count_documents({"attempts": {"$gt": 1}})
    assert interrupted > 0
    print(f"{KILLS} processes killed, {orders.number} transfers, {interrupted} of them interrupted")


async def test_a_process_that_is_frozen_for_longer_than_its_lease_doubles_nothing(
    uri: str, bank: Database[dict[str, Any]], start: Callable[[], int]
) -> None:
    frozen = start()
    async with Monque(uri) as monque:
        data = {"from": 0, "to": 1, "cents": 1, "transfer": 1, "seconds": 0.5}
        await monque.enqueue("transfer", data)
        await patiently(lambda: statuses(bank) == {"processing": 1})
        os.kill(frozen, signal.SIGSTOP)
        start()
        await patiently(lambda: statuses(bank) == {"completed": 1})
        os.kill(frozen, signal.SIGCONT)
        os.kill(frozen, signal.SIGTERM)
        await patiently(lambda: not is_alive(frozen))
    assert [row["cents"] for row in bank.accounts.find({"_id": {"$lt": 2}}).sort("_id")] == [START - 1, START + 1]
    assert bank.ledger.count_documents({}) == 1
