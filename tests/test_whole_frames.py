"""Of a damaged video only the frames that are as the camera saw them are given."""

from __future__ import annotations

import io
import random

import av
import numpy as np
import pytest

from mataserver.media.whole_frames import WholeFrames
from ordinary_scheduling import kept

COUNT, GROUP = 40, 10
FAST = {"preset": "ultrafast"}
LIVE = {**FAST, "tune": "zerolatency"}
QUIET = "log-level=none"
VIDEOS = {
    "h264": ("libx264", LIVE, "mpegts"),
    "h264 with lengths": ("libx264", LIVE, "matroska"),
    "h264 in slices": ("libx264", {**LIVE, "x264-params": "slices=4"}, "mpegts"),
    "h264 reordered": ("libx264", {"preset": "veryfast"}, "mp4"),
    "h264 high": ("libx264", {"preset": "veryfast", "x264-params": "cqm=jvt"}, "mpegts"),
    "h264 of open groups": ("libx264", {"x264-params": "open-gop=1"}, "mpegts"),
    "h264 interlaced": ("libx264", {"x264-params": "interlaced=1"}, "mpegts"),
    "h264 that refreshes": ("libx264", {**LIVE, "x264-params": "intra-refresh=1"}, "mpegts"),
    "hevc reordered": ("libx265", {**FAST, "x265-params": QUIET}, "mpegts"),
    "hevc": ("libx265", {**LIVE, "x265-params": QUIET}, "mpegts"),
    "hevc of open groups": ("libx265", {**FAST, "x265-params": f"open-gop=1:{QUIET}"}, "mp4"),
    "mpeg4": ("mpeg4", {}, "mpegts"),
    "mpeg2": ("mpeg2video", {}, "mpegts"),
    "vp8": ("libvpx", {"deadline": "realtime"}, "matroska"),
    "av1": ("libsvtav1", {"preset": "12"}, "matroska"),
    "mjpeg": ("mjpeg", {}, "matroska"),
}
TRANSPORT_PACKET = 188


def scene(number):
    """Return a picture of much detail that moves."""
    wide = (
        np.random.default_rng(1).integers(0, 255, (40, 80, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    )
    return np.ascontiguousarray(np.roll(wide, (number * 2, number * 3), (0, 1))[:128, :192])


@pytest.fixture(scope="module")
def made():
    """Return what makes a video by its name in ``VIDEOS``, once."""
    known = {}

    def make(name):
        if name not in known:
            known[name] = encode(*VIDEOS[name])
        return known[name], VIDEOS[name][2]

    return make


def encode(codec, options, form, begin="0"):
    """Return the bytes of a video of ``COUNT`` frames, each ``GROUP``th a key frame."""
    made = io.BytesIO()
    layout = {"output_ts_offset": begin}
    with kept(), av.open(made, "w", format=form, options=layout) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.bit_rate = 192, 128, 400_000
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = GROUP
        for number in range(COUNT):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(number))))
        container.mux(stream.encode(None))
    return made.getvalue()


def decode(data, form, lost=(), *, whole=True):
    """Return the frames by their times, how many were left out, and whether there was damage."""
    with av.open(io.BytesIO(data), format=form) as container:
        stream = container.streams.video[0]
        decoder = WholeFrames(stream)
        found = {}
        for number, packet in enumerate(container.demux(stream)):
            if packet.size and number in lost:
                continue
            for frame in decoder.decode(packet) if whole else packet.decode():
                found[frame.pts] = frame.to_ndarray(format="gray")
    return found, decoder.damaged, decoder.is_damaged


def differences(found, clean):
    """Return the times of the frames that are not as they should be."""
    return [at for at, pixels in found.items() if not np.array_equal(pixels, clean[at])]


@pytest.mark.parametrize("name", VIDEOS)
def test_nothing_of_a_whole_video_is_left_out(made, name):
    """Whatever the codec, the container, and the order of the frames."""
    data, form = made(name)
    found, damaged, is_damaged = decode(data, form)
    assert (len(found), damaged, is_damaged) == (COUNT, 0, False)
    assert differences(found, decode(data, form, whole=False)[0]) == []


@pytest.mark.parametrize("lost", [{13}, {20}, {13, 14, 15}], ids=["one", "a key frame", "three"])
@pytest.mark.parametrize("name", [name for name in VIDEOS if name.startswith(("h264", "hevc"))])
def test_a_frame_that_a_camera_did_not_send(made, name, lost):
    """What refers to it is left out, and the next frames that do not are given again."""
    data, form = made(name)
    clean = decode(data, form)[0]
    found, damaged, _ = decode(data, form, lost)
    assert differences(found, clean) == []
    assert COUNT - len(lost) - 30 <= len(found) < COUNT
    assert max(found) == max(clean)
    assert damaged <= COUNT - len(found)


@pytest.mark.parametrize("lost", [{13}, {20}, {13, 14, 15}], ids=["one", "a key frame", "three"])
@pytest.mark.parametrize("name", ["h264 reordered", "h264 high"])
def test_frames_that_wait_to_be_put_in_order(made, name, lost):
    """Those before a lost one are given, and each of the others is counted."""
    data, form = made(name)
    found, damaged, _ = decode(data, form, lost)
    assert len(found) + damaged == COUNT - len(lost)


