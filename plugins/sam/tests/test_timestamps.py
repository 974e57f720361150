"""Frames by number where the timestamps of a file mislead: wrapped ones, and those of packets."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from mataserver_sam.frames import Clip
from mataserver_sam.limits import Limits

COUNT = 30
DIVX = b"\x00\x00\x01\xb2DivX503b1393p"
"""What an encoder of packed bitstreams calls itself; a decoder looks for the ``p``."""
NOT_CODED = b"\x00\x00\x01\xb6\x50\x00"
"""A frame of MPEG-4 that repeats the last one."""


def read_all(path, movies):
    """Return the numbers of all frames, asked for at random, and the open video."""
    clip = Clip(path, lambda image: image, 1, Limits())
    order = np.random.default_rng(0).permutation(len(clip)).tolist()
    found = {each: movies.number(clip.frame(each)) for each in order}
    return [found[each] for each in range(len(clip))], clip


@pytest.mark.parametrize("begin", ["95442.2", "95441.5", "95440.9", "-1.4"])
@pytest.mark.parametrize("options", [{"bf": "3"}, {"bf": "3", "x264-params": "open-gop=1"}])
def test_timestamps_that_wrap(movies, tmp_path, begin, options):
    """MPEG-TS counts to 2^33, 26.5 hours: a recording over that moment keeps its first frames."""
    layout = {"output_ts_offset": begin, "muxdelay": "0"}
    path = movies.write(tmp_path / "a.ts", COUNT, options=options, layout=layout)
    found, clip = read_all(path, movies)
    assert found == list(range(COUNT))
    assert clip.time(COUNT - 1) == pytest.approx((COUNT - 1) / 10)
    clip.close()


def packed(packets):
    """Yield the data of MPEG-4 packets as a packed bitstream: a frame with the one it needs."""
    ahead = b""
    for index, packet in enumerate(packets):
        data = bytes(packet)
        if index == 0:
            at = data.find(b"\x00\x00\x01\xb6")
            yield data[:at] + DIVX + data[at:]
        elif packet.pts < max(each.pts for each in packets[:index]):
            yield data if ahead == NOT_CODED else ahead + data
            ahead = NOT_CODED
        else:
            if ahead:
                yield ahead
            ahead = data
    if ahead:
        yield ahead


def mpeg4(movies, tmp_path):
    """Return the packets of a video with two B-frames between two others."""
    path = movies.write(tmp_path / "a.mp4", COUNT, "mpeg4", options={"bf": "2", "g": "12"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        return path, packets


def copy(source, target, data, step=1, pause=0):
    """Write packets in the order of the file, numbered as an AVI does, ``step`` places apart.

    From the middle on, they come ``pause`` places later.
    """
    with av.open(str(source)) as given, av.open(str(target), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        stream.time_base = Fraction(1, 10 * step)
        for place, each in enumerate(data):
            packet = av.Packet(each)
            packet.stream, packet.time_base = stream, Fraction(1, 10 * step)
            packet.pts = packet.dts = place * step + (pause if place > COUNT / 2 else 0)
            packet.is_keyframe = place == 0
            made.mux(packet)
    return target


@pytest.mark.parametrize("name", ["packed.avi", "converted.mp4"])
def test_packed_bitstreams(movies, tmp_path, name):
    """Each frame of a DivX file is the one that a decoder shows in that place, also in an MP4."""
    path, packets = mpeg4(movies, tmp_path)
    data = packed(packets) if name == "packed.avi" else map(bytes, packets)
    found, clip = read_all(copy(path, tmp_path / name, data), movies)
    assert found == list(range(len(found)))
    assert len(found) > COUNT - 3
    assert clip.fps == pytest.approx(10.0)
    clip.close()


def test_an_avi_whose_places_are_mostly_empty(movies, tmp_path):
    """An AVI may state many times the rate of its frames: they are shown when they come."""
    path = movies.write(tmp_path / "a.ts", COUNT, options={"bf": "2"})
    with av.open(str(path)) as container:
        data = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    found, clip = read_all(copy(path, tmp_path / "a.avi", data, step=24), movies)
    assert found == list(range(COUNT))
    assert (clip.seconds, clip.time(10)) == (pytest.approx(3.0), pytest.approx(1.0))
    clip.close()


def test_an_avi_with_a_pause(movies, tmp_path):
    """Empty places in an AVI are a frame that stands: those after it are shown later."""
    path = movies.write(tmp_path / "a.ts", COUNT, options={"bf": "2"})
    with av.open(str(path)) as container:
        data = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    found, clip = read_all(copy(path, tmp_path / "a.avi", data, pause=10), movies)
    assert found == list(range(COUNT))
    assert (clip.seconds, clip.time(COUNT - 1)) == (pytest.approx(4.0), pytest.approx(3.9))
    assert (clip.time(8), clip.fps) == (pytest.approx(0.8), pytest.approx(7.5))
    clip.close()


def test_joined_files(movies, tmp_path):
    """Two recordings one after the other are one video, though its timestamps begin anew."""
    once = movies.write(tmp_path / "a.ts", COUNT, options={"bf": "2"}).read_bytes()
    (tmp_path / "b.ts").write_bytes(once + once)
    found, clip = read_all(tmp_path / "b.ts", movies)
    assert found == [*range(COUNT), *range(COUNT)]
    assert (clip.seconds, clip.time(COUNT)) == (pytest.approx(6.0), pytest.approx(3.0))
    clip.close()
