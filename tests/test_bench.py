"""The programs of ``bench/`` begin: what they use of the server has the names that they know."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
PEERS = {"peer_fastapi", "peer_litserve", "peer_networks", "triton_model"}
APART = PEERS | {"sam_video", "yolo_shaped"}
"""Those of packages that only a benchmark has, and two that import torch at once."""


def run(*arguments, **variables):
    """Run Python in ``bench/``; return what it printed."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=BENCH,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout


def test_each_program_can_be_imported():
    """Whatever they import of the server, its plugins and each other is there."""
    names = sorted({path.stem for path in BENCH.glob("*.py")} - APART)
    assert len(names) > 40
    told = run("-c", f"import {', '.join(names)}; print(len(set(dir())))")
    assert int(told) >= len(names)


@pytest.mark.parametrize("program", ["against", "authenticate", "networks", "run", "startup"])
def test_what_a_program_takes_is_told(program):
    """Those that take options say which."""
    assert "usage:" in run(f"{program}.py", "--help")


def test_the_gateway_is_measured():
    """One round of a moment: each way is asked, and a line is printed for the case."""
    case = (
        "import contextlib, gateway; gateway.nginx = lambda _: contextlib.nullcontext()\n"
        'gateway.table("0", [("60 KB", 1)])'
    )
    *_, line = run("-c", case, ROUNDS="1", SECONDS="0.1").splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:2] == ["60 KB", "1"]
    assert all(float(cell.split()[0]) > 0 for cell in cells[2:])
