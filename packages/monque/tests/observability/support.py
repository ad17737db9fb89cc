"""What these tests share: exporters that keep what they are told."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from monque import Monque
from monque.telemetry import instrument

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from opentelemetry.sdk.metrics.export import Metric
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

    from monque import sync


class Telemetry:
    """An SDK of a test's own."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.tracer = self.tracers.get_tracer("test")

    def instrument(self, monque: Monque | sync.Monque) -> None:
        instrument(monque, tracer_provider=self.tracers, meter_provider=self.meters)

    def monque(self, uri: str, **options: Any) -> Monque:
        from monque import Options

        monque = Monque(uri, Options(**options))
        self.instrument(monque)
        return monque

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """The spans that have ended, of one name or all."""
        return [span for span in self._spans.get_finished_spans() if name in (None, span.name)]

    def span(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    def metrics(self) -> dict[str, Metric]:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """The attributes and the value, or the number of values, of each point of a metric."""
        metric = self.metrics().get(name)
        points: Any = [] if metric is None else metric.data.data_points
        return [(dict(point.attributes), getattr(point, "value", getattr(point, "count", None))) for point in points]


def context_of(span: ReadableSpan) -> SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@asynccontextmanager
async def working(monque: Monque) -> AsyncGenerator[None]:
    async with monque:
        await monque.start()
        yield
