"""Several processes share the work; no job is run twice.

python examples/several_processes.py
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter

from monque import Job, Monque

JOBS, PROCESSES = 300, 3

monque = Monque()


@monque.worker("count")
async def count(job: Job[int]) -> None:
    await asyncio.sleep(0.01)
    print(job.data, os.getpid(), flush=True)


async def read(process: Process, runs: list[tuple[int, int]], all_run: asyncio.Event) -> None:
    while process.stdout and (line := await process.stdout.readline()):
        number, pid = map(int, line.split())
        runs.append((number, pid))
        if len(runs) >= JOBS:
            all_run.set()


async def main() -> None:
    runs: list[tuple[int, int]] = []
    all_run = asyncio.Event()
    async with monque, asyncio.TaskGroup() as readers:
        command = (sys.executable, __file__, "work")
        processes = [await asyncio.create_subprocess_exec(*command, stdout=PIPE) for _ in range(PROCESSES)]
        for process in processes:
            readers.create_task(read(process, runs, all_run))
        await monque.enqueue_many(("count", number) for number in range(JOBS))
        await all_run.wait()
        for process in processes:
            process.terminate()  # they finish what they are doing, and end
            await process.wait()

    print(f"{len(runs)} runs of {len({number for number, _ in runs})} jobs")
    for pid, number in Counter(pid for _, pid in runs).items():
        print(f"process {pid}: {number}")


if __name__ == "__main__":
    asyncio.run(monque.run() if sys.argv[1:] == ["work"] else main())
