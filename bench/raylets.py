"""A Ray cluster of this machine for a benchmark: the one of ``RAY_ADDRESS``, or one of its own."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))

from ray_nodes import RayNodes  # noqa: E402 - the tests' nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@contextlib.contextmanager
def cluster(nodes: int, cpu: int) -> Iterator[Callable[[], Iterable[psutil.Process]]]:
    """Have ``RAY_ADDRESS`` name a cluster; without one a head and so many nodes are started.

    Each node has ``cpu`` processors, and the models of the benchmarks. They end with the context,
    by their own processes. Yields what lists the processes among which the workers are.
    """
    if "RAY_ADDRESS" in os.environ:
        yield psutil.process_iter
        return
    made = RayNodes(cpu=cpu, environment={"PYTHONPATH": str(HERE)})
    try:
        made.start_head()
        for number in range(nodes):
            made.add(str(number))
        os.environ["RAY_ADDRESS"] = made.address
        yield lambda: [each for node in made.nodes.values() for each in node.processes]
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        made.close()
