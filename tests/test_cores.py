"""How many cores frameworks are told."""

from __future__ import annotations

import os

from mataserver import physical_cores


def test_processors_of_one_core_count_once(tmp_path):
    """Two processors that share a core are one; where nothing is known each is a core."""
    allowed = sorted(os.sched_getaffinity(0))
    assert physical_cores(tmp_path) == len(allowed)
    for processor in allowed:
        folder = tmp_path / f"cpu{processor}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text("0-1023\n")
    assert physical_cores(tmp_path) == 1
    assert 1 <= physical_cores() <= len(allowed)
