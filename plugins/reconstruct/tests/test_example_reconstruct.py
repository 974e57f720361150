"""The example, run as its reader would."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from serving_reconstruct import asking, packed

pytestmark = pytest.mark.long

EXAMPLE = Path(__file__).parents[3] / "examples" / "reconstruct.py"


async def run(url, *arguments):
    """Run the example; return its exit status and what it printed."""
    variables = {"MATA_SERVER_URL": url, "MATA_SERVER_API_KEY": "ada-key"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLE,
        *map(str, arguments),
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, told = await process.communicate()
    return process.returncode, printed.decode(), told.decode()


@pytest.mark.timeout(300)
async def test_the_example_draws_the_model(strip, tmp_path):
    """Photographs become a cloud, a report, and a picture with the scene and its cameras."""
    (tmp_path / "photos.zip").write_bytes(packed(strip))
    (tmp_path / "data").mkdir()
    async with asking(tmp_path / "data") as ask:
        ended = await run(ask.served.url, tmp_path / "photos.zip", tmp_path / "model")
        assert (ended[0], ended[2]) == (0, "")
        assert ended[1].splitlines()[-1].startswith("100 %  "), ended[1]
        refused = await run(ask.served.url, EXAMPLE, tmp_path / "model")
        assert refused[2] == "400: the file is not a ZIP archive, or a damaged one\n"
    found = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"cluster0_model0.png", "report.html", "cameras.json"} <= found
    assert sum(name.endswith(".ply") for name in found) == 1
    pixels = np.asarray(Image.open(tmp_path / "model" / "cluster0_model0.png")).astype(int)
    red = (pixels == [255, 0, 0]).all(axis=2)
    assert red.sum() > 6 * 50
    assert ((pixels < 255).any(axis=2) & ~red).mean() > 0.002
