"""The gauges: the worker's word about GPUs, the machine's own about itself."""

from __future__ import annotations

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mataserver_sam.gauges import Gauges
from mataserver_sam.machine import MachineUse


def lines(gauges):
    """Return what ``GET /metrics`` shows of them."""
    registry = CollectorRegistry()
    registry.register(gauges)
    return generate_latest(registry).decode().splitlines()


def test_gpu_memory_is_what_the_worker_told():
    """Allocated and reserved bytes by GPU, as they were told last."""
    gauges = Gauges(lambda: True)
    gauges.note([(0, 1, 2)])
    gauges.note([(0, 1_258_291_200, 2_147_483_648), (1, 5, 6)])
    shown = lines(gauges)
    assert 'sam3_gpu_memory_allocated_bytes{gpu="0"} 1.2582912e+09' in shown
    assert 'sam3_gpu_memory_reserved_bytes{gpu="0"} 2.147483648e+09' in shown
    assert 'sam3_gpu_memory_reserved_bytes{gpu="1"} 6.0' in shown


def test_a_model_that_is_gone_holds_nothing():
    """After the model was unloaded its GPUs are told with 0, not with the last figures."""
    gauges = Gauges(lambda: False)
    gauges.note([(0, 100, 200)])
    assert 'sam3_gpu_memory_allocated_bytes{gpu="0"} 0.0' in lines(gauges)


def test_without_a_gpu_only_the_machine_is_told():
    """The machine's shares are always there, between 0 and 100."""
    shown = [line for line in lines(Gauges(lambda: True)) if not line.startswith("#")]
    names = {line.split()[0]: float(line.split()[1]) for line in shown}
    assert set(names) == {"sam3_cpu_usage_percent", "sam3_memory_usage_percent"}
    assert all(0 <= value <= 100 for value in names.values())


def test_registering_asks_nobody():
    """A registry that only wants the names does not look for a model."""
    gauges = Gauges(lambda: 1 / 0)
    assert {each.name for each in gauges.describe()} == {
        "sam3_gpu_memory_allocated_bytes",
        "sam3_gpu_memory_reserved_bytes",
        "sam3_cpu_usage_percent",
        "sam3_memory_usage_percent",
    }


def ticks(folder, *times):
    """Have the kernel tell these times of the processors."""
    (folder / "stat").write_text(f"cpu  {' '.join(map(str, times))}\ncpu0 1 1 1 1\n")


def test_the_use_of_processors_is_that_since_the_last_call(tmp_path):
    """Work is what is neither idle nor waiting for a disk; guests are counted once."""
    ticks(tmp_path, 100, 0, 0, 900, 0, 0, 0, 0, 50, 0)
    machine = MachineUse(tmp_path)
    ticks(tmp_path, 120, 5, 3, 950, 20, 1, 1, 0, 70, 0)
    assert machine.processors() == 30.0
    assert machine.processors() == 0.0
    ticks(tmp_path, 220, 5, 3, 940, 20, 1, 1, 0, 70, 0)  # idle times may be set back
    assert machine.processors() == 100.0


def test_what_the_kernel_does_not_tell_is_left_out(tmp_path):
    """No file, or none that can be understood, is no figure and no error."""
    machine = MachineUse(tmp_path)
    assert (machine.processors(), machine.memory()) == (None, None)
    ticks(tmp_path, "many")
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\n")
    assert (machine.processors(), machine.memory()) == (None, None)
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 6 kB\nHugePages_Total: 0\n")
    assert machine.memory() == 25.0


def test_memory_is_what_others_tell_too():
    """The share is the one of psutil."""
    assert MachineUse().memory() == pytest.approx(psutil.virtual_memory().percent, abs=3)
