"""The gauges of the SAM3 inference API in ``GET /metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily

from mataserver_sam.machine import MachineUse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client import Metric

    from mataserver_sam.image_requests import GpuMemory
    from mataserver_sam.served import ServedModel


class Gauges:
    """A collector: it computes its values whenever the metrics are read.

    GPU memory is the last report of the model's worker, in torch's terms, and 0 for every other of
    the machine's GPUs, of which ``gpu_count`` returns the number; without the model it is 0.
    """

    def __init__(self, served: ServedModel, gpu_count: Callable[[], int]) -> None:
        self._served = served
        self._gpu_count = gpu_count
        self._machine = MachineUse()

    def describe(self) -> Iterable[Metric]:
        """Return the metrics without values, so that registering collects nothing."""
        return self._families(None)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics with their current values."""
        reported = self._served.gpu_memory if self._served.in_memory else []
        if reported is None:  # loaded, and nothing computed yet: 0 would be wrong
            return self._families([])
        used = {index: (index, 0, 0) for index in range(self._gpu_count())}
        used.update((each[0], each) for each in reported)
        return self._families([used[index] for index in sorted(used)])

    def _families(self, gpus: GpuMemory | None) -> Iterable[Metric]:
        shares: Any = (None, None)
        if gpus is not None:
            shares = (self._machine.processors(), self._machine.memory())
        allocated = _family("gpu_memory_allocated_bytes", "GPU memory in use by tensors.", ["gpu"])
        reserved = _family("gpu_memory_reserved_bytes", "GPU memory that torch holds.", ["gpu"])
        for index, used, held in gpus or ():
            allocated.add_metric([str(index)], used)
            reserved.add_metric([str(index)], held)
        yield allocated
        yield reserved
        yield _family("cpu_usage_percent", "Use of the machine's processors.", value=shares[0])
        yield _family("memory_usage_percent", "Use of the machine's memory.", value=shares[1])


def _family(name: str, text: str, labels: list[str] | None = None, value: Any = None) -> Any:
    return GaugeMetricFamily(f"sam3_{name}", text, labels=labels, value=value)
