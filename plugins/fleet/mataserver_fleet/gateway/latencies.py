"""How long answers took, in a histogram of each application's models."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from prometheus_client.core import HistogramMetricFamily

if TYPE_CHECKING:
    from prometheus_client import Metric

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the buckets in seconds; a last bucket takes what took longer."""
_LABELS = (*map(str, BOUNDS), "+Inf")


class Latencies:
    """Counts durations by (application, model), without a lock: on the event loop alone."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], list[float]] = {}

    def observe(self, application: str, model: str, seconds: float) -> None:
        """Count an answer that took so long."""
        series = self._series.get((application, model))
        if series is None:
            series = self._series[application, model] = [0.0] * (len(_LABELS) + 1)
        series[bisect_left(BOUNDS, seconds)] += 1
        series[-1] += seconds

    def family(self) -> Metric:
        """Return the histogram for ``GET /metrics``."""
        family = HistogramMetricFamily(
            "mataserver_gateway_request_seconds",
            "Time from a request's head, or from its body where that is gathered, to its answer.",
            labels=("application", "model"),
        )
        for subject, series in self._series.items():
            count, buckets = 0.0, []
            for bound, number in zip(_LABELS, series, strict=False):
                count += number
                buckets.append((bound, count))
            family.add_metric(subject, buckets, sum_value=series[-1])
        return family
