"""The gauges: the worker's word about GPUs, the machine's own about itself."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mataserver_sam.gauges import Gauges
from mataserver_sam.machine import MachineUse


def lines(reported, *, in_memory=True, gpus=0):
    """Return what ``GET /metrics`` shows on a machine with so many GPUs, without comments."""
    registry = CollectorRegistry()
    served = SimpleNamespace(gpu_memory=reported, in_memory=in_memory)
    registry.register(Gauges(served, lambda: gpus))
    shown = generate_latest(registry).decode().splitlines()
    return [line for line in shown if not line.startswith("#")]


def test_gpu_memory_is_what_the_worker_told():
    """Allocated and reserved bytes by GPU, as they were told last; 0 of one that it has not."""
    shown = lines([(0, 1_258_291_200, 2_147_483_648), (1, 5, 6)], gpus=3)
    assert 'sam3_gpu_memory_allocated_bytes{gpu="0"} 1.2582912e+09' in shown
    assert 'sam3_gpu_memory_reserved_bytes{gpu="0"} 2.147483648e+09' in shown
    assert 'sam3_gpu_memory_reserved_bytes{gpu="1"} 6.0' in shown
    assert 'sam3_gpu_memory_reserved_bytes{gpu="2"} 0.0' in shown


def test_before_the_first_report():
    """A machine's GPUs are there from the start; a loaded model's memory is not known yet."""
    assert 'sam3_gpu_memory_allocated_bytes{gpu="0"} 0.0' in lines(None, in_memory=False, gpus=1)
    assert not [line for line in lines(None, gpus=1) if "gpu" in line]


def test_a_model_that_is_gone_holds_nothing():
    """After the model was unloaded its GPUs are told with 0, not with the last figures."""
    shown = lines([(0, 100, 200)], in_memory=False, gpus=1)
    assert 'sam3_gpu_memory_allocated_bytes{gpu="0"} 0.0' in shown


def test_without_a_gpu_only_the_machine_is_told():
    """The machine's shares are always there, between 0 and 100."""
    names = {line.split()[0]: float(line.split()[1]) for line in lines([])}
    assert set(names) == {"sam3_cpu_usage_percent", "sam3_memory_usage_percent"}
    assert all(0 <= value <= 100 for value in names.values())


def test_registering_asks_nobody():
    """A registry that only wants the names does not look for a model."""
    gauges = Gauges(SimpleNamespace(), lambda: 1 / 0)
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
