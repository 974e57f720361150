"""The annotated video: what is drawn, in which frames, and what a kill costs."""

from __future__ import annotations

import asyncio
import io
import itertools
import json

import av
import numpy as np
import pytest
from films import archive, picture, video
from PIL import Image
from serving_jobs import asking, children_of_jobs, lines, sent

from mataserver_jobs.annotation import PART
from mataserver_jobs.video_parts import LONGEST_SIDE, VideoParts

FLAT = np.full((48, 64, 3), 90, np.uint8)


@pytest.fixture
async def ask(tmp_path):
    """A server."""
    async with asking(tmp_path / "data") as asked:
        yield asked


def frames_of(source):
    """Return the frames of a video, RGB, and their times in seconds."""
    with av.open(source) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        found = [(f.to_ndarray(format="rgb24"), f.time) for f in container.decode(stream)]
    return [pixels for pixels, _ in found], [time for _, time in found]


async def annotated(ask, job):
    """Return the frames of a job's video, and their times."""
    status, data = await ask("GET", f"/v1/jobs/{job}/files/annotated.mp4")
    assert status == 200
    return frames_of(io.BytesIO(data))


def is_marked(pixels):
    """Whether the box that the fake detector finds is drawn: (32, 16) to (64, 48), and its label.

    The box itself is red on grey, so above it only a label can be coloured.
    """
    above = pixels[3:14, 34:60].astype(int)
    return bool(np.ptp(above, axis=2).max() > 60)


async def test_a_video(ask, tmp_path):
    """Every frame is there once, at its time, with what was found drawn in; nothing is left."""
    path = video(tmp_path / "v.mp4", PART + 30)
    job = await sent(ask, path, model="fake-detect")
    assert (await ask.ended(job))["error"] is None
    shown, times = await annotated(ask, job)
    assert times == pytest.approx([n / 25 for n in range(PART + 30)], abs=2e-3)
    assert {frame.shape for frame in shown} == {(64, 96, 3)}
    assert all(map(is_marked, shown))
    plain, _ = frames_of(str(path))
    assert not any(map(is_marked, plain))
    work = tmp_path / "data" / "jobs" / job / "work"
    assert [each.name for each in work.iterdir()] == ["answered"]


YEAR = 365 * 86_400


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ([[0, 0.04, YEAR, YEAR + 0.04, YEAR + 0.08]], [0.04, 86_400, 0.04, 0.04]),
        ([[0, 0.04], [YEAR, YEAR + 0.04], [YEAR + 0.08]], [0.04, 86_400, 0.04, 0.04]),
        ([[0, YEAR, 2 * YEAR], [2 * YEAR + 5]], [86_400, 86_400, 5]),
        ([[1.7e9, 1.7e9 + 0.04], [1.7e9 + 0.08]], [0.04, 0.04]),  # by a wall clock
        ([[0, 1, 4e9, 1e17], [1e18]], [1, 86_400, 86_400, 0.001]),  # more than Matroska can hold
    ],
)
def test_frames_that_are_years_apart(tmp_path, parts, shown):
    """A header may say that a frame is shown for a century: it is for a day, and no other one."""
    made = VideoParts(tmp_path / "parts")
    for number, times in enumerate(parts):
        made.add(number, [(FLAT, at) for at in times])
    assert made.join(tmp_path / "whole.mp4")
    times = frames_of(str(tmp_path / "whole.mp4"))[1]
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx(shown, abs=1e-5)


async def test_it_is_left_out(ask, tmp_path):
    """No video is made where none is wanted, nor of pictures unless it is."""
    path = video(tmp_path / "v.mp4", 3)
    entries = [(f"{n}.png", picture(30 + n, 20)) for n in range(3)] + [("x.png", b"none")]
    pictures = archive(tmp_path / "p.zip", entries)
    jobs = [
        await sent(ask, path, model="fake-detect", annotate="false"),
        await sent(ask, pictures, model="fake-detect"),
        await sent(ask, pictures, model="fake-detect", annotate="true"),
    ]
    names = []
    for job in jobs:
        assert (await ask.ended(job))["state"] == "done"
        _, listed = await ask("GET", f"/v1/jobs/{job}/files")
        names.append({each["name"] for each in listed["files"]})
    assert names[0] == names[1] == {"results.jsonl", "summary.json"}
    assert names[2] == names[0] | {"annotated.mp4"}
    shown, times = await annotated(ask, jobs[2])
    assert times == [0.0, 1.0, 2.0]
    assert {frame.shape for frame in shown} == {(20, 30, 3)}


