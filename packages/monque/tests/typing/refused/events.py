# pyright: strict
"""Listeners that do not fit their event. Each line that must be refused ends in a marker."""

from __future__ import annotations

from monque import JobCompleteEvent, JobErrorEvent, JobFailEvent, JobStartEvent, Monque

monque = Monque("mongodb://localhost")
failures: list[JobFailEvent] = []


def completed(event: JobCompleteEvent) -> None:
    print(event.duration)


async def failed(event: JobFailEvent) -> None:
    print(event.will_retry)


def without_event() -> None: ...


monque.on("job:start", completed)  # error: it wants another event
monque.once("job:complete", failed)  # error: likewise
monque.off("job:error", failed)  # error: likewise
monque.on("job:complete", failures.append)  # error: a list of other events
monque.on("job:complete", without_event)  # error: it takes no event
monque.on("job:completed", completed)  # error: there is no such event
monque.on("job:complete", None)  # error: nothing to call
monque.on(event="job:complete", listener=completed)  # error: their names are nobody's business


def read(start: JobStartEvent, error: JobErrorEvent) -> None:
    print(error.job.id)  # error: there may be none
    start.job = start.job  # error: events cannot be changed
