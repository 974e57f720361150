"""Frames by number: exact in every container, bounded in memory, refused when damaged."""

from __future__ import annotations

import itertools
import struct
from array import array
from fractions import Fraction

import av
import numpy as np
import pytest

from mataserver import BadRequest
from mataserver_sam import frames as frames_module
from mataserver_sam.frames import Clip
from mataserver_sam.index import Index
from mataserver_sam.limits import Limits

COUNT = 30
FRAME_BYTES = 80 * 64 * 3
FEW = 4 * FRAME_BYTES
KINDS = {
    "b.mp4": ("libx264", {"bf": "3"}),
    "open-gop.mp4": ("libx264", {"bf": "3", "x264-params": "open-gop=1"}),
    "mpeg4.mp4": ("mpeg4", {}),
    "b.mkv": ("libx264", {"bf": "3"}),
    "b.ts": ("libx264", {"bf": "3"}),
    "b.flv": ("libx264", {"bf": "2"}),
    "mpeg4.avi": ("mpeg4", {"bf": "2"}),
    "untimed.avi": ("libx264", {"bf": "2"}),
    "hevc.mp4": ("libx265", {"bf": "2"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "wmv.wmv": ("wmv2", {}),
}


@pytest.fixture(scope="module")
def made(movies, tmp_path_factory):
    """``made(name)`` is the video of ``KINDS`` with that name."""
    folder = tmp_path_factory.mktemp("videos")

    def make(name):
        codec, options = KINDS[name]
        path = folder / name
        return path if path.exists() else movies.write(path, COUNT, codec, options=options)

    return make


def opened(path, cache=FEW, prepare=lambda image: image, **limits):
    """Open a video."""
    return Clip(path, prepare, cache, Limits(**limits))


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_the_one_that_was_asked_for(made, movies, name):
    """Forwards, backwards and at random, in every container and codec, with reordered frames."""
    clip = opened(made(name))
    assert (len(clip), clip.width, clip.height) == (COUNT, 80, 64)
    assert clip.fps == pytest.approx(10.0)
    assert clip.seconds == pytest.approx(3.0)
    orders = [range(COUNT), range(COUNT - 1, -1, -1), np.random.default_rng(0).permutation(COUNT)]
    for order in orders:
        assert [movies.number(clip.frame(int(each))) for each in order] == list(order)
    clip.close()


def test_mpeg_program_streams_are_counted(movies, tmp_path):
    """Where timestamps are guesswork frames are counted from the first, and still exact."""
    path = movies.write(tmp_path / "a.mpg", 12, "mpeg2video", options={"bf": "2"}, rate=25)
    clip = opened(path)
    assert [movies.number(clip.frame(each)) for each in (0, 7, 3, 11, 2)] == [0, 7, 3, 11, 2]
    clip.close()


def test_variable_frame_rates(movies, tmp_path):
    """The frames of a video with uneven times are counted and found by number."""
    times = np.cumsum([40, 40, 200] * 6).tolist()
    clip = opened(movies.write(tmp_path / "vfr.mkv", 18, options={"bf": "3"}, times=times))
    assert len(clip) == 18
    assert clip.seconds == pytest.approx((times[-1] - times[0]) / 1000, abs=0.25)
    assert clip.fps == pytest.approx(18 / clip.seconds)
    assert [movies.number(clip.frame(each)) for each in (17, 0, 9, 10, 3)] == [17, 0, 9, 10, 3]
    clip.close()


def test_going_backwards_decodes_a_group_once(made, movies):
    """A group of pictures that fits into the cache is decoded once, not once for each frame."""
    prepared = []

    def prepare(image):
        prepared.append(movies.number(image))
        return image

    clip = opened(made("b.mp4"), cache=8 * FRAME_BYTES, prepare=prepare)
    for each in range(17, 5, -1):
        clip.frame(each)
    assert sorted(prepared) == [*range(6, 18)]
    clip.close()


@pytest.mark.parametrize("order", [range(COUNT), range(COUNT - 1, -1, -1)])
def test_memory_is_bounded_by_the_cache(made, order):
    """Whichever way a video is walked, no more than the cache's bytes are kept."""
    clip = opened(made("b.mp4"))
    kept = []
    for each in order:
        clip.frame(each)
        kept.append(clip.cached_bytes)
    assert max(kept) == FEW
    clip.close()
    assert clip.cached_bytes == 0


def test_a_frame_in_the_cache_is_not_decoded_again(made):
    """The same frame twice is the same object."""
    clip = opened(made("b.mp4"))
    assert clip.frame(7) is clip.frame(7)
    clip.close()


def test_one_frame_is_kept_however_small_the_cache(made):
    """A cache smaller than a frame holds one."""
    clip = opened(made("b.mp4"), cache=1)
    assert clip.frame(3) is clip.frame(3)
    clip.frame(4)
    assert clip.cached_bytes == FRAME_BYTES
    clip.close()


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((-1, 0, 0, 1), np.fliplr),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    ],
)
def test_pictures_are_turned_upright(movies, tmp_path, numbers, shown):
    """A display matrix, as phones write it, is obeyed: turned, mirrored and both."""
    data = bytearray(movies.write(tmp_path / "flat.mp4", 3, "mpeg4").read_bytes())
    a, b, c, d = (each << 16 for each in numbers)
    place = data.find(b"tkhd") + 4 + 4 + 20 + 16
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(data)
    flat, turned = (opened(tmp_path / name) for name in ("flat.mp4", "turned.mp4"))
    expected = shown(flat.frame(1))
    assert (turned.height, turned.width) == expected.shape[:2]
    assert np.array_equal(turned.frame(1), expected)
    flat.close()
    turned.close()


