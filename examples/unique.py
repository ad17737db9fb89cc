"""One job at a time for each key, whoever asks and however often.

python examples/unique.py
"""

from __future__ import annotations

import asyncio

from monque import Monque, UniqueKeyConflictError

monque = Monque()
begun, go_on = asyncio.Event(), asyncio.Event()


@monque.worker("sync", store_result=True)
async def sync(account: str, change: int) -> int:
    print(f"{account}: up to change {change}")
    begun.set()
    await go_on.wait()
    return change


async def main() -> None:
    async with monque:
        alone = sync.with_(unique_key="ada")

        # A hundred calls at once make one job.
        handles = await asyncio.gather(*(alone.enqueue("ada", change=1) for _ in range(100)))
        print(len({handle.id for handle in handles}), "job")

        # One that waits can be brought up to date …
        await alone.with_(on_conflict="replace").enqueue("ada", change=2)
        await monque.start()
        await begun.wait()

        # … and what happens while it runs is not lost: it runs once more, for the last that was asked for.
        for change in (3, 4):
            await alone.with_(on_conflict="run_after").enqueue("ada", change=change)
        try:
            await alone.with_(on_conflict="raise").enqueue("ada", change=5)
        except UniqueKeyConflictError:
            print("ada is being looked after")
        go_on.set()
        print("ended at change", await handles[0].result())


if __name__ == "__main__":
    asyncio.run(main())
