"""Videos of ten hours: every frame is counted, progress tells how far, and memory stays flat."""

from __future__ import annotations

import asyncio
import contextlib
import io
from fractions import Fraction

import av
import numpy as np
import psutil
import pytest
from serving_jobs import asking, children_of_jobs, lines

from mataserver_jobs.item_sources import open_source

pytestmark = pytest.mark.long

HOURS = 10
SECONDS = HOURS * 3_600
EVERY = 100
FLAT = 30e6
"""Bytes that a job's process may grow by while it goes through ten hours."""


def long_video(path, times):
    """Write a video of small frames at these seconds: one picture, encoded once."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width = encoder.height = 32
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 1)
    picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8))
    data = bytes(next(iter(encoder.encode(picture.reformat(format="yuvj420p")))))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt, stream.time_base = "yuvj420p", Fraction(1, 1)
        for at in times:
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, at, at
            packet.time_base, packet.is_keyframe = Fraction(1, 1), True
            container.mux(packet)
    return path


@pytest.fixture
async def ask(tmp_path):
    """A server whose jobs may read the test's folder."""
    async with asking(tmp_path / "data", jobs={"roots": [str(tmp_path)]}) as asked:
        yield asked


async def begun(ask, path, **more):
    """Have a job look at a file; return its id."""
    asked = {"model": "fake-detect", "path": str(path), **more}
    status, job = await ask("POST", "/v1/jobs/infer", json=asked)
    assert status == 202, job
    return job["id"]


async def sizes(ask, job, until):
    """Return how much memory a job's process takes, from look to look, until so far."""
    found = []
    while (shown := (await ask("GET", f"/v1/jobs/{job}"))[1])["progress"] < until:
        assert shown["finished_at"] is None, shown
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [each.memory_info().rss for each in children_of_jobs()]
        await asyncio.sleep(0.02)
    return found


async def test_a_frame_a_second(ask, tmp_path):
    """36,000 frames, and a kill in the middle: each hundredth is answered once, at its time."""
    path = long_video(tmp_path / "long.mp4", range(SECONDS))
    job = await begun(ask, path, every=EVERY, annotate=False, params={"seconds": 0.01})
    await ask.until(job, lambda shown: shown["progress"] > 10)
    taken = await sizes(ask, job, 40)
    assert max(taken) - taken[0] < FLAT
    for process in children_of_jobs():
        process.kill()
    shown = await ask.until(job, lambda shown: shown["attempt"] == 2 and shown["progress"] > 50)
    assert shown["message"].endswith(f" of {SECONDS // EVERY}")
    shown = await ask.ended(job, 120.0)
    assert (shown["state"], shown["result"]["items"]) == ("done", SECONDS // EVERY)
    told = [(line["index"], line["time"]) for line in await lines(ask, job)]
    assert told == [(number, float(number)) for number in range(0, SECONDS, EVERY)]


async def test_few_frames_far_apart(ask, tmp_path):
    """Frames that stand for hours keep their times, also in the annotated video."""
    times = [0, 1, 12_000, 24_000, SECONDS]
    job = await begun(ask, long_video(tmp_path / "still.mkv", times))
    assert (await ask.ended(job))["result"]["items"] == len(times)
    assert [line["time"] for line in await lines(ask, job)] == times
    _, video_parts = await ask("GET", f"/v1/jobs/{job}/files/annotated.mp4")
    with av.open(io.BytesIO(video_parts)) as container:
        assert [round(frame.time) for frame in container.decode(video=0)] == times


def test_what_is_expected(tmp_path):
    """A container that counts no frames tells its length and rate: that many are expected."""
    path = long_video(tmp_path / "v.mkv", range(500))
    assert open_source(path).total == pytest.approx(500, abs=2)
    assert open_source(long_video(tmp_path / "v.mp4", range(500))).total == 500


async def test_cut_off_in_the_middle(ask, tmp_path):
    """Half of a long video is answered to its last whole frame; what was expected is told."""
    path = long_video(tmp_path / "v.mkv", range(SECONDS))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    job = await begun(ask, path, every=EVERY, annotate=False)
    shown = await ask.ended(job, 120.0)
    assert shown["state"] == "done"
    assert shown["result"]["items"] == pytest.approx(SECONDS // EVERY // 2, rel=0.1)
    times = [line["time"] for line in await lines(ask, job)]
    assert times == [number * EVERY for number in range(len(times))]
