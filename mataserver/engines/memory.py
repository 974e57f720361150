"""Memory of processes and of the machine, from the kernel and the GPU driver."""

from __future__ import annotations

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mataserver.processes import kernel

_KB = 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MB = _KB * _KB
_NVML_LIBRARY = "libnvidia-ml.so.1"


def private_bytes(pid: int) -> int:
    """Return the memory that ``pid`` shares with no other process; 0 without such a process.

    A process can deny access to its maps; then the estimate is all resident memory without a file.
    """
    try:
        return _figure(f"/proc/{pid}/smaps_rollup", "Private_Clean", "Private_Dirty") * _KB
    except PermissionError:
        return _figure_or_0(f"/proc/{pid}/status", "RssAnon", "RssShmem") * _KB
    except (OSError, ValueError):
        return 0


def process_tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for child, parent in kernel.process_parents():
        children.setdefault(parent, []).append(child)
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return found


def keep_freed_memory(block_mb: int = 32, total_mb: int = 64) -> None:
    """Make glibc retain freed image buffers: returning each to the kernel costs more than decoding.

    Blocks of up to ``block_mb`` (at most 32) come from the heap, and up to ``total_mb`` of free
    memory stays at its top. No-op with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, block_mb * _MB)
        mallopt(_M_TRIM_THRESHOLD, total_mb * _MB)


def release_freed_memory() -> None:
    """Return retained free memory to the kernel. No-op with another C library."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Return this process's resident memory not backed by files; 0 where unknown."""
    with contextlib.suppress(OSError, ValueError):
        _, resident, shared, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
    return 0


def ram_total() -> int:
    """Return the RAM available to this process in bytes: the machine's, or its cgroup limit."""
    return min(_machine_ram(), *_cgroup_figures("memory.max", "memory/memory.limit_in_bytes"))


def _ram_used(total: int) -> int:
    """Return how much of ``ram_total`` is in use, without file caches that can be dropped."""
    if total < _machine_ram():
        names = "memory.current", "memory/memory.usage_in_bytes"
        used, cached = max(_cgroup_figures(*names)), 0
        for path in ("memory.stat", "memory/memory.stat"):
            cached += _figure_or_0(f"/sys/fs/cgroup/{path}", "inactive_file ")
        return max(0, used - cached)
    return _machine_ram() - _figure_or_0("/proc/meminfo", "MemAvailable:") * _KB


def _machine_ram() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_figures(*names: str) -> list[int]:
    """Return those of a cgroup's figures, of either version, that there are; or the machine's."""
    found = list[int]()
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii")))
    return found or [_machine_ram()]


def _figure(path: str, *names: str) -> int:
    """Return the sum of the figures of the lines of a kernel's file that begin with ``names``."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(names))


def _figure_or_0(path: str, *names: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        return _figure(path, *names)
    return 0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU's memory in bytes."""

    total: int
    used: int


def has_gpu_driver() -> bool:
    """Whether the library of NVIDIA's driver, by which pynvml asks, can be loaded."""
    try:
        ctypes.CDLL(_NVML_LIBRARY)
    except OSError:
        return False
    return True


class MemoryProbe:
    """Reads RAM and VRAM. NVML is initialized once, on first use."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._is_initialized = False

    def ram_total(self) -> int:
        """Return the RAM this process may use, in bytes."""
        return ram_total()

    def own(self) -> int:
        """Return the private memory of this process, in bytes."""
        return private_bytes(os.getpid())

    def gpus(self) -> list[Gpu]:
        """Return the CUDA GPUs; empty without NVML or a driver."""
        nvml = self._load_nvml()
        if nvml is None:
            return []
        found = []
        with contextlib.suppress(nvml.NVMLError):  # boards without dedicated memory raise
            for index in range(nvml.nvmlDeviceGetCount()):
                memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index))
                found.append(Gpu(int(memory.total), int(memory.used)))
        return found

    def devices(self) -> list[tuple[str, int, int]]:
        """Return name, total and used memory of "ram", and of the GPUs "cuda:0" and so on."""
        gpus = [(f"cuda:{number}", gpu.total, gpu.used) for number, gpu in enumerate(self.gpus())]
        total = self.ram_total()
        return [("ram", total, _ram_used(total)), *gpus]

    def vram_of(self, pid: int) -> int:
        """Return the GPU memory that ``pid`` holds on all GPUs, in bytes; 0 when unknown."""
        nvml = self._load_nvml()
        if nvml is None:
            return 0
        used = 0
        with contextlib.suppress(nvml.NVMLError):
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                    if process.pid == pid and process.usedGpuMemory:
                        used += int(process.usedGpuMemory)
        return used

    def _load_nvml(self) -> Any:
        if not self._is_initialized:
            if has_gpu_driver():
                import pynvml  # 2 MB, which a machine without a driver has no use for

                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlInit()
                    self._nvml = pynvml
            self._is_initialized = True  # last: other threads ask meanwhile; NVML counts its users
        return self._nvml
