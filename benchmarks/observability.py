"""What being observed costs: the CPU time of this process for each job, enqueued in a batch and drained, by what is on.

    python benchmarks/observability.py [--jobs 1000] [--rounds 30] [--uri mongodb://…]

The ways take turns, so that whatever else the machine does meets all of them alike, and what each costs more than none
is taken within each round.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import TYPE_CHECKING, Any

from _common import Row, scratch, server, table
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import NoOpTracerProvider
from prometheus_client import CollectorRegistry

from monque import Concurrency, Job, Monque, NewJob, Options, prometheus, telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from pymongo.asynchronous.database import AsyncDatabase


class Nowhere(SpanExporter):
    """Takes spans and does nothing with them: what exporting costs is up to the exporter."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # type: ignore[explicit-override]  # noqa: ARG002
        return SpanExportResult.SUCCESS


def off(_: Monque) -> None:
    """Nothing is on."""


def with_prometheus(monque: Monque) -> None:
    prometheus.instrument(monque, CollectorRegistry())


def with_api_only(monque: Monque) -> None:
    telemetry.instrument(monque, tracer_provider=NoOpTracerProvider(), meter_provider=NoOpMeterProvider())


def with_sdk(share: float) -> Callable[[Monque], None]:
    tracers = TracerProvider(sampler=TraceIdRatioBased(share), shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(Nowhere()))

    def turn_on(monque: Monque) -> None:
        meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        telemetry.instrument(monque, tracer_provider=tracers, meter_provider=meters)

    return turn_on


WAYS: dict[str, Callable[[Monque], None]] = {
    "off": off,
    "prometheus": with_prometheus,
    "telemetry, no SDK": with_api_only,
    "telemetry, 1 % of traces": with_sdk(0.01),
    "telemetry, all traces": with_sdk(1),
}


async def drain(database: AsyncDatabase[Any], jobs: int, turn_on: Callable[[Monque], None]) -> float:
    """Microseconds of CPU for each job."""
    monque = Monque(database, Options(concurrency=Concurrency(per_worker=500)))
    turn_on(monque)
    ended = asyncio.Event()
    count = 0

    @monque.worker("nothing")
    async def nothing(_: Job[Any]) -> None:
        nonlocal count
        count += 1
        if count == jobs:
            ended.set()

    async with monque:
        begun = time.process_time()
        # One job each for half of them, as requests do it; that is where each has a span of its own.
        await asyncio.gather(*(monque.enqueue("nothing") for _ in range(jobs // 2)))
        await monque.enqueue_many([NewJob(name="nothing")] * (jobs - jobs // 2))
        await monque.start()
        await ended.wait()
        await monque.stop()
        return (time.process_time() - begun) / jobs * 1e6


async def measure(uri: str, jobs: int, rounds: int) -> list[Row]:
    figures: dict[str, list[float]] = {name: [] for name in WAYS}
    async with scratch(uri) as database:
        for number in range(rounds + 1):
            for name, turn_on in WAYS.items():
                figure = await drain(database, jobs, turn_on)
                if number:  # the first round warms up
                    figures[name].append(figure)
                await database["monque_jobs"].delete_many({})
    return [row(name, values, figures["off"]) for name, values in figures.items()]


def row(name: str, values: list[float], off: list[float]) -> Row:
    """The medians, and between what half of the rounds were."""
    more = [one - other for one, other in zip(values, off, strict=True)]
    low, _, high = statistics.quantiles(more, method="inclusive") if len(more) > 1 else more * 3
    return {
        "": name,
        "CPU µs/job": f"{statistics.median(values):.0f}",
        "more than off": f"{statistics.median(more):.0f}",
        "half of the rounds": f"{low:.0f} to {high:.0f}",
    }


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--uri")
    arguments = parser.parse_args()
    async with server(arguments.uri) as uri:
        print(*table(await measure(uri, arguments.jobs, arguments.rounds)), sep="\n")


if __name__ == "__main__":
    asyncio.run(main())
