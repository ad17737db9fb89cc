"""A bank's worker as a process of its own: each transfer is one transaction, settled in the same.

python bank_program.py URI
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from worker_program import end_with_parent

from monque import Concurrency, Job, Lease, Monque, Options, Polling, Retry

LEASE = 1.5


async def transfer(job: Job[dict[str, Any]]) -> None:
    """Move money from one account to another, and enter that in the ledger."""
    session, data = job.session, job.data
    bank = session.client.get_default_database()
    await bank.accounts.update_one({"_id": data["from"]}, {"$inc": {"cents": -data["cents"]}}, session=session)
    await bank.accounts.update_one({"_id": data["to"]}, {"$inc": {"cents": data["cents"]}}, session=session)
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


if __name__ == "__main__":
    end_with_parent()
    asyncio.run(main(sys.argv[1]))
