# pyright: strict
"""Ways to listen."""

from __future__ import annotations

from typing import assert_type

from monque import JobCompleteEvent, JobErrorEvent, JobFailEvent, JobStartEvent, Monque

monque = Monque("mongodb://localhost")
seen: list[JobCompleteEvent | JobFailEvent] = []


def started(event: JobStartEvent) -> None:
    print(event.job.id)


async def completed(event: JobCompleteEvent) -> None:
    assert_type(event.duration, float)


def failed(event: JobFailEvent) -> None:
    assert_type(event.will_retry, bool)
    assert_type(event.error, BaseException)


def broken(event: JobErrorEvent) -> None:
    if event.job is not None:
        print(event.job.name)


def either(event: JobStartEvent | JobCompleteEvent) -> None:
    print(event.job.name)


def anything(event: object) -> None:
    print(event)


monque.on("job:start", started)
monque.on("job:complete", completed)
monque.once("job:fail", failed)
monque.off("job:error", broken)
monque.on("job:start", either)
monque.on("job:complete", either)
monque.on("job:error", anything)
monque.on("job:complete", seen.append)
monque.once("job:fail", seen.append)
monque.on("job:fail", lambda event: print(event.will_retry))