def counted_from(data, begin):
    """Return an MPEG transport stream whose packets are counted from another number."""
    changed = bytearray(data)
    for at in range(3, len(data), 188):  # the lower half of a packet's fourth byte
        changed[at] = changed[at] & 0xF0 | (changed[at] + begin) & 0x0F
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("h264 high", 0), ("h264 interlaced", 0), ("mpeg4", 0), ("mpeg2", 0), ("hevc reordered", 1)],
)
def test_recordings_that_were_joined(made, name, left_out):
    """The transport counts anew there, as if it had lost something: that alone is no damage.

    It counts to 16, and so one recording in 16 goes on where the other ended: never both of these.
    H.265's decoder says too little of an end that is cut off: of it the last frame is left out.
    """
    data, form = made(name)
    marked = []
    for begin in (0, 8):
        with av.open(io.BytesIO(data + counted_from(data, begin)), format=form) as container:
            stream = container.streams.video[0]
            decoder = WholeFrames(stream)
            packets = list(container.demux(stream))
            marked.append(any(packet.is_corrupt for packet in packets))
            count = sum(len(decoder.decode(packet)) for packet in packets)
        if marked[-1]:
            assert (count, decoder.damaged) == (2 * COUNT - left_out, left_out)
        else:
            assert count + decoder.damaged == 2 * COUNT
    assert any(marked)


@pytest.mark.parametrize("begin", ["0", "8"])
def test_recordings_with_a_pause_between_them(made, begin):
    """One that begins an hour later is whole, and so is the last frame before it."""
    first, form = made("h264 high")
    second = counted_from(encode(*VIDEOS["h264 high"], "3600"), int(begin))
    found, damaged, _ = decode(first + second, form)
    assert (len(found), damaged) == (2 * COUNT, 0)


def test_a_recording_that_is_cut_off_before_another(made):
    """Its last frame, of which the end is missing, is not padded."""
    for name in ("h264 high", "hevc reordered", "mpeg2"):
        data, form = made(name)
        clean = {pixels.tobytes() for pixels in decode(data, form)[0].values()}
        begin = TRANSPORT_PACKET * (len(data) // TRANSPORT_PACKET * 3 // 4)
        for cut in range(begin, begin + 10 * TRANSPORT_PACKET, TRANSPORT_PACKET):
            with av.open(io.BytesIO(data[:cut] + data), format=form) as container:
                stream = container.streams.video[0]
                decoder = WholeFrames(stream)
                for packet in container.demux(stream):
                    for frame in decoder.decode(packet):
                        assert frame.to_ndarray(format="gray").tobytes() in clean


@pytest.mark.parametrize("name", ["h264", "h264 in slices", "hevc", "mpeg2"])
def test_lost_parts_of_frames(made, name):
    """Packets of the transport that are lost damage frames, which a decoder conceals."""
    data, form = made(name)
    clean = decode(data, form)[0]
    parts = [data[at : at + TRANSPORT_PACKET] for at in range(0, len(data), TRANSPORT_PACKET)]
    seen = set()
    for seed in range(6):
        lost = random.Random(seed).randrange(8, len(parts) - 30)
        damaged = b"".join(parts[:lost] + parts[lost + 1 :])
        found, count, _ = decode(damaged, form)
        assert differences(found, clean) == []
        seen.add((len(found) < COUNT, count > 0))
    assert (True, True) in seen


def test_what_a_damaged_frame_leaves_in_the_decoder(made):
    """H.264's keeps the coefficients of the block that it gave up, and adds them to the next."""
    data, form = made("h264 with lengths")
    clean = decode(data, form)[0]
    with av.open(io.BytesIO(data), format=form) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for before_key in (GROUP - 1, 2 * GROUP - 1, 3 * GROUP - 1):
        packet = packets[before_key]
        for size in (4, 8, 14, 30, 60):
            found, *_ = decode(data.replace(packet, packet[:-size] + b"\xff" * size), form)
            damaged = sorted(clean)[before_key]  # the end may still decode
            assert set(differences(found, clean)) <= {damaged}


def test_a_jpeg_that_is_cut_off(made):
    """Its end is not padded with grey; the pictures beside it are given."""
    data, form = made("mjpeg")
    with av.open(io.BytesIO(data), format=form) as container:
        pictures = [bytes(packet) for packet in container.demux(video=0) if packet.size][:4]
    pictures[1] = pictures[1][: len(pictures[1]) // 2]
    found, damaged, is_damaged = decode(b"".join(pictures), "mjpeg")
    assert (len(found), damaged, is_damaged) == (3, 1, True)


def test_a_stream_that_is_joined_in_the_middle(made):
    """It begins with its first key frame. What was before it is no damage of the stream."""
    for name in ("h264", "hevc", "mpeg4"):
        data, form = made(name)
        found, damaged, _ = decode(data, form, set(range(3)))
        assert (len(found), damaged) == (COUNT - GROUP, 0)
        assert differences(found, decode(data, form)[0]) == []
