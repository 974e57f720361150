"""The Prometheus registry and the core's metrics. docs/metrics.md lists them."""

from __future__ import annotations

import logging
from bisect import bisect_left
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

log = logging.getLogger("mataserver.metrics")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (
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
_BUCKET_LABELS = [*(f"{bound:g}" if bound % 1 else f"{bound:.1f}" for bound in _BUCKETS), "+Inf"]


class LoopCounter(Collector):
    """A counter for the event loop's hot path.

    Only one thread counts, so it needs no lock, and costs a tenth of the library's counter, which
    every request would use five times.
    """

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *labels: str, count: int = 1) -> None:
        """Add ``count``."""
        self._counts[labels] = self._counts.get(labels, 0) + count

    def describe(self) -> Iterator[Metric]:
        """Yield its family without samples, for the registration and its duplicate check."""
        yield CounterMetricFamily(self.name, self.text, labels=self.labels)

    def collect(self) -> Iterator[Metric]:
        """Yield the samples in the form of the library's counter."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        yield family


class LoopHistogram(Collector):
    """A histogram of seconds for the event loop's hot path, without locks like ``LoopCounter``."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.name, self.text, self.labels = name, text, labels
        self._series: dict[tuple[str, ...], list[float]] = {}

    def observe(self, seconds: float, *labels: str) -> None:
        """Add one duration."""
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = [0.0] * (len(_BUCKET_LABELS) + 1)
        series[bisect_left(_BUCKETS, seconds)] += 1
        series[-1] += seconds

    def observe_each(self, seconds: Iterable[float], label: str, labels: Iterable[str]) -> None:
        """Add several histogram, distinguished by the last label."""
        known = self._series
        for took, last in zip(seconds, labels, strict=True):
            series = known.get((label, last))
            if series is None:
                series = known[label, last] = [0.0] * (len(_BUCKET_LABELS) + 1)
            series[bisect_left(_BUCKETS, took)] += 1
            series[-1] += took

    def describe(self) -> Iterator[Metric]:
        """Yield its family without samples, as ``LoopCounter`` does."""
        yield HistogramMetricFamily(self.name, self.text, labels=self.labels)

    def collect(self) -> Iterator[Metric]:
        """Yield the buckets in the form of the library's histogram."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for values, series in self._series.items():
            count, buckets = 0.0, []
            for bound, number in zip(_BUCKET_LABELS, series, strict=False):
                count += number
                buckets.append((bound, count))
            family.add_metric([*map(str, values)], buckets, sum_value=series[-1])
        yield family


class PluginRegistry(CollectorRegistry):
    """A registry in which a plugin's metric that fails is left out, and not all others with it."""

    def __init__(self) -> None:
        super().__init__()
        self._own: dict[Collector, None] = {}
        self._hooks: list[Callable[[], None]] = []

    def before_collect(self, hook: Callable[[], None]) -> None:
        """Register ``hook()`` to set gauges whenever they are read, instead of continuously."""
        self._hooks.append(hook)

    def register(self, collector: Collector) -> None:
        """Add a collector. Raises ``ValueError`` for a name that another has."""
        super().register(collector)
        self._own[collector] = None

    def unregister(self, collector: Collector) -> None:
        """Remove a collector."""
        super().unregister(collector)
        del self._own[collector]

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of every collector that does not fail, as for a plugin's own page."""
        for metrics, _ in self._rendered():
            yield from metrics

    def render(self) -> bytes:
        """Return the text of every collector that does not fail; the log has why one does."""
        return b"".join(text for _, text in self._rendered())

    def _rendered(self) -> Iterator[tuple[list[Metric], bytes]]:
        for hook in self._hooks:
            hook()
        target = CollectorRegistry(target_info=self.get_target_info())
        for collector in (target, *self._own):
            collected = _Collected()
            try:
                collected.metrics = list(collector.collect())
                text = generate_latest(collected)
            except (Exception, SystemExit):  # also a label or a value that is none
                log.exception("a metric is left out: its %s failed", type(collector).__name__)
                continue
            yield collected.metrics, text


