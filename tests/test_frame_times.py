"""The times of a video's frames, whatever its timestamps: from 0, in order, at their distance."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from types import SimpleNamespace

import av
import numpy as np
import pytest

from mataserver.cli.films import VideoReader
from mataserver.media import frame_times, videos

COUNT = 24
REGULAR = pytest.approx([number / 25 for number in range(COUNT)], abs=0.0011)


def write(path, codec="libx264", *, options=None, layout=None, form=None):
    """Write a video of ``COUNT`` noisy frames, 25 a second, of which some are B-frames."""
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", format=form, options=layout or {}) as container:
        stream = container.add_stream(codec, rate=25, options={"g": "12", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(COUNT):
            pixels = noise.integers(0, 255, (64, 96, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode(None))
    return path


def times(path):
    """Return the times of all frames as a reader gives them."""
    return [frame.time for frame in videos.frames(str(path), 10_000, 10.0)]


@pytest.mark.parametrize(
    ("name", "codec", "options", "layout"),
    [
        ("b.mp4", "libx264", {"bf": "3"}, {}),
        ("late.ts", "libx264", {"bf": "3"}, {"output_ts_offset": "7000"}),
        ("wrapped.ts", "libx264", {"bf": "3"}, {"output_ts_offset": "95442"}),
        ("b.avi", "libx264", {"bf": "3"}, {}),
        ("mpeg4.avi", "mpeg4", {"bf": "2"}, {}),
        ("untimed.h264", "libx264", {"bf": "2"}, {}),
        ("untimed.m4v", "mpeg4", {}, {}),
        ("vp9.ivf", "libvpx-vp9", {"deadline": "realtime"}, {}),
    ],
)
def test_a_regular_video(tmp_path, name, codec, options, layout):
    """They begin at 0 and are as far apart as the frames, in every container."""
    assert times(write(tmp_path / name, codec, options=options, layout=layout)) == REGULAR


def test_joined_files(tmp_path):
    """Timestamps that begin anew in the middle go on behind the first half."""
    once = write(tmp_path / "a.ts", options={"bf": "2"}).read_bytes()
    (tmp_path / "b.ts").write_bytes(once + once)
    found = times(tmp_path / "b.ts")
    first, second = found[:COUNT], found[COUNT:]
    assert first == REGULAR
    assert [each - second[0] for each in second] == REGULAR
    assert second[0] - first[-1] == pytest.approx(0.04, abs=0.0011)


def test_a_wrong_timestamp():
    """One far ahead is the time of its frame alone: those behind it go on one step later."""
    stamps = [3_600 * number for number in range(COUNT)]
    stamps[2] += 10**9
    stream = SimpleNamespace(time_base=Fraction(1, 90_000), average_rate=25, guessed_rate=25)
    container = SimpleNamespace(format=SimpleNamespace(name="mpegts"))
    given = (SimpleNamespace(pts=stamp, dts=stamp) for stamp in stamps)
    found = [frame.pts * frame.time_base for frame in frame_times.timed(given, container, stream)]
    assert found[:3] == [0, Fraction(1, 25), Fraction(stamps[2], 90_000)]
    assert {late - early for early, late in pairwise(found[2:])} == {Fraction(1, 25)}


def doubled(source, path):
    """Copy a video so that each two frames are shown at one time, the first one's."""
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream, step = stream, round(1 / 25 / packet.time_base)
                packet.pts -= packet.pts % (2 * step)
                made.mux(packet)
    return path


@pytest.mark.parametrize("form", ["mkv", "flv"])
def test_frames_with_the_same_time(tmp_path, form):
    """The last two, which the decoder kept to its end, have the time that the file tells."""
    source = write(tmp_path / "a.mkv", options={"bf": "3"})
    found = times(doubled(source, tmp_path / f"b.{form}"))
    assert found[-2:] == pytest.approx([(COUNT - 2) / 25] * 2, abs=0.0011)


def test_places_of_packets(tmp_path):
    """An AVI with a place per packet, most of them empty: frames come in order, 0.04 s apart."""
    with av.open(str(write(tmp_path / "a.ts", options={"bf": "3"}))) as given:
        data = [bytes(packet) for packet in given.demux(video=0) if packet.size]
        with av.open(str(tmp_path / "a.avi"), "w") as made:
            stream = made.add_stream_from_template(given.streams.video[0])
            stream.time_base = Fraction(1, 600)
            for place, each in enumerate(data):
                packet = av.Packet(each)
                packet.stream, packet.time_base = stream, Fraction(1, 600)
                packet.pts = packet.dts = place * 24
                made.mux(packet)
    assert times(tmp_path / "a.avi") == REGULAR


def test_what_is_written_of_a_frame(tmp_path):
    """``mataserver infer`` tells the same times, and writes them into the drawn video."""
    source = VideoReader(write(tmp_path / "a.avi", options={"bf": "3"}), 10_000)
    count = len(list(source.encoded()))
    assert [source.take(number)[1] for number in range(count)] == REGULAR
