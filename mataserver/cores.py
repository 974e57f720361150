"""The processor's cores that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def physical_cores(topology: Path = _TOPOLOGY) -> int:
    """Return how many cores this process may use, those that share one counted once.

    For frameworks that would pin their threads unless they are told how many: in a worker a thread
    is not to be pinned. Linux: ``topology`` is sysfs; without it every processor is a core.
    """
    return len({_siblings(topology, each) for each in os.sched_getaffinity(0)})


def _siblings(topology: Path, processor: int) -> str:
    try:
        return (topology / f"cpu{processor}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(processor)