class _Collected(Collector):
    """The metrics that a collector gave, to be rendered."""

    def __init__(self) -> None:
        self.metrics: list[Metric] = []

    def collect(self) -> list[Metric]:
        """Return them."""
        return self.metrics


class Metrics:
    """The core's metrics, in a registry of their own; plugins may add to ``registry``."""

    def __init__(self) -> None:
        self.registry = PluginRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = self._loop_counter(
            "requests", "HTTP requests answered.", ("method", "route", "status")
        )
        self.latency = self._loop_histogram("request_seconds", "Time to answer.", ("route",))
        self.stages = self._loop_histogram(
            "stage_seconds", "Time of an inference by stage.", ("model", "stage")
        )
        self.inferences = self._loop_counter("inferences", "Images inferred.", ("model", "outcome"))
        self.queued = self._gauge("queue_length", "Images waiting for a model.", ("model",))
        self.workers = self._gauge("model_workers", "Workers of a model.", ("model",))
        self.loaded = self._gauge("models_loaded", "Models in memory.")
        self.loads = self._counter("model_loads", "Model loads.", ("model", "outcome"))
        self.unloads = self._counter("model_unloads", "Model unloads.", ("model", "reason"))
        self.deaths = self._counter("worker_deaths", "Workers that died or hung.", ("model",))
        self.memory = self._gauge("model_memory_bytes", "Memory of a loaded model.", ("model",))
        self.vram = self._gauge("model_vram_bytes", "Its part on GPUs.", ("model",))
        self.devices = self._gauge(
            "device_memory_bytes", "Memory of the machine and of its GPUs.", ("device", "kind")
        )
        self.sessions = self._gauge("sessions", "Streaming sessions that exist.")
        self.connected = self._gauge("sessions_connected", "Sessions with an open WebSocket.")
        self.frames = self._loop_counter("frames_received", "Video frames received.", ("model",))
        self.dropped = self._loop_counter(
            "frames_dropped", "Frames discarded unanswered.", ("model",)
        )
        self.cameras = self._gauge("cameras", "Sessions with a camera by its state.", ("state",))
        self.damaged = self._counter(
            "camera_frames_damaged", "Frames of cameras left out as damaged.", ("model",)
        )
        self.reconnects = self._counter(
            "camera_reconnects", "Cameras connected again after they were lost.", ("model",)
        )
        self.unobserved = self._counter(
            "results_unobserved", "Results that a plugin was too slow to receive.", ("plugin",)
        )
        self.frontends = self._gauge("frontends", "Front-ends, this one too.", ("state",))
        self.relayed = self._loop_counter(
            "relayed", "Requests forwarded to the front-end that holds what they name.", ("kind",)
        )
        self.inflight = self._gauge(
            "body_bytes_in_flight", "Bytes of bodies and of unread answers held in memory."
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"mataserver_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"mataserver_{name}", text, labels, registry=self.registry)

    def _loop_counter(self, name: str, text: str, labels: tuple[str, ...]) -> LoopCounter:
        counter = LoopCounter(f"mataserver_{name}", text, labels)
        self.registry.register(counter)
        return counter

    def _loop_histogram(self, name: str, text: str, labels: tuple[str, ...]) -> LoopHistogram:
        histogram = LoopHistogram(f"mataserver_{name}", text, labels)
        self.registry.register(histogram)
        return histogram

    def count(self, method: str, route: str, status: str, seconds: float) -> None:
        """Count one answered request, and its duration."""
        self.requests.add(method, route, status)
        self.latency.observe(seconds, route)

    def set_devices(self, memory: Iterable[tuple[str, int, int]]) -> None:
        """Set the gauges of devices' memory: name, total and used bytes of each."""
        for device, total, used in memory:
            self.devices.labels(device, "total").set(total)
            self.devices.labels(device, "used").set(used)
