"""The shop, as it is deployed: a real uvicorn, a worker process beside it, and both of them stopped under load."""
# ruff: noqa: S101, S603

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from monque.testing import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pymongo.database import Database

    Documents = Database[dict[str, Any]]

HERE = Path(__file__).parent
PATIENCE = 180
REQUESTS = 1000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Process:
    """A part of the shop in a process of its own."""

    def __init__(self, log: Path, *command: str, **environment: str) -> None:
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=HERE,
                env=os.environ | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def end(self) -> int:
        await eventually(lambda: self._process.poll() is not None, timeout=PATIENCE)
        return self._process.returncode

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Shop:
    """All processes of the shop."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self.processes: list[Process] = []

    def _start(self, *command: str, **environment: str) -> Process:
        process = Process(self._logs / f"{len(self.processes)}.log", *command, **environment)
        self.processes.append(process)
        return process

    def worker(self) -> Process:
        return self._start("fastapi_app.worker")

    async def web(self, **environment: str) -> tuple[Process, str]:
        """A web server, and its URL."""
        process = self._start("uvicorn", "fastapi_app.main:app", "--host", "127.0.0.1", "--port", "0", **environment)

        def url() -> str | None:
            found = re.search(r"Uvicorn running on (http://\S+)", process.output)
            return found and found[1]

        found = await eventually(url, timeout=PATIENCE)
        assert found is not None
        return process, found


@contextmanager
def open_shop(logs: Path) -> Generator[Shop]:
    shop = Shop(logs)
    try:
        yield shop
    except BaseException:
        for process in shop.processes:
            print(process.output)
        raise
    finally:
        for process in shop.processes:
            process.kill()


async def order(client: httpx2.AsyncClient, number: int) -> str | None:
    """Place an order; the id of its job, or None if the server was not there to take it."""
    try:
        answer = await client.post("/orders", json={"item": "book", "email": f"{number}@example.org"})
    except httpx2.TransportError:
        return None
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


async def orders(url: str, numbers: range, placed: list[str]) -> None:
    """Place many orders, twenty at a time."""
    left = iter(numbers)

    async def keep_ordering(client: httpx2.AsyncClient) -> None:
        for number in left:
            job = await order(client, number)
            if job is None:
                return
            placed.append(job)

    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        await asyncio.gather(*(keep_ordering(client) for _ in range(20)))


def counting(database: Documents, **query: object) -> Callable[[], int]:
    return lambda: database["monque_jobs"].count_documents({"name": "orders.confirm", **query})


@pytest.mark.timeout(300)
async def test_a_thousand_orders_while_either_process_is_stopped(
    monque_environment: str, monque_database: Documents, tmp_path: Path
) -> None:
    assert monque_environment
    placed: list[str] = []
    completed = counting(monque_database, status="completed")
    with open_shop(tmp_path) as shop:
        web, url = await shop.web(SHOP_WEB_ONLY="1")
        worker = shop.worker()
        ordering = asyncio.create_task(orders(url, range(REQUESTS), placed))

        # The worker is stopped in the midst of it, and another takes its place.
        await eventually(lambda: completed() > 50, timeout=PATIENCE)
        worker.terminate()
        assert await worker.end() == 0
        last_worker = shop.worker()

        # Likewise the web server.
        await eventually(lambda: len(placed) > REQUESTS // 2, timeout=PATIENCE)
        web.terminate()
        assert await web.end() in {0, -signal.SIGTERM}
        await ordering
        web, url = await shop.web(SHOP_WEB_ONLY="1")
        await orders(url, range(len(placed), REQUESTS), placed)

        jobs = monque_database["monque_jobs"]
        assert len(placed) == len(set(placed)) == REQUESTS
        await eventually(lambda: completed() >= REQUESTS, timeout=PATIENCE)
        assert set(placed) <= {str(job["_id"]) for job in jobs.find({"status": "completed"})}
        for process in (web, last_worker):
            process.terminate()
            assert await process.end() in {0, -signal.SIGTERM}

    # All that was taken was confirmed, and nothing twice; what a client got no answer to may have been taken, too.
    taken = monque_database["orders"].count_documents({})
    assert taken >= REQUESTS
    assert monque_database["orders"].count_documents({"is_confirmed": True}) == taken
    assert monque_database["mails"].count_documents({}) == taken
    assert jobs.count_documents({"name": "orders.remind"}) == 1
    assert jobs.count_documents({"status": "processing"}) == 0


async def test_a_listener_does_not_keep_the_web_server_from_stopping(monque_environment: str, tmp_path: Path) -> None:
    assert monque_environment
    with open_shop(tmp_path) as shop:
        web, url = await shop.web(SHOP_WEB_ONLY="1")  # so that the job stays pending
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
            job = await order(client, 1)
            async with client.stream("GET", f"/jobs/{job}/events") as answer:
                lines = answer.aiter_lines()
                assert await anext(lines) == "event: pending"
                web.terminate()
                assert await web.end() in {0, -signal.SIGTERM}


async def test_one_process_serves_and_works(
    monque_environment: str, monque_database: Documents, tmp_path: Path
) -> None:
    assert monque_environment
    with open_shop(tmp_path) as shop:
        web, url = await shop.web(SHOP_SENDER="office@example.org")
        async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
            answer = await client.post("/orders", json={"item": "lamp", "email": "ada@example.org"})
            job = answer.headers["location"]
            events = (await client.get(f"{job}/events")).text
            assert events.rstrip().splitlines()[-2] == "event: completed"
            assert (await client.get(f"{job}/result")).json() == {"result": "confirmed to ada@example.org"}
            found: dict[str, Any] = {}

            def is_located() -> bool:
                found.update(monque_database["monque_jobs"].find_one({"name": "stock.locate"}) or {})
                return found.get("status") == "completed"

            await eventually(is_located, timeout=PATIENCE)
            assert found["result"] == 7
            later = monque_database["monque_jobs"].find_one({"name": "orders.remind"})
            assert later is not None
            assert (await client.get(f"/jobs/{later['_id']}")).status_code == 404
        web.terminate()
        assert await web.end() in {0, -signal.SIGTERM}
    (mail,) = monque_database["mails"].find()
    assert (mail["to"], mail["subject"]) == ("ada@example.org", "Your lamp (from office@example.org)")
