"""Ask for work and do it, in one process.

python examples/basic.py
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

from monque import Job, JobCompleteEvent, Monque

monque = Monque()  # the URI in $MONQUE_URI, or an embedded MongoDB


@monque.worker("send-email", concurrency=20)
async def send_email(job: Job[dict[str, str]]) -> None:
    await asyncio.sleep(0.01)  # a mail server would be spoken to here
    print("sent to", job.data["to"])


async def main() -> None:
    recipients = ["ada@example.org", "grace@example.org", "edsger@example.org"]
    waiting = set(recipients)
    all_sent = asyncio.Event()

    def tick_off(event: JobCompleteEvent) -> None:
        waiting.discard(event.job.data["to"])
        if not waiting:
            all_sent.set()

    monque.on("job:complete", tick_off)

    async with monque:
        await monque.enqueue_many(("send-email", {"to": recipient}) for recipient in recipients)
        later = await monque.enqueue("send-email", {"to": "alan@example.org"}, delay=timedelta(hours=1))
        await monque.start()
        await all_sent.wait()
        print(f"{later.data['to']} has to wait until {later.next_run_at:%H:%M} UTC")


if __name__ == "__main__":
    asyncio.run(main())
