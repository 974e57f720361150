"""A video with the tracked objects drawn: its frames, their times, and masks that do not fit."""

from __future__ import annotations

import io
import math

import av
import msgspec
import numpy as np
import pytest

from mataserver import InvalidParams
from mataserver_sam.annotated_video import draw_video
from mataserver_sam.limits import Limits
from mataserver_sam.masks import Mask
from mataserver_sam.stills import Stills
from mataserver_sam.video_requests import AnnotatedVideoRequest, DrawnObject, ObjectStyle


def square(height, width):
    """Return a mask of a quarter of the picture, in its middle."""
    pixels = np.zeros((height, width), bool)
    pixels[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = True
    return pixels


def drawn(path, size, asked):
    """Return the frames of the video that is made, and when each is shown, in seconds."""
    stills = Stills(path, Limits())
    whole = b"".join(draw_video(stills, size, asked))
    stills.close()
    with av.open(io.BytesIO(whole)) as made:
        assert made.format.name.startswith("mov,mp4")
        frames = [
            (frame.to_ndarray(format="rgb24"), float(frame.time)) for frame in made.decode(video=0)
        ]
    return [frame for frame, _ in frames], [time for _, time in frames]


def test_objects_are_drawn_on_their_frames(movies, video_path):
    """Each frame is its own; an object's mask is tinted on the frames that have it."""
    mask = Mask.from_pixels(square(64, 80)).rle()
    asked = AnnotatedVideoRequest(
        frames={3: [DrawnObject(id=1, mask=mask)]},
        objects={1: ObjectStyle(name="car", colour="#00ff00")},
    )
    frames, times = drawn(video_path, (64, 80), asked)
    assert [movies.number(frame) for frame in frames] == list(range(8))
    assert times == pytest.approx([number / 10 for number in range(8)])
    middle = [frame[28:36, 36:44].mean(axis=(0, 1)) for frame in frames]
    plain = movies.picture(3)[28:36, 36:44].mean(axis=(0, 1))
    assert middle[3] == pytest.approx(plain * 0.55 + np.array([0, 255, 0]) * 0.45, abs=14)
    assert middle[2] == pytest.approx(movies.picture(2)[28:36, 36:44].mean(axis=(0, 1)), abs=14)


def test_times_and_sizes(movies, tmp_path):
    """Frames keep their times where these are uneven; sides become even, and none too long."""
    times = [0, 40, 400, 440]
    path = movies.write(tmp_path / "uneven.mkv", 4, times=times, size=(82, 66), codec="mpeg4")
    frames, seen = drawn(path, (66, 82), AnnotatedVideoRequest(frames={}))
    assert seen == pytest.approx([time / 1000 for time in times])
    assert frames[0].shape == (66, 82, 3)
    wide = movies.write(tmp_path / "wide.mp4", 1, "mpeg4", size=(2880, 150))
    mask = Mask.from_pixels(square(150, 2880)).rle()
    frames, _ = drawn(
        wide, (150, 2880), AnnotatedVideoRequest(frames={0: [DrawnObject(id=9, mask=mask)]})
    )
    assert frames[0].shape == (100, 1920, 3)


def coded(runs):
    """Return the text of run lengths, whatever they are."""
    text = ""
    for at, run in enumerate(runs):
        value, more = run - (runs[at - 2] if at > 2 else 0), True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            text += chr(group + 32 * more + 48)
    return text


def wrapping(size):
    """Return run lengths that make ``size`` where integers of 64 bits wrap."""
    runs, left, step = [0, 0, 0], 2**64 + size, 2**42
    while left >= 2 * step:  # up and down: what is coded is the difference to the last but one
        most = math.isqrt(left // (2 * step))
        heights = [*range(1, most + 1), *range(most - 1, -1, -1)]
        runs += [step * each for each in heights for _ in range(2)]
        left -= 2 * step * most**2
    return [*runs, left]


WRONG = {
    "runs whose sum wraps": (
        {0: [DrawnObject(id=2, mask=coded(wrapping(80 * 64)))]},
        "a mask of 80x64",
    ),
    "a run beyond 64 bits": ({0: [DrawnObject(id=2, mask="o" * 14 + "0")]}, "run"),
    "a frame beyond the end": ({8: []}, "frames: the video has 8 frames, counted from 0"),
    "no code": (
        {0: [DrawnObject(id=2, mask="~~~")]},
        "frames\\[0\\]: object 2: it is not a compressed",
    ),
    "half a code": ({0: [DrawnObject(id=2, mask="o")]}, "ends too early"),
    "another size": (
        {1: [DrawnObject(id=2, mask=Mask.from_pixels(square(8, 8)).rle())]},
        "a mask of 80x64",
    ),
    "runs below zero": ({0: [DrawnObject(id=2, mask="O")]}, "a mask of 80x64"),
}


@pytest.mark.parametrize(("frames", "said"), WRONG.values(), ids=WRONG)
def test_masks_that_are_none_of_the_video(video_path, frames, said):
    """They are refused, with the frame and the object where that is known."""
    with pytest.raises(InvalidParams, match=said):
        drawn(video_path, (64, 80), AnnotatedVideoRequest(frames=frames))


def test_each_mask_is_a_step(video_path):
    """A large mask takes long: each one shows the server that the worker is not hanging."""
    marked = [
        DrawnObject(id=each, mask=Mask.from_pixels(square(64, 80)).rle()) for each in range(5)
    ]
    stills = Stills(video_path, Limits())
    pieces = list(draw_video(stills, (64, 80), AnnotatedVideoRequest(frames={0: marked})))
    stills.close()
    assert pieces.count(b"") == 8 + 5


def test_codes_are_read_as_they_are_written():
    """Whatever a mask is, its code gives it back."""
    chance = np.random.default_rng(5)
    for height, width in ((1, 1), (7, 3), (60, 41), (300, 200)):
        for share in (0.0, 0.02, 0.5, 1.0):
            pixels = chance.random((height, width)) < share
            back = Mask.from_rle(Mask.from_pixels(pixels).rle(), (height, width))
            assert (back.full() == pixels).all()


def test_no_frame_takes_more_than_a_step_may():
    """The objects of one frame are bounded: all of them are drawn in one step of the worker."""
    mask = Mask.from_pixels(square(64, 80)).rle()
    body = {"frames": {"0": [{"id": 1, "mask": mask}] * 257}}
    with pytest.raises(msgspec.ValidationError, match="length <= 256"):
        msgspec.convert(body, AnnotatedVideoRequest, strict=False)
