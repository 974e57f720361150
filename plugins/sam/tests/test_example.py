"""The example, run as its reader would, against a server with a tiny SAM3."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from mataserver.testing import installed, serving

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "sam_image.py"
PHOTO = ROOT / "examples" / "pictures" / "astronaut.jpg"


async def run(server, *arguments):
    """Run the example; return its exit status and what it printed."""
    environment = {
        **os.environ,
        "MATA_SERVER_URL": server.url,
        "MATA_SERVER_API_KEY": server.key,
        "CONFIDENCE": "0.25",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLE,
        *map(str, arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, told = await process.communicate()
    return process.returncode, printed.decode(), told.decode()


async def test_the_example_draws_what_it_finds(tmp_path, sam3_path):
    """Texts and points find masks, each is printed, and the picture shows them."""
    target = tmp_path / "found.png"
    settings = {"plugins": {"sam": {"model": str(sam3_path)}}, "engine": "thread"}
    (tmp_path / "data").mkdir()
    async with serving(tmp_path / "data", entry_points=installed("sam"), **settings) as server:
        status, printed, told = await run(server, PHOTO, target, "a face", "0.5,0.3")
        assert (status, told) == (0, "")
        lines = re.findall(r"^0\.\d\d (a face|visual) \[[\d., ]+\]$", printed, re.MULTILINE)
        assert f"{len(lines)} masks in " in printed
        assert "a face" in lines
        before, after = (np.asarray(Image.open(each)) for each in (PHOTO, target))
        assert before.shape == after.shape
        assert (before != after).any(axis=2).mean() > 0.1

        refused = await run(server, PHOTO, target, " ")
        assert (refused[0], refused[2]) == (1, "422: prompts[0]: text is empty\n")
