"""The example that tracks in a video, run as its reader would, against a tiny SAM3."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import av
import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "sam_video.py"


@pytest.mark.parametrize("word", ["red car", "0.5,0.5"])
async def test_the_example_writes_a_tinted_video(tmp_path, video_server, movies, word):
    """Every frame of the video comes back, in its size, with the objects that are told tinted."""
    source = movies.write(tmp_path / "street.mp4", 6, size=(160, 96))
    target = tmp_path / "tracked.mp4"
    async with video_server() as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            EXAMPLE,
            source,
            target,
            word,
            env={
                **os.environ,
                "MATA_SERVER_URL": server.url,
                "MATA_SERVER_API_KEY": server.key,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, told = await process.communicate()
    assert process.returncode == 0, told.decode()
    lines = re.findall(r"^(0\.\d) \[([\d, ]*)\]$", printed.decode(), re.MULTILINE)
    assert [time for time, _ in lines] == ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]
    before, after = (_frames(path) for path in (source, target))
    assert before.shape == after.shape == (6, 96, 160, 3)
    for (_, objects), plain, drawn in zip(lines, before, after, strict=True):
        changed = np.abs(plain.astype(int) - drawn).max(axis=2) > 40
        assert (changed.mean() > 0.005) == bool(objects)
    assert any(objects for _, objects in lines)


def _frames(path):
    with av.open(str(path)) as container:
        return np.stack([each.to_ndarray(format="rgb24") for each in container.decode(video=0)])
