"""Ask for work, watch it, and take what comes of it.

python examples/results.py
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from monque import JobFailedError, Monque, Retry, current_job

monque = Monque()  # the URI in $MONQUE_URI, or an embedded MongoDB
logger = logging.getLogger("count")


@dataclass
class Count:
    """What is in a text."""

    words: int
    longest: str


@monque.worker("count", store_result=True, keep_logs=True, retry=Retry(max_retries=1))
async def count(text: str) -> Count:
    words = text.split()
    for number, word in enumerate(words, start=1):
        current_job().progress(number / len(words), f"read {word!r}")
    if len(words) > 5:
        logger.warning("a long text")
    return Count(len(words), max(words, key=len))


async def main() -> None:
    async with monque:
        await monque.start()
        handles = [await count.enqueue(text) for text in ("to be or not to be", "all's well", "")]
        for handle in handles:
            try:
                result = await handle.result(timeout=30)
            except JobFailedError as error:
                print("failed:", error.job.fail_reason)
                continue
            job = await handle.refresh()
            print(f"{result.words} words, the longest is {result.longest!r}")
            if job.progress_report is not None:
                print(f"  at the end: {job.progress_report.fraction:.0%}, {job.progress_report.message}")
            for line in job.logs:
                print(f"  {line.level} {line.message}")


if __name__ == "__main__":
    asyncio.run(main())
