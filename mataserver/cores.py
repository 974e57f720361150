"""The processor cores available to this process."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def physical_cores(topology: Path = _TOPOLOGY) -> int:
    """Return the number of physical cores available to this process.

    For frameworks that pin their threads unless given a number: a worker's threads must not be
    pinned.
    Linux: ``topology`` is sysfs; without it every logical processor counts as a core.
    """
    return len({_siblings(topology, each) for each in os.sched_getaffinity(0)})


def _siblings(topology: Path, processor: int) -> str:
    try:
        return (topology / f"cpu{processor}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)
