"""The gateway in ``GET /metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from mataserver_fleet.gateway.servers import Servers
    from mataserver_fleet.gateway.usage import Usage

_SUBJECT = ("consumer", "application", "model")
_COUNTERS = {
    "requests": "Requests of a consumer to a model of an application.",
    "failed": "Those of them that were answered with 500 or above.",
    "bytes_in": "Bytes of their bodies.",
    "bytes_out": "Bytes of the answers' bodies.",
}


class GatewayCollector:
    """A collector, called at each read of the metrics."""

    def __init__(self, usage: Usage, servers: Servers) -> None:
        self._usage = usage
        self._servers = servers

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the series are known at collection."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the counts since the start, and the state of the servers."""
        totals = list(self._usage.total.items())
        for name, text in _COUNTERS.items():
            family = CounterMetricFamily(f"mataserver_gateway_{name}", text, labels=_SUBJECT)
            for subject, count in totals:
                family.add_metric(list(subject), getattr(count, name))
            yield family
        yield from self._usage.latencies.collect()
        alive = GaugeMetricFamily(
            "mataserver_gateway_server_up", "Whether a server answers probes.", labels=["server"]
        )
        busy = GaugeMetricFamily(
            "mataserver_gateway_outstanding", "Requests that a server has.", labels=["server"]
        )
        for url, server in self._servers.items():
            alive.add_metric([url], float(server.is_alive and not server.is_suspect))
            busy.add_metric([url], server.outstanding)
        yield alive
        yield busy
