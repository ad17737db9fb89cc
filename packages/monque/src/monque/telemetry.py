"""OpenTelemetry: traces and metrics by the semantic conventions for messaging, version 1.44.

Needs `monque[telemetry]`, which brings OpenTelemetry's API. Where the spans and figures go is up to the program, which
sets up an SDK and its exporters as usual.

| span | kind | |
|---|---|---|
| `send {name}` | producer | one call that writes new jobs; `send` alone if they are of several names |
| `process {name}` | consumer | one run; a child of, and linked to, the span in which the job was enqueued |

| metric | |
|---|---|
| `messaging.client.sent.messages` | jobs that were to be written |
| `messaging.client.operation.duration` | how long the writes took |
| `messaging.client.consumed.messages` | runs that were begun |
| `messaging.process.duration` | how long they took |
| `messaging.monque.jobs` | jobs that are pending, due and processing, in all instances |
| `messaging.monque.lag` | for how long the oldest of those that are due has been so |
| `messaging.monque.lost` | runs whose lease was lost here |
| `messaging.monque.recovered` | jobs that were taken back here, because their lease ran out |

The context of a trace travels in the headers of the jobs, in the format of OpenTelemetry's global propagator: as
`traceparent` unless that was set up otherwise.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Observation
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from monque import _scope
from monque._child import Reference
from monque._execution import ended_with
from monque._observed import Observed
from monque._settlement import outcome_of, reason
from monque.outcome import COMPLETED, Cancel, Completed, Failed, Released, Snooze, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from monque import sync
    from monque._monque import Monque
    from monque.job import Job
    from monque.outcome import Outcome

    Attributes = dict[str, str | int]

__all__ = ["instrument"]

_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
# By the conventions, in seconds.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_SYSTEM: Attributes = {"messaging.system": "monque"}
_OUTCOMES: dict[type[object], str] = {
    Completed: "completed",
    Failed: "failed",
    Snooze: "snoozed",
    Cancel: "cancelled",
    Released: "released",
}


def instrument(
    monque: Monque | sync.Monque,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Have an instance make spans and metrics. It is called once for each, in programs that only enqueue, too.

    A run continues the trace in which its job was enqueued, and so do the jobs that its handler enqueues. What is run
    again is another span of the same trace. Each occurrence of a schedule begins a trace of its own.

    Args:
        monque: The instance.
        tracer_provider: Where spans go; None for the global one.
        meter_provider: Where metrics go; None for the global one.

    Raises:
        InvalidArgumentError: `monque` is no `Monque`.

    Example:
        >>> from monque import Monque
        >>> monque = Monque()
        >>> instrument(monque)
    """
    observed = Observed(monque)
    meter = metrics.get_meter("monque", meter_provider=meter_provider, schema_url=_SCHEMA)
    tracer = trace.get_tracer("monque", tracer_provider=tracer_provider, schema_url=_SCHEMA)
    operations = _Operations(observed, tracer, meter)
    monque.use_producer(operations.sending)
    monque.use(operations.processing)
    lost = meter.create_counter("messaging.monque.lost", "{job}", "Runs whose lease was lost here.")
    recovered = meter.create_counter("messaging.monque.recovered", "{job}", "Jobs that were taken back here.")
    monque.on("job:lost", lambda event: lost.add(1, _of(event.job.name)))
    monque.on("stale:recovered", lambda event: recovered.add(event.count, _SYSTEM))
    _observe(observed, meter)


def _observe(observed: Observed, meter: Meter) -> None:
    def jobs(_: CallbackOptions) -> Iterable[Observation]:
        for one in observed.backlog():
            for status, count in (("pending", one.pending), ("due", one.due), ("processing", one.processing)):
                yield Observation(count, {**_of(one.name), "messaging.monque.status": status})

    def lag(_: CallbackOptions) -> Iterable[Observation]:
        for one in observed.backlog():
            yield Observation(one.lag.total_seconds(), _of(one.name))

    meter.create_observable_gauge("messaging.monque.jobs", [jobs], "{job}", "Jobs that wait or run, in all instances.")
    meter.create_observable_gauge("messaging.monque.lag", [lag], "s", "How long the oldest job that is due has waited.")


def _of(name: str) -> Attributes:
    return {**_SYSTEM, "messaging.destination.name": name}


