"""How long a source of video is waited for, and how large its frames may be."""

from __future__ import annotations

from types import SimpleNamespace

import av
import numpy as np
import pytest

import mataserver
from conftest import picture
from mataserver.media import videos


def test_a_frame_that_was_kept_until_the_time_was_up(monkeypatch):
    """FFmpeg gives it instead of an error; taken for new it would begin the time anew."""
    now = [0.0]
    monkeypatch.setattr(videos, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def demux(_stream):
        for seconds in (0.0, 1.9, 2.0, 0.1):
            now[0] += seconds
            yield seconds

    found = videos._packets(SimpleNamespace(demux=demux), None, 2.0)
    assert [next(found), next(found)] == [0.0, 1.9]
    now[0] += 60  # whoever takes the frames may take their time
    with pytest.raises(videos.UnreadableVideo, match="it sent nothing for too long"):
        next(found)


@pytest.fixture
def decoded(monkeypatch):
    """The sizes of the frames that a decoder has made, also of those that nobody gets."""
    sizes = []

    def note(frames, *_given):
        for frame in frames:
            sizes.append((frame.width, frame.height))
            yield frame

    monkeypatch.setattr(videos, "timed", note)
    return sizes


def jpegs(path, *sides):
    """Write a video of JPEGs of these sides, one behind the other."""
    path.write_bytes(b"".join(picture(width=side, height=side, form="JPEG") for side in sides))
    return str(path)


def test_frames_that_are_too_large_are_not_decoded(tmp_path, decoded):
    """A source of a few kilobytes may have frames of gigabytes: they are not even allocated."""
    path = jpegs(tmp_path / "large.mjpeg", 320, 320)
    with pytest.raises(videos.UnreadableVideo, match="damaged, or larger than 10000 pixels"):
        list(videos.frames(path, 10_000, 5.0))
    assert decoded == []
    with pytest.raises(videos.UnreadableVideo, match="its frames are larger than 102399 pixels"):
        list(videos.frames(path, 320 * 320 - 1, 5.0))
    assert len(list(videos.frames(path, 320 * 320, 5.0))) == 2


def test_a_frame_that_grows(tmp_path, decoded):
    """One that is too large in the middle is as one that is damaged."""
    path = jpegs(tmp_path / "growing.mjpeg", 64, 320, 64)
    found = [frame.width for frame in videos.frames(path, 10_000, 5.0)]
    assert set(found) == {64}
    assert decoded == [(64, 64)] * len(found)


@pytest.mark.parametrize(("width", "height"), [(16, 4_000), (4_000, 16), (8, 8_000), (250, 256)])
@pytest.mark.parametrize(("codec", "form"), [("mpeg4", "matroska"), ("libx264", "h264")])
def test_narrow_frames_of_the_permitted_size(tmp_path, width, height, codec, form):
    """FFmpeg's own limit includes the edges that it adds: 4000x16 pixels may need 4160x280."""
    path = str(tmp_path / "narrow")
    with av.open(path, "w", format=form) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8))
        container.mux([*stream.encode(frame), *stream.encode(None)])
    (frame,) = videos.frames(path, width * height, 10.0)
    assert (frame.width, frame.height) == (width, height)
    with pytest.raises(videos.UnreadableVideo, match="its frames are larger than"):
        list(videos.frames(path, width * height - 1, 10.0))


@pytest.mark.parametrize(
    "read",
    [
        lambda path: videos.frames(path, 64 * 64, 10.0),
        lambda path: mataserver.open_video(path).decode(video=0),
    ],
    ids=["frames", "open_video"],
)
def test_a_title_in_any_encoding(tmp_path, read):
    """PyAV decodes titles, which nobody reads here, when it opens a file."""
    path = tmp_path / "titled.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "A title"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
        container.mux([*stream.encode(frame), *stream.encode(None)])
    path.write_bytes(path.read_bytes().replace(b"A title", b"\xff\xfe\xe9\xe8\xfc\xf6\xe4"))
    (found,) = read(str(path))
    assert found.width == 64
