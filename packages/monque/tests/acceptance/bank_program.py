"""A bank's workers, each a process of its own: every transfer is one transaction, settled in the same.

    python bank_program.py URI

Each line that comes in makes one more worker, and its process id is told. To be forked costs less than to start.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from worker_program import end_with_parent  # type: ignore[import-not-found]  # it lies beside this program

from monque import Concurrency, Job, Lease, Monque, Options, Polling, Retry

LEASE = 1.5


async def transfer(job: Job[dict[str, Any]]) -> None:
    """Move money from one account to another, and enter that in the ledger."""
    session, data = job.session, job.data
    bank = session.client.get_default_database()
    await bank.accounts.update_one({"_id": data["from"]}, {"$inc": {"cents": -data["cents"]}}, session=session)
    await bank.accounts.update_one({"_id": data["to"]}, {"$inc": {"cents": data["cents"]}}, session=session)
    await asyncio.sleep(data.get("seconds", 0))
    await bank.ledger.insert_one({"_id": job.id, "transfer": data["transfer"]}, session=session)


async def main(uri: str) -> None:
    options = Options(
        concurrency=Concurrency(4),
        lease=Lease(LEASE),
        polling=Polling(interval=0.5, safety=0.5),
        retry=Retry(max_retries=1000, base=0.05, cap=0.5),
    )
    monque = Monque(uri, options)
    monque.worker("transfer", transfer, transaction=True)
    async with monque:
        await monque.run()


def fork(uri: str) -> int:
    """Begin another worker."""
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        end_with_parent()
        asyncio.run(main(uri))
        os._exit(0)
    return pid


if __name__ == "__main__":
    end_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in sys.stdin:
        print(fork(sys.argv[1]), flush=True)
