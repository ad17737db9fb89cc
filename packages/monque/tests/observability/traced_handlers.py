"""Handlers for processes, which the children find by this module's name."""

from __future__ import annotations

from typing import Any

from opentelemetry import baggage, trace

from monque import Job, Monque
from monque.telemetry import instrument

# As a program would have it: the same instance, by import, in parent and child.
monque = Monque()
instrument(monque)


def where(_: Job[Any]) -> dict[str, Any]:
    """The trace and the span that this code is part of."""
    context = trace.get_current_span().get_span_context()
    return {
        "trace": f"{context.trace_id:032x}",
        "span": f"{context.span_id:016x}",
        "tenant": baggage.get_baggage("tenant"),
    }
