"""Follow a request through the jobs that come of it, with OpenTelemetry.

python examples/tracing.py
"""

from __future__ import annotations

import asyncio

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from monque import Monque, Retry
from monque.telemetry import instrument

spans = InMemorySpanExporter()  # in earnest: an OTLPSpanExporter, in a BatchSpanProcessor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))

monque = Monque()  # the URI in $MONQUE_URI, or an embedded MongoDB
instrument(monque, tracer_provider=provider)
done = asyncio.Event()
failed: list[int] = []


@monque.worker("charge", retry=Retry(max_retries=3, base=0.05))
async def charge(order: int) -> None:
    if not failed:
        failed.append(order)
        raise ConnectionError("the bank does not answer")
    await ship.enqueue(order)


@monque.worker("ship")
async def ship(order: int) -> None:
    print("shipping order", order)
    done.set()


async def main() -> None:
    async with monque:
        await monque.start()
        with provider.get_tracer("shop").start_as_current_span("POST /orders"):
            await charge.enqueue(7)
        await done.wait()
    ended = sorted(spans.get_finished_spans(), key=lambda span: span.start_time or 0)
    show(ended, parent=None, depth=0)


def show(ended: list[ReadableSpan], parent: int | None, depth: int) -> None:
    """Print the spans that are children of one, and theirs."""
    for span in ended:
        context = span.get_span_context()
        if context is not None and (span.parent and span.parent.span_id) == parent:
            outcome = (span.attributes or {}).get("error.type", "")
            print(f"{'  ' * depth}{span.name} {outcome}".rstrip())
            show(ended, context.span_id, depth + 1)


if __name__ == "__main__":
    asyncio.run(main())
