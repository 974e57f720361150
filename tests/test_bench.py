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


REACHED = """
import cases, contest, report
from contestants import Sample
from question import Question

def told(ours, least):
    bar = cases.Bar("rate", (cases.OURS,), (cases.FASTAPI,), 1.3, least_of=(cases.HOPS,))
    case = cases.Case("one", Question("noop", "raw"), 16, (), (bar,))
    result = contest.Result(case)
    for name, rate in ((cases.OURS, ours), (cases.FASTAPI, 100.0), (cases.HOPS, least)):
        if rate:
            result.samples[name] = [Sample(rate, 1.0, 1.0, 1.0, 1.0)]
    (row,) = report.Report([result], [], 1, 1.0).rows()
    return row.bar, row.holds

assert told(110.0, 120.0) == ("≥ 1.3 (the least there can be: 1.20)", None)
assert told(110.0, 140.0) == ("≥ 1.3 (the least there can be: 1.40)", False)
assert told(135.0, 120.0) == ("≥ 1.3 (the least there can be: 1.20)", True)
assert told(110.0, 0.0) == ("≥ 1.3", False)
"""


def test_a_bar_that_nobody_reaches_is_no_goal():
    """Where the least there can be misses a bar in the same run, the row says so."""
    folder = ROOT / "bench"
    ran = subprocess.run(
        [sys.executable, "-c", REACHED], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_least_there_can_be_answers(tmp_path):
    """The bare loops behind HTTP answer all forms of a request, checked as everybody's are."""
    rows = tmp_path / "rows.json"
    options = ["--quick", "--without-peers", "--rounds", "1", "--seconds", "0.1"]
    names = ["raw body, 16", "JSON, 16", "multipart, 16", "WebSocket, window 1"]
    command = [sys.executable, BENCH, *options, "--rows", rows, *names]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("bare loops behind HTTP and a hop") > len(names)