def test_a_file_that_is_deleted_stays_open(made, movies, tmp_path):
    """What is open can be deleted: a session needs no file of its own."""
    path = tmp_path / "gone.mp4"
    path.write_bytes(made("b.mp4").read_bytes())
    clip = opened(path)
    path.unlink()
    assert [movies.number(clip.frame(each)) for each in (29, 3)] == [29, 3]
    clip.close()


def test_a_packet_that_cannot_be_decoded_is_stood_in_for(movies, tmp_path):
    """A frame whose packet is damaged shows the one after it; the others are not shifted."""
    path = movies.write(tmp_path / "a.mkv", 12, "mpeg4", options={"g": "1"})
    with av.open(str(path)) as container:
        packet = [each for each in container.demux(video=0) if each.size][5]
        data, victim = path.read_bytes(), bytes(packet)
    assert data.count(victim) == 1
    path.write_bytes(data.replace(victim, bytes(len(victim))))
    clip = opened(path)
    assert [movies.number(clip.frame(each)) for each in range(4, 8)] == [4, 6, 6, 7]
    clip.close()


def faststart(source, target):
    """Copy a video, its table of contents first."""
    with (
        av.open(str(source)) as reader,
        av.open(str(target), "w", options={"movflags": "faststart"}) as writer,
    ):
        stream = writer.add_stream_from_template(reader.streams.video[0])
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                writer.mux(packet)
    return target


