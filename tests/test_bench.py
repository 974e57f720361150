"""The benchmarks: one case of them, as ``make bench`` runs it, without the peers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "bench" / "run.py"


def test_a_case_is_measured_beside_the_bare_loop(tmp_path):
    """A case runs our server and the bare loop, checks the answers, and writes a row for a bar."""
    rows = tmp_path / "rows.json"
    options = ["--quick", "--without-peers", "--rounds", "1", "--seconds", "0.1"]
    command = [sys.executable, BENCH, *options, "--rows", rows, "raw body, 1 conn."]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (ratio,) = json.loads(rows.read_text())
    wanted = ("raw body, 1 conn.: CPU per request", "bare loop behind a hop")
    assert (ratio["case"], ratio["peer"]) == wanted
    assert ratio["ratio"] > 0
    assert ratio["bar"] == "≤ 1.2"
    assert ratio["holds"] == (ratio["ratio"] <= 1.2)
    assert "| raw body, 1 conn. |" in ran.stdout


def test_two_trees_are_compared(tmp_path):
    """Two trees' servers are asked in turn, and their ratio stands in a row with its interval."""
    (tmp_path / "other").mkdir()
    for part in ("bench", "mataserver", "plugins"):
        (tmp_path / "other" / part).symlink_to(ROOT / part)
    command = [sys.executable, ROOT / "bench" / "against.py", tmp_path / "other", "raw, 1"]
    command += ["--rounds", "2", "--requests", "10", "--engine", "thread"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (row,) = [line for line in ran.stdout.splitlines() if line.startswith("| raw, 1 conn. |")]
    other, ours, ratio, interval = (cell.strip() for cell in row.strip("|").split("|")[2:])
    low, high = map(float, interval.split(" to "))
    assert float(other) > 0
    assert float(ours) > 0
    assert 0 < low <= float(ratio) <= high
