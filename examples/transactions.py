"""Effects that happen exactly once: a transfer and the completion of its job are one transaction.

python examples/transactions.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from monque import Job, Monque, Options, Retry

monque = Monque(options=Options(retry=Retry(base=0.05)))
transferred = asyncio.Semaphore(0)


def account_collection(job: Job[Any]) -> Any:  # noqa: ANN401  a collection of the client that the session is of
    return job.session.client.get_default_database("bank")["accounts"]


@monque.worker("transfer", transaction=True)
async def transfer(job: Job[dict[str, Any]]) -> None:
    accounts = account_collection(job)
    giver, taker, amount = job.data["from"], job.data["to"], job.data["amount"]
    await accounts.update_one({"_id": giver}, {"$inc": {"balance": -amount}}, upsert=True, session=job.session)
    if not job.fail_count:
        raise RuntimeError("half a transfer")  # what was written is undone, and the job runs again
    await accounts.update_one({"_id": taker}, {"$inc": {"balance": amount}}, upsert=True, session=job.session)
    await monque.enqueue("tell", {"giver": giver, "taker": taker}, session=job.session)


@monque.worker("tell", transaction=True)
async def tell(job: Job[dict[str, str]]) -> None:
    for account in (job.data["giver"], job.data["taker"]):
        document = await account_collection(job).find_one({"_id": account}, session=job.session)
        print(account, document["balance"])
    transferred.release()


async def main() -> None:
    async with monque:
        await monque.enqueue("transfer", {"from": "ada", "to": "grace", "amount": 30})
        await monque.start()
        await transferred.acquire()


if __name__ == "__main__":
    asyncio.run(main())
