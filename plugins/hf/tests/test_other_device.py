"""Networks on a device that is not the CPU: nothing of a request stays behind on the wrong one.

The device is simulated by ``bench/gpu/simulated.py``, in a process of its own: torch cannot forget
a device once it has it. ``python bench/gpu/equality.py --device simulated`` takes every family.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[3]
GPU = ROOT / "bench" / "gpu"
MIXED = """
import torch
import simulated
with simulated.available():
    here, there = torch.ones(2).to("simulated:0"), torch.ones(2)
    assert (here + here).cpu().tolist() == [2.0, 2.0]
    for wrong in (lambda: here + there, lambda: here.numpy(), lambda: there[here.long()]):
        try:
            wrong()
        except (RuntimeError, TypeError):
            continue
        raise AssertionError("both devices in one operation")
"""

FOLLOWED = """
import tempfile
from pathlib import Path
import simulated
import video
from mataserver_sam.loading import load_sam3
from mataserver_sam.network import Network
with tempfile.TemporaryDirectory() as folder, simulated.available():
    video.checkpoints().sam3(Path(folder))
    network = Network.of(load_sam3(Path(folder), "simulated", "float32"))
    assert video.tracked(network, objects=2, frames=4)["mb"] > 0
"""


def program(*arguments):
    """Run a program of the suite for GPUs; return what it printed."""
    path = os.pathsep.join(map(str, (GPU, ROOT / "plugins" / "hf" / "tests")))
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_devices_are_told_apart():
    """What mixes both is refused, so that the tests below can fail."""
    program("-c", MIXED)


def test_every_number_is_that_of_the_cpu():
    """Families of several tasks answer as on the CPU."""
    said = program(str(GPU / "equality.py"), "--device", "simulated", "--quick")
    assert json.loads(said.splitlines()[-1])["wrong"] == []


def test_a_video_is_followed():
    """What SAM 3 remembers of objects from frame to frame is where its network is."""
    program("-c", FOLLOWED)
