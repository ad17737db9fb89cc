"""A program of its own: works until it has run what it is told to, and prints its spans."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from monque import Job, Monque, Retry
from monque.telemetry import instrument

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

spans = InMemorySpanExporter()
tracers = TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(spans))
monque = Monque()  # of $MONQUE_URI
instrument(monque, tracer_provider=tracers)
done = asyncio.Event()


@monque.worker("resize", retry=Retry(max_retries=2, base=0.01))
async def resize(job: Job[Any]) -> None:
    if not job.fail_count:
        raise ValueError("the first time")
    await monque.enqueue("notify")


@monque.worker("notify")
async def notify(_: Job[Any]) -> None:
    done.set()


def told(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None
    return {
        "name": span.name,
        "trace": f"{context.trace_id:032x}",
        "span": f"{context.span_id:016x}",
        "parent": span.parent and f"{span.parent.span_id:016x}",
        "links": [f"{link.context.span_id:016x}" for link in span.links],
        "error": (span.attributes or {}).get("error.type"),
    }


async def main() -> None:
    async with monque:
        await monque.start()
        await done.wait()
    print(json.dumps([told(span) for span in spans.get_finished_spans()]))


if __name__ == "__main__":
    asyncio.run(main())
