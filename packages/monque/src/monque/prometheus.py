"""Metrics for Prometheus. Needs `monque[prometheus]`.

| metric | labels | |
|---|---|---|
| `monque_runs_total` | `name`, `outcome` | runs that completed, failed and are retried, or failed for good |
| `monque_run_duration_seconds` | `name` | how long those took that completed |
| `monque_lost_total` | `name` | runs whose lease was lost here |
| `monque_recovered_total` | | jobs that were taken back here, because their lease ran out |
| `monque_errors_total` | | everything unexpected: what is reported as `job:error` |
| `monque_jobs` | `name`, `status` | jobs that are pending, due and processing, in all instances |
| `monque_lag_seconds` | `name` | for how long the oldest of those that are due has been so |
| `monque_healthy` | | 1 if this instance is connected and makes progress |
| `monque_running` | | handlers at work in this instance |
| `monque_loop_lag_seconds` | | how long its event loop took last to answer |
| `monque_lease_age_seconds` | | how long ago the leases of what it holds were renewed, if it holds anything |
| `monque_last_claim_timestamp_seconds` | | when it last got a job |
| `monque_last_settle_timestamp_seconds` | | when it last wrote what came of one |

`name` is the name of the jobs; Prometheus has a label `job` of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from monque._observed import Observed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from monque import events as ev
    from monque import sync
    from monque._monque import Monque
    from monque.fleet import Health

__all__ = ["REGISTRY", "instrument"]


def instrument(monque: Monque | sync.Monque, registry: CollectorRegistry = REGISTRY) -> None:
    """Have an instance keep metrics for Prometheus; once for each, and for one instance in a registry.

    They are served by whatever serves the registry: `monque.probes`, or prometheus-client's own `start_http_server` and
    `make_asgi_app`.

    Args:
        monque: The instance.
        registry: Where the metrics are registered.

    Raises:
        InvalidArgumentError: `monque` is no `Monque`.
        ValueError: The registry has the metrics of another instance already.

    Example:
        >>> from prometheus_client import CollectorRegistry, generate_latest
        >>> from monque import Monque
        >>> monque, registry = Monque(), CollectorRegistry()
        >>> instrument(monque, registry)
        >>> "monque_healthy 0.0" in generate_latest(registry).decode()
        True
    """
    registry.register(_Present(Observed(monque)))
    runs = Counter("monque_runs", "Runs by what came of them.", ["name", "outcome"], registry=registry)
    durations = Histogram("monque_run_duration_seconds", "How long completed runs took.", ["name"], registry=registry)
    lost = Counter("monque_lost", "Runs whose lease was lost here.", ["name"], registry=registry)
    recovered = Counter("monque_recovered", "Jobs that were taken back here.", registry=registry)
    errors = Counter("monque_errors", "Everything unexpected.", registry=registry)

    def completed(event: ev.JobCompleteEvent) -> None:
        runs.labels(event.job.name, "completed").inc()
        durations.labels(event.job.name).observe(event.duration)

    def failed(event: ev.JobFailEvent) -> None:
        runs.labels(event.job.name, "retried" if event.will_retry else "failed").inc()

    monque.on("job:complete", completed)
    monque.on("job:fail", failed)
    monque.on("job:lost", lambda event: lost.labels(event.job.name).inc())
    monque.on("job:error", lambda _: errors.inc())
    monque.on("stale:recovered", lambda event: recovered.inc(event.count))


def written(registry: CollectorRegistry, accept: str) -> tuple[str, bytes]:
    """All metrics of a registry in one of the formats that are asked for, after its name."""
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


class _Present(Collector):
    """How things are at the moment when somebody asks."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def describe(self) -> Iterable[Metric]:
        """What there is, for a registry to know without asking the database."""
        return self._metrics().values()

    def collect(self) -> Iterable[Metric]:  # type: ignore[explicit-override]  # typing.override is newer
        """How it is."""
        metrics = self._metrics()
        for one in self._observed.backlog():
            for status in ("pending", "due", "processing"):
                metrics["jobs"].add_metric([one.name, status], getattr(one, status))
            metrics["lag"].add_metric([one.name], one.lag.total_seconds())
        for name, value in _figures(self._observed.monque.health()).items():
            if value is not None:
                metrics[name].add_metric([], value)
        return metrics.values()

    @staticmethod
    def _metrics() -> dict[str, GaugeMetricFamily]:
        return {
            "jobs": GaugeMetricFamily("monque_jobs", "Jobs in all instances.", labels=["name", "status"]),
            "lag": GaugeMetricFamily("monque_lag_seconds", "How long the oldest due job has waited.", labels=["name"]),
            **{name: GaugeMetricFamily(f"monque_{name}", said) for name, said in _FIGURES.items()},
        }


_FIGURES = {
    "healthy": "Whether this instance is connected and makes progress.",
    "running": "Handlers at work in this instance.",
    "loop_lag_seconds": "How long its event loop took last to answer.",
    "lease_age_seconds": "How long ago the leases of what it holds were renewed.",
    "last_claim_timestamp_seconds": "When it last got a job.",
    "last_settle_timestamp_seconds": "When it last wrote what came of one.",
}


def _figures(health: Health) -> dict[str, float | None]:
    times = [moment.timestamp() if moment else None for moment in (health.last_claim, health.last_settle)]
    values = (health.healthy, health.running, health.loop_lag, health.lease_age, *times)
    return dict(zip(_FIGURES, values, strict=True))
