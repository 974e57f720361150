"""The Prometheus registry and the core's metrics. docs/metrics.md lists them."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)


class Metrics:
    """Every metric of the core, in a registry of its own; a plugin may add to ``registry``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._counter(
            "requests", "HTTP requests answered.", ("method", "route", "status")
        )
        self.latency = self._histogram("request_seconds", "Time to answer.", ("route",))
        self.stages = self._histogram(
            "stage_seconds", "Time of an inference by stage.", ("model", "stage")
        )
        self.inferences = self._counter("inferences", "Images inferred.", ("model", "outcome"))
        self.queued = self._gauge("queue_length", "Images waiting for a model.", ("model",))
        self.loaded = self._gauge("models_loaded", "Models in memory.")
        self.loads = self._counter("model_loads", "Model loads.", ("model", "outcome"))
        self.unloads = self._counter("model_unloads", "Model unloads.", ("model", "reason"))
        self.deaths = self._counter("worker_deaths", "Workers that died or hung.", ("model",))
        self.memory = self._gauge("model_memory_bytes", "Memory of a loaded model.", ("model",))
        self.sessions = self._gauge("sessions", "Streaming sessions that exist.")
        self.connected = self._gauge("sessions_connected", "Sessions with an open WebSocket.")
        self.frames = self._counter("frames_received", "Video frames received.", ("model",))
        self.dropped = self._counter("frames_dropped", "Frames replaced by newer ones.", ("model",))
        self.inflight = self._gauge("body_bytes_in_flight", "Request body bytes held in memory.")

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"mataserver_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"mataserver_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(
            f"mataserver_{name}", text, labels, registry=self.registry, buckets=_SECONDS
        )

    def render(self) -> bytes:
        """Return the exposition text of every metric."""
        return generate_latest(self.registry)