class _Operations:
    """What one instance does, as spans, counts and durations."""

    def __init__(self, observed: Observed, tracer: Tracer, meter: Meter) -> None:
        self._observed = observed
        self._tracer = tracer
        self._sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Jobs that were sent.")
        self._consumed = meter.create_counter("messaging.client.consumed.messages", "{message}", "Runs that began.")
        self._written = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "How long writes of new jobs took.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._processed = meter.create_histogram(
            "messaging.process.duration", "s", "How long runs took.", explicit_bucket_boundaries_advisory=_BUCKETS
        )

    @contextmanager
    def sending(self, jobs: Sequence[Job[Any]]) -> Generator[Mapping[str, str]]:
        """The write of new jobs, which carry the context of its span."""
        names = Counter(job.name for job in jobs)
        common = self._common("send", next(iter(names)) if len(names) == 1 else None)
        links = [link for job in jobs if job.headers for link in _links(_context_of(job))]
        began = time.time_ns()
        span = self._begin(SpanKind.PRODUCER, began, common, _sent(jobs), links, None)
        try:
            with attached(trace.set_span_in_context(span)):
                headers: dict[str, str] = {}
                propagate.inject(headers)
                yield headers
        except BaseException as error:
            common |= _failed(span, error)
            raise
        finally:
            self._written.record(_end(span, began), {**common, "messaging.operation.type": "send"})
            for name, number in names.items():
                self._sent.add(number, {**common, "messaging.destination.name": name})

    @asynccontextmanager
    async def processing(self, job: Job[Any]) -> AsyncGenerator[None]:
        """One run, in the trace that its job belongs to."""
        parent = _context_of(job)
        common = self._common("process", job.name)
        more: Attributes = {"messaging.message.id": str(job.id), "messaging.monque.attempt": job.attempts}
        began = time.time_ns()
        span = self._begin(SpanKind.CONSUMER, began, common, more, _links(parent), parent)
        self._consumed.add(1, common)
        run = _scope.current() or _scope.Scope(job)
        inside = trace.set_span_in_context(span, parent)
        run.around += ((_ATTACHED, _Travelling(inside)),)
        error: BaseException | None = None
        try:
            with attached(inside):
                yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            outcome = _outcome(run, error)
            span.set_attribute("messaging.monque.outcome", _OUTCOMES[type(outcome)])
            if isinstance(outcome, Failed):
                common |= _failed(span, outcome.error)
            self._processed.record(_end(span, began), common)

    def _common(self, operation: str, name: str | None) -> Attributes:
        """What spans and metrics say alike."""
        attributes = {**_SYSTEM, "messaging.operation.name": operation}
        if name is not None:
            attributes["messaging.destination.name"] = name
        server = self._observed.monque.server
        if server is not None:
            attributes["server.address"], port = server
            if port is not None:
                attributes["server.port"] = port
        return attributes

    def _begin(
        self,
        kind: SpanKind,
        began: int,
        common: Attributes,
        more: Attributes,
        links: Sequence[Link],
        parent: Context | None,
    ) -> Span:
        name = " ".join(str(common[part]) for part in _NAME if part in common)
        attributes = {
            **common,
            "messaging.operation.type": common["messaging.operation.name"],
            "messaging.client.id": self._observed.monque.instance_id,
            **more,
        }
        return self._tracer.start_span(name, parent, kind, attributes, links, began)


_NAME = ("messaging.operation.name", "messaging.destination.name")


def _context_of(job: Job[Any]) -> Context:
    """The context in which it was enqueued, and nothing of the one that is current here."""
    return propagate.extract(job.headers, Context()) if job.headers else Context()


def _links(parent: Context) -> list[Link]:
    creation = trace.get_current_span(parent).get_span_context()
    return [Link(creation)] if creation.is_valid else []


def _sent(jobs: Sequence[Job[Any]]) -> Attributes:
    if len(jobs) > 1:
        return {"messaging.batch.message_count": len(jobs)}
    # Another job may have the unique key, and then there is none of this id.
    return {} if jobs[0].unique_key else {"messaging.message.id": str(jobs[0].id)}


def _outcome(run: _scope.Scope, error: BaseException | None) -> Outcome:
    if error is not None:
        return ended_with(error, run)
    return outcome_of(run.returned, run.returned) if isinstance(run.returned, Verdict) else COMPLETED


def _failed(span: Span, error: BaseException) -> Attributes:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, reason(error)))
    span.set_attribute("error.type", name)
    return {"error.type": name}


def _end(span: Span, began: int) -> float:
    """End it; its duration, in seconds."""
    ended = time.time_ns()
    span.end(ended)
    return (ended - began) / 1e9


@contextmanager
def attached(inside: Context) -> Generator[None]:
    """Be in this context while the block lasts."""
    token = context.attach(inside)
    try:
        yield
    finally:
        context.detach(token)


_ATTACHED = Reference.of(attached)


class _Travelling:
    """A context that may go to a process; it is only written down if it does."""

    def __init__(self, inside: Context) -> None:
        self._inside = inside

    def __reduce__(self) -> tuple[object, ...]:  # type: ignore[explicit-override]  # typing.override is newer
        headers: dict[str, str] = {}
        propagate.inject(headers, self._inside)
        return propagate.extract, (headers, Context())
