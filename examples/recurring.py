"""Jobs that come again: by a cron expression, or some time after each run.

python examples/recurring.py
"""

from __future__ import annotations

import asyncio
from typing import Any

from monque import Cancel, Job, Monque, Snooze

monque = Monque()
ticked, polled = asyncio.Event(), asyncio.Event()
polls: list[str] = []


@monque.worker("tick")
async def tick(job: Job[Any]) -> None:
    if not ticked.is_set():
        print("tick, planned for a full second:", job.next_run_at.microsecond == 0)
    ticked.set()


@monque.worker("poll")
async def poll() -> Snooze | Cancel:
    polls.append("nothing new")
    print("poll", len(polls))
    if len(polls) < 3:
        return Snooze(0.05)
    polled.set()
    return Cancel("that will do")


async def main() -> None:
    async with monque:
        # Declaring a schedule again, at every start of the program, makes no second job.
        report = await monque.schedule("0 9 * * MON-FRI", "report", timezone="Europe/Berlin")
        again = await monque.schedule("0 9 * * MON-FRI", "report", timezone="Europe/Berlin")
        print("one report:", report.id == again.id, report.next_run_at > report.created_at)

        # With six fields the first is the second.
        every_second = await monque.schedule("* * * * * *", "tick")
        await poll.enqueue()
        await monque.start()
        await ticked.wait()
        await polled.wait()
        await monque.jobs.cancel(every_second.id)


if __name__ == "__main__":
    asyncio.run(main())