def test_truncated_files_are_refused(made, tmp_path):
    """Half a file is refused, whether its table of contents is lost with the end or not."""
    whole = made("b.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadRequest, match="cannot be read"):
        opened(tmp_path / "half.mp4")
    first = faststart(made("b.mp4"), tmp_path / "first.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(first[: -len(first) // 4])
    with pytest.raises(BadRequest, match="it ends too early"):
        opened(tmp_path / "half.mp4")


@pytest.mark.parametrize("kind", ["mkv", "webm"])
def test_a_truncated_matroska_is_refused(movies, tmp_path, kind):
    """One frame or half of them less is refused; one of unknown length has what is there."""
    codec = "libvpx" if kind == "webm" else "libx264"
    whole = movies.write(tmp_path / f"whole.{kind}", 20, codec).read_bytes()
    for left in (len(whole) // 2, len(whole) - 1):
        (tmp_path / f"cut.{kind}").write_bytes(whole[:left])
        with pytest.raises(BadRequest, match="it ends too early"):
            opened(tmp_path / f"cut.{kind}")
    live = movies.write(tmp_path / f"live.{kind}", 20, codec, layout={"live": "1"}).read_bytes()
    (tmp_path / f"live.{kind}").write_bytes(live[: len(live) // 2])
    assert 0 < len(opened(tmp_path / f"live.{kind}")) < 20


def _moved(path, target, seconds):
    """Copy a file with every timestamp moved, and no rule against those below 0; return it."""
    with (
        av.open(str(path)) as source,
        av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as copy,
    ):
        (stream,) = source.streams.video
        made = copy.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                packet.pts += int(seconds / packet.time_base)
                packet.dts, packet.stream = None, made  # Matroska keeps none
                copy.mux(packet)
    return target


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_a_matroska_that_begins_before_its_time_0_is_refused(movies, tmp_path, codec):
    """A search in it ends at 0: frames before it would show one that comes later."""
    whole = movies.write(tmp_path / "whole.mkv", COUNT, codec)
    late = opened(_moved(whole, tmp_path / "late.mkv", 0.5))
    assert [movies.number(late.frame(each)) for each in (0, 1, 20)] == [0, 1, 20]
    with pytest.raises(BadRequest, match="before the file's time 0, where"):
        opened(_moved(whole, tmp_path / "early.mkv", -0.5))


REFUSED = {
    "noise": b"x" * 5_000,
    "nothing": b"",
    "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nb.mp4\n#EXT-X-ENDLIST\n",
    "concatenation": b"ffconcat version 1.0\nfile b.mp4\n",
    "manifest": b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    "description": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 9 RTP/AVP 96\n",
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_what_is_no_video_is_refused(made, tmp_path, content):
    """Neither noise nor playlists, which name other files and hosts, are opened."""
    (tmp_path / "b.mp4").write_bytes(made("b.mp4").read_bytes())
    path = tmp_path / "given.mp4"
    path.write_bytes(content)
    with pytest.raises(BadRequest, match="The video cannot be read") as refused:
        opened(path)
    assert str(tmp_path) not in refused.value.detail


def test_sound_alone_is_no_video(tmp_path):
    """A file with an audio stream only is refused."""
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 44_100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with pytest.raises(BadRequest, match="holds no video"):
        opened(path)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"frames": COUNT - 1}, "more than 29 frames"),
        ({"seconds": 2.9}, r"longer than 2\.9 s"),
        ({"pixels": 80 * 64 - 1}, "over the limit of 5119 pixels"),
    ],
)
def test_limits(made, limits, said):
    """A video of more frames, more seconds or more pixels than allowed is refused."""
    with pytest.raises(BadRequest, match=said):
        opened(made("b.mp4"), **limits)


def test_a_frame_that_grows_is_refused(movies, tmp_path):
    """A stream may change its size on the way; what exceeds the limit then is refused too."""
    parts = [
        movies.write(tmp_path / f"{height}.ts", 6, size=(80, height), options={"bf": "0"})
        for height in (64, 128)
    ]
    path = tmp_path / "grows.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(BadRequest, match="over the limit of 5120 pixels"):
        opened(path, pixels=80 * 64).frame(11)


TOO_SLOW = "takes over 10 s to decode"


@pytest.fixture
def ticking(monkeypatch):
    """Make every look at the clock take a second, from the call on."""

    def start():
        ticks = itertools.count()
        monkeypatch.setattr(frames_module.time, "monotonic", lambda: float(next(ticks)))

    return start


def test_a_frame_far_from_its_key_frame_ends_in_time(movies, tmp_path, ticking):
    """A step of the worker must not become a hang: the request is refused, the next one goes on."""
    clip = opened(movies.write(tmp_path / "a.mp4", COUNT, "mpeg4", options={"g": "600"}))
    ticking()
    refused = 0
    while True:
        try:
            frame = clip.frame(COUNT - 1)
            break
        except BadRequest as error:
            assert TOO_SLOW in error.detail  # noqa: PT017 - the number of refusals counts too
            refused += 1
    assert movies.number(frame) == COUNT - 1
    assert 1 < refused < COUNT
    clip.close()


def test_key_frames_that_cannot_be_decoded_end_in_time(movies, tmp_path, ticking):
    """Nor may the search for an earlier one: it would read the rest once for each key frame."""
    path = movies.write(tmp_path / "a.mkv", COUNT, "mpeg4", options={"g": "1"})
    with av.open(str(path)) as container:
        packets = [bytes(each) for each in container.demux(video=0) if each.size]
    data = path.read_bytes()
    for packet in packets[5:]:
        data = data.replace(packet, bytes(len(packet)))
    path.write_bytes(data)
    clip = opened(path)
    ticking()
    with pytest.raises(BadRequest, match=TOO_SLOW):
        clip.frame(COUNT - 1)
    assert movies.number(clip.frame(3)) == 3
    clip.close()


def test_a_video_without_a_frame_ends_in_time(movies, tmp_path, ticking):
    """Nor the search for the first frame."""
    path = movies.write(tmp_path / "a.mkv", COUNT, "mpeg4", options={"g": "1"})
    with av.open(str(path)) as container:
        packets = [bytes(each) for each in container.demux(video=0) if each.size]
    data = path.read_bytes()
    for packet in packets:
        data = data.replace(packet, bytes(len(packet)))
    path.write_bytes(data)
    ticking()
    with pytest.raises(BadRequest, match=TOO_SLOW):
        opened(path)


@pytest.mark.parametrize("ending", ["mp4", "avi"])
def test_rates_and_lengths_are_exact(movies, tmp_path, ending):
    """They are the nearest numbers: sums of a time base in floating point are some digits away."""
    for rate, count in [(10, 3), (12, 7), (25, 17), (60, 31)]:
        clip = opened(movies.write(tmp_path / f"{rate}.{ending}", count, "mpeg4", rate=rate))
        assert (clip.fps, clip.seconds) == (rate, count / rate)
        assert clip.time(count - 1) == (count - 1) / rate


def test_a_video_of_just_the_longest_length_is_opened(movies, tmp_path):
    """3 frames at 10 a second are 0.3 s, and not longer."""
    path = movies.write(tmp_path / "short.mp4", 3, "mpeg4")
    assert opened(path, seconds=0.3).seconds == 0.3
    with pytest.raises(BadRequest, match=r"longer than 0\.29 s"):
        opened(path, seconds=0.29)


def test_an_index_finds_keys_and_numbers():
    """Numbers come from timestamps, an unknown one belongs to the frame before it."""
    index = Index(5, array("q", [10, 20, 40, 50, 90]), array("q", [0, 3]), Fraction(1))
    assert [index.number(each, 0) for each in (None, 9, 10, 39, 90, 99)] == [-1, -1, 0, 1, 4, 4]
    assert [index.key(each) for each in range(5)] == [0, 0, 0, 3, 3]
    assert [index.timestamp(each) for each in (0, 3)] == [10, 50]
    counted = Index(5, array("q"), array("q", [0]), Fraction(1))
    assert (counted.is_counted, index.is_counted) == (True, False)
    assert (counted.number(7, 2), counted.key(4), counted.timestamp(4)) == (2, 0, 0)
