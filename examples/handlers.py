"""Handlers on the event loop, in threads and in processes; they may be late, give up, or put their job off.

python examples/handlers.py
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import threading
from pathlib import Path

from monque import Cancel, Fail, JobFailEvent, Monque, Retry, Snooze, current_job

monque = Monque()
reminded = asyncio.Semaphore(0)


@monque.worker("wait", store_result=True, timeout=0.1, retry=Retry(max_retries=1))
async def wait(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "on the loop"


@monque.worker("read", store_result=True, retry=Retry(on={FileNotFoundError: Fail}))
def read(path: str) -> str:
    with Path(path).open("rb") as file:
        file.read(1)
    return "in the main thread" if threading.current_thread() is threading.main_thread() else "in a thread"


@monque.worker("digest", run_in="process", store_result=True)
def digest(rounds: int) -> str:
    hashlib.pbkdf2_hmac("sha256", b"password", current_job().id.binary, rounds)
    return "in this process" if multiprocessing.parent_process() is None else "in another process"


@monque.worker("remind")
async def remind(answer: str) -> Snooze | Cancel:
    reminded.release()
    return Cancel("not wanted any more") if answer == "no" else Snooze(86_400)


async def main() -> None:
    failures = asyncio.Queue[JobFailEvent]()
    completed = asyncio.Semaphore(0)
    monque.on("job:fail", failures.put_nowait)
    monque.on("job:complete", lambda _: completed.release())

    async with monque:
        good = [await wait.enqueue(0), await read.enqueue(__file__), await digest.enqueue(1000)]
        bad = [await wait.enqueue(60), await read.enqueue("/no/such/file")]
        put_off, withdrawn = await remind.enqueue("later"), await remind.enqueue("no")
        await monque.start()
        for _ in good:
            await completed.acquire()
        for _ in bad:
            event = await failures.get()
            print(f"{event.job.name}: {type(event.error).__name__}, retried: {event.will_retry}")
        for _ in (put_off, withdrawn):
            await reminded.acquire()
        await monque.stop()

        for handle in good:
            after = await handle.refresh()
            print(f"{after.name}: {after.result}")
        for ended in (put_off, withdrawn):
            after = await ended.refresh()
            print(f"{after.name} {after.data['answer']}: {after.status}")


if __name__ == "__main__":
    asyncio.run(main())
