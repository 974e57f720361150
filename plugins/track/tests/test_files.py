"""Tracking of recorded videos, which are sent faster or slower than they were recorded."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp
import av
import numpy as np
import pytest

from mataserver import testing

pytestmark = pytest.mark.long

FRAMES, HIDDEN = 8, (3, 4)
"""The frames of the video, and those in which the object is not seen."""
INFERS = "key-that-may-infer-alone"


@pytest.fixture
def clip(tmp_path):
    """A video of a square that is hidden for two frames."""
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height = 320, 120
        for number in range(FRAMES):
            pixels = np.full((120, 320, 3), 60, np.uint8)
            if number not in HIDDEN:
                pixels[30:70, 20:60] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
async def served(tmp_path):
    """A server whose detector takes 0.05 s a frame; an id outlives 0.1 s, or 3 frames, unseen."""
    tracked = {"task": "track", "source": "pip", "pulled_at": time.time()}
    depth = tracked | {"task": "depth"}
    registry = {"version": 1, "models": {"fake-detect": tracked, "fake-depth": depth}}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "model_registry.json").write_text(json.dumps(registry))
    async with testing.serving(
        tmp_path / "data",
        entry_points=[testing.FAKE, *testing.installed("track", "database", "jobs")],
        models=[{"model": "fake-detect", "task": "track", "params": {"seconds": 0.05}}],
        api_keys=["every-right", {"key": INFERS, "scopes": ["infer"]}],
        plugins={"track": {"lost_track_buffer": 3}, "jobs": {"min_free_mb": 0}},
    ) as server:
        yield server


async def printed(served, *arguments, model="fake-detect"):
    """Run ``mataserver infer`` with a key that may nothing else; return what it prints."""
    command = [sys.executable, "-m", "mataserver", "infer", model, *map(str, arguments)]
    process = await asyncio.create_subprocess_exec(
        *command, "--url", served.url, "--api-key", INFERS, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in output.splitlines()]


async def of_job(served, clip, params, again):
    """Run a job on the video, and once more with the params ``again``; return the first tracks."""
    asked = {"model": "fake-detect", "annotate": "false", "params": json.dumps(params)}
    headers = {**served.headers, "Content-Type": "application/octet-stream"}
    async with aiohttp.ClientSession(served.url, headers=headers) as http:
        async with http.post("/v1/jobs/infer", params=asked, data=clip.read_bytes()) as response:
            assert response.status == 202
            job = await response.json()
        first = await ended(http, job["id"])
        headers = {"Content-Type": "application/json"}
        body = {"spec": {"params": again}}
        path = f"/v1/jobs/{job['id']}/restart"
        async with http.post(path, json=body, headers=headers) as response:
            assert response.status == 202
        return first, await ended(http, job["id"])


async def ended(http, job):
    """Wait for a job's end; return how often its first track was seen, and when."""
    async with asyncio.timeout(60):
        while True:
            async with http.get(f"/v1/jobs/{job}") as response:
                shown = await response.json()
            if shown["finished_at"] is not None:
                assert shown["error"] is None
                return shown["result"]["tracks"]["1"]
            await asyncio.sleep(0.05)


async def test_a_job_counts_frames(served, clip, caplog):
    """How long an object is hidden is told by the video, not by the detector's speed.

    So it is of a job that is run again, also with other parameters.
    """
    seen = FRAMES - 1 - len(HIDDEN)
    whole = {"label": "320x120", "frames": seen, "first": 1, "last": FRAMES - 1}
    cut = {"label": "320x120", "frames": HIDDEN[0] - 1, "first": 1, "last": HIDDEN[0] - 1}
    by_arrival = {"timing": "arrival"}
    assert await of_job(served, clip, {"timing": None}, {"confidence": 0.1}) == (whole, whole)
    assert await of_job(served, clip, by_arrival, by_arrival) == (cut, cut)
    assert "ignored" not in caplog.text  # such as the body of a request that takes none


async def test_the_command_line_counts_frames(served, clip):
    """``mataserver infer`` as well, with the model's own task or with ``--task``."""
    by_arrival = ("-p", "timing=arrival")
    for arguments, last in (
        ((), FRAMES - 1),
        (("--task", "track"), FRAMES - 1),
        (by_arrival, HIDDEN[0] - 1),
    ):
        answers = await printed(served, clip, *arguments)
        assert len(answers) == FRAMES
        seen = [
            each["frame"] for each in answers if any(d["track_id"] == 1 for d in each["detections"])
        ]
        assert (seen[0], seen[-1]) == (1, last)


async def test_the_command_line_streams_to_what_counts_nothing(served, clip):
    """A model that is no tracker has no such parameter, and gets the whole video without."""
    answers = await printed(served, clip, model="fake-depth")
    assert [each["frame"] for each in answers] == list(range(FRAMES))
    assert {each["task"] for each in answers} == {"depth"}
