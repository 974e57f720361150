"""The metrics in ``GET /metrics``, with the names of the reconstruction API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from mataserver_reconstruct.history import HistoryEntry

_SECONDS = (10, 30, 60, 120, 180, 300, 600, 900)
_REQUESTS = "mataserver_requests_total"
_LEVELS = {"none": 0, "low": 0, "medium": 1, "high": 2}


class RequestCounts(Collector):
    """The server's own count of requests under the API's names."""

    def __init__(self, registry: Any) -> None:
        self._counts = registry.restricted_registry([_REQUESTS])

    def collect(self) -> Iterator[Metric]:
        """Yield the number of requests, and of those answered with an error."""
        requests = CounterMetricFamily(
            "api_requests", "HTTP requests.", labels=("method", "endpoint", "status")
        )
        failed: dict[str, float] = {}
        for metric in self._counts.collect():
            for sample in metric.samples:
                method, route, status = (sample.labels[n] for n in ("method", "route", "status"))
                requests.add_metric((method, route, status), sample.value)
                if status.isdecimal() and int(status) >= 400:
                    failed[route] = failed.get(route, 0.0) + sample.value
        errors = CounterMetricFamily(
            "api_errors", "Requests answered 4xx or 5xx.", labels=["endpoint"]
        )
        for route, count in failed.items():
            errors.add_metric((route,), count)
        yield requests
        yield errors


class Gauges:
    """Metrics of reconstructions; gauges of "the last" mean the last that ended on this server."""

    def __init__(self, registry: Any) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        registry.register(RequestCounts(registry))
        self.latency = Histogram(
            "inference_latency_seconds",
            "Time of a reconstruction from its start to its end.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.registered = gauge(
            "registered_images_ratio", "Part of the images that the last reconstruction placed."
        )
        self.active = gauge("active_jobs_total", "Reconstructions that run now.")
        self.ready = gauge("model_server_ready", "1 if reconstructions can run, 0 otherwise.")
        self.valid = gauge("data_valid_images_total", "Readable images of the last data set.")
        self._status = gauge(
            "feature_drift_status", "0 no drift, 1 medium, 2 high, of the last upload.", "feature"
        )
        self._alerts = gauge("feature_drift_alert_count", "Features that drifted.")
        self._performance = gauge(
            "performance_proxy_status", "1 if the registration rate fell, 0 otherwise."
        )
        self._deviations = {
            name: gauge(f"{name}_drift_z", f"Deviation of the {name} from the baseline.")
            for name in ("brightness", "contrast")
        }

    def ended(self, entry: HistoryEntry, seconds: float, valid: int) -> None:
        """Record a reconstruction that ended."""
        self.latency.observe(seconds)
        self.registered.set(entry.registration_rate or 0.0)
        self.valid.set(valid)
        self.drifted(entry.report["checks"])

    def drifted(self, checks: Mapping[str, Mapping[str, Any]]) -> None:
        """Record the checks of a report; empty where there is too little data.

        Values of an earlier data set are removed, since the gauges are those of the last one.
        """
        self._status.clear()
        for name, each in checks.items():
            self._status.labels(name).set(_LEVELS[each["severity"]] if each["drift"] else 0)
        self._alerts.set(sum(bool(each["drift"]) for each in checks.values()))
        fallen = checks.get("registration_rate", {}).get("drift", False)
        self._performance.set(int(fallen))
        for name, gauge in self._deviations.items():
            gauge.set(checks.get(name, {}).get("z", 0.0))
