"""The example that draws with supervision, run as its reader would."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import register
from mataserver import testing

EXAMPLE = Path(__file__).parents[1] / "examples" / "draw_supervision.py"


async def draw(served, model, source, target):
    """Run the example; return what it printed."""
    variables = {"MATA_SERVER_URL": served.url, "MATA_SERVER_API_KEY": served.key}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, EXAMPLE, model, source, target),
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0
    return printed.decode()


@pytest.mark.parametrize(("model", "inside"), [("fake-detect", False), ("fake-segment", True)])
async def test_boxes_and_masks_are_drawn(server, png, tmp_path, model, inside):
    """The box is drawn where the object is; a mask tints its inside as well, a box does not."""
    source, target = tmp_path / "source.png", tmp_path / "target.png"
    source.write_bytes(png)
    printed = await draw(server, model, source, target)
    assert printed.startswith(("1 found", "2 found"))
    with Image.open(source) as before, Image.open(target) as after:
        changed = (np.asarray(before) != np.asarray(after)).any(axis=2)
    assert changed[26:30, 12:28].any()
    assert changed[18:24, 15:25].any() == inside
    assert not changed[40:, 50:].any()


async def test_a_real_detector(tmp_path):
    """Three codes are found on the demo picture and drawn."""
    register(tmp_path, {"opencv-qr": "detect"})
    points = testing.installed("opencv")
    picture = EXAMPLE.parent / "pictures" / "codes.jpg"
    target = tmp_path / "codes.png"
    async with testing.serving(tmp_path, entry_points=points, engine="thread") as served:
        printed = await draw(served, "opencv-qr", picture, target)
    assert printed == f"3 found, drawn into {target}\n"
    with Image.open(picture) as before, Image.open(target) as after:
        assert before.size == after.size
        assert (np.asarray(before.convert("RGB")) != np.asarray(after)).mean() > 0.005