async def test_a_kill_while_it_is_drawn(ask, tmp_path):
    """Kill -9 while it draws: no model is asked again, and every frame is there once."""
    path = video(tmp_path / "v.mp4", 4 * PART)
    job = await sent(ask, path, model="fake-track")
    folder = tmp_path / "data" / "jobs" / job
    answers = folder / "output" / "results.jsonl"
    async with asyncio.timeout(60):
        while not (folder / "work" / "film" / "000001.mkv").exists():
            await asyncio.sleep(0.005)
    before = answers.read_bytes()
    for process in children_of_jobs():
        process.kill()
    shown = await ask.ended(job, 60)
    assert (shown["state"], shown["attempt"]) == ("done", 2)
    assert answers.read_bytes() == before
    assert len(await lines(ask, job)) == 4 * PART
    _, times = await annotated(ask, job)
    assert times == pytest.approx([n / 25 for n in range(4 * PART)], abs=2e-3)


def timed(count, start=0):
    """Yield frames of one second each."""
    return ((FLAT, float(start + number)) for number in range(count))


def test_parts_are_whole_or_not_there(tmp_path):
    """A part that broke off is none; the next attempt writes it, and the video has all once."""

    def broken():
        yield from timed(3)
        raise RuntimeError

    video_parts = VideoParts(tmp_path / "film")
    video_parts.add(0, timed(5))
    with pytest.raises(RuntimeError):
        video_parts.add(1, broken())
    video_parts = VideoParts(tmp_path / "film")
    assert video_parts.parts == 1
    video_parts.add(1, timed(5, 5))
    video_parts.add(2, iter(()))  # of pictures that cannot be read
    video_parts.add(3, timed(1, 10))
    assert video_parts.join(tmp_path / "whole.mp4")
    _, times = frames_of(str(tmp_path / "whole.mp4"))
    assert times == [float(n) for n in range(11)]
    video_parts.remove()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["whole.mp4"]


def test_parts_of_one_frame(tmp_path):
    """What is joined outlives the file that it is read from, also where that holds one frame."""
    for count in (1, 2, 30):
        video_parts = VideoParts(tmp_path / f"film{count}")
        for number in range(count):
            video_parts.add(number, timed(1, number))
        assert video_parts.join(tmp_path / "whole.mp4")
        _, times = frames_of(str(tmp_path / "whole.mp4"))
        assert times == [float(n) for n in range(count)]


def test_nothing_to_show(tmp_path):
    """Without a frame there is no video."""
    video_parts = VideoParts(tmp_path / "film")
    video_parts.add(0, iter(()))
    assert not video_parts.join(tmp_path / "whole.mp4")


def test_times_that_stand_still_or_go_back(tmp_path):
    """Frames whose times do not grow are shown in order all the same, from part to part too."""
    video_parts = VideoParts(tmp_path / "film")
    video_parts.add(0, [(FLAT, at) for at in (0.0, 0.5, 0.5, 0.2)])
    video_parts.add(1, [(FLAT, at) for at in (0.1, 1.0)])
    video_parts.join(tmp_path / "whole.mp4")
    _, times = frames_of(str(tmp_path / "whole.mp4"))
    assert len(times) == 6
    assert all(a < b for a, b in itertools.pairwise(times))


def test_sizes(tmp_path):
    """All frames have the first one's size, made even and at most 1920; others stand on black."""
    video_parts = VideoParts(tmp_path / "film")
    video_parts.add(0, [(np.full((101, 3001, 3), 200, np.uint8), 0.0)])
    video_parts = VideoParts(tmp_path / "film")  # another attempt knows the size
    video_parts.add(1, [(np.full((400, 400, 3), 200, np.uint8), 1.0)])
    video_parts.join(tmp_path / "whole.mp4")
    (wide, square), _ = frames_of(str(tmp_path / "whole.mp4"))
    assert wide.shape == square.shape == (64, LONGEST_SIDE, 3)
    assert wide.min() > 150
    assert square[:, :900].max() < 40
    assert square[10:50, 935:985].min() > 150


def test_what_is_drawn_from_json():
    """The line of an answer is drawn as the result itself would be."""
    from mataserver import Detection, DetectResult, draw

    corners = [[10, 10], [40, 20], [36, 32], [6, 22]]
    found = Detection("ship", 0.5, (6.0, 10.0, 40.0, 32.0), extra={"corners": corners})
    line = {"schema_version": "mata.v1", "task": "detect", "model": "m", "timestamp": 0.0}
    line["detections"] = json.loads(
        json.dumps(
            [
                {
                    "label": "ship",
                    "confidence": 0.5,
                    "bbox": [6, 10, 40, 32],
                    "extra": {"corners": corners},
                }
            ]
        )
    )
    drawn = draw(FLAT, line)
    assert np.array_equal(drawn, draw(FLAT, DetectResult([found])))
    assert not np.array_equal(drawn, FLAT)
    assert (FLAT == 90).all()
    assert Image.fromarray(drawn).size == (64, 48)
