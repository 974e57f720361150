"""What a camera's reader makes of damaged files: frames or a sentence, and never a halt."""

from __future__ import annotations

import itertools
import random
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from camera_sources import HEIGHT, WIDTH, make_video, pixels
from mataserver import UnreadableVideo, encode_frame, read_video, video_problem
from mataserver_cameras.messages import OpenRequest
from mataserver_cameras.reader import STALE, NewestFrame, paced_frames

DAMAGED = "it is no video, or damaged"
UNKNOWN = "it is coded in an unknown way, or damaged"


def opening(path, timeout=5.0):
    """Return what the server sends for a file."""
    return OpenRequest(str(path), "file", timeout, 1 << 20)


def read(path):
    """Return how many frames a file gave, and the sentence that ended it."""
    count = 0
    try:
        for frame in read_video(str(path), 1 << 20, 5.0):
            assert encode_frame(frame)
            count += 1
    except Exception as error:  # noqa: BLE001 - whatever it is must become a sentence
        return count, video_problem(error, file=True)
    return count, ""


def moving_gif(path, count=12):
    """Write a GIF whose red box moves."""
    boxes = [(each * 5, 16, each * 5 + 20, 48) for each in range(count)]
    pictures = [Image.fromarray(pixels(box)).quantize(16) for box in boxes]
    pictures[0].save(path, "GIF", save_all=True, append_images=pictures[1:], duration=40)
    return path


PLAYLISTS = {
    "concatenation": "ffconcat version 1.0\nfile 'other.mkv'\n",
    "playlist": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mkv\n#EXT-X-ENDLIST\n",
    "description": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 9 RTP/AVP 96\n",
}


@pytest.mark.parametrize("text", PLAYLISTS.values(), ids=PLAYLISTS)
@pytest.mark.parametrize("name", ["a.mp4", "a.m3u8", "a.ffconcat", "a.sdp"])
def test_a_file_that_names_others_reads_none(tmp_path, text, name):
    """Only the file itself was checked: it may be a link's neighbour that leads elsewhere."""
    make_video(tmp_path / "other.mkv")
    (tmp_path / name).write_text(text)
    assert read(tmp_path / "other.mkv")[0] > 0
    assert read(tmp_path / name) == (0, DAMAGED)


def test_a_name_is_no_pattern(tmp_path):
    """FFmpeg takes ``%d`` in a name for the numbers of many files."""
    for number in (1, 2):
        Image.new("RGB", (64, 48)).save(tmp_path / f"b{number}.jpg")
    assert read(tmp_path / "b1.jpg")[0] == 1
    assert read(tmp_path / "b%d.jpg")[0] == 0


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.gif"])
def test_random_damage(tmp_path, name):
    """Files that are cut off, changed and zeroed give frames, or a sentence that is known."""
    path = tmp_path / name
    data = (moving_gif(path) if name.endswith("gif") else make_video(path)).read_bytes()
    rng, counts = random.Random(name), []
    for _ in range(30):
        start = rng.randrange(len(data))
        changed = bytearray(data)
        for _ in range(8):
            changed[rng.randrange(len(data))] = rng.randrange(256)
        for copy in (data[:start], data[:start] + bytes(len(data) - start), bytes(changed)):
            path.write_bytes(copy)
            count, said = read(path)
            assert "could not be read" not in said
            assert "may not be read" not in said
            counts.append(count)
    assert max(counts) > 5  # of 10: each file has numbers of its own, and damage may take a frame


def test_a_codec_that_nobody_knows(tmp_path):
    """A stream that no decoder is there for is told as that."""
    path = make_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    assert read(path) == (0, UNKNOWN)


def test_a_title_in_another_encoding(tmp_path):
    """Bytes of a title that are no UTF-8 do not keep the video from being read."""
    path = make_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"isomiso2avc1mp41", b"iso\xffiso2avc1mp41"))
    assert read(path) == (10, "")


def test_a_packet_that_is_refused_in_other_words(tmp_path):
    """A GIF's broken frame, "not permitted" to FFmpeg, costs what builds on it and no more."""
    path = moving_gif(tmp_path / "a.gif")
    data = bytearray(path.read_bytes())
    blocks = [at for at in range(len(data)) if data[at : at + 3] == b"\x21\xf9\x04"]
    picture = data.index(b"\x2c", blocks[6] + 8)
    data[picture + 1 : picture + 9] = b"\xff" * 8
    path.write_bytes(data)
    count, said = read(path)
    assert (count >= 6, said) == (True, "")


def test_nothing_that_decodes(tmp_path):
    """A file none of whose frames can be decoded is told as that, and not played over and over."""
    path = make_video(tmp_path / "a.mp4")
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    data = path.read_bytes()
    for packet in packets:
        data = data.replace(packet, b"\xff" * len(packet))
    path.write_bytes(data)
    with pytest.raises(UnreadableVideo, match="none of its frames can be decoded"):
        next(paced_frames(opening(path)))


def test_a_time_that_is_far_away(tmp_path):
    """A frame that would be shown in an hour is shown at once; the others keep their pace."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for at in (0, 40, 80, 3_600_000, 3_600_040, 3_600_080):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels()))
            frame.pts, frame.time_base = at, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    begun = time.monotonic()
    shown = [frame.time for frame in itertools.islice(paced_frames(opening(path)), 6)]
    assert shown == pytest.approx([0, 0.04, 0.08, 3600, 3600.04, 3600.08])
    assert 4 * 0.04 - 0.01 < time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (av.error.PermissionError(1, "x"), "file", DAMAGED),
        (av.error.PermissionError(13, "x"), "file", "it may not be read"),
        (av.error.MemoryError(12, "x"), "file", DAMAGED),
        (av.error.OSError(5, "x"), "file", DAMAGED),
        (av.error.OSError(5, "x"), "http", "the connection failed"),
        (av.error.OSError(38, "x"), "http", "it could not be read (OSError)"),
        (av.error.OSError(93, "x"), "rtsp", "it does not send over TCP"),
        (av.error.OSError(113, "x"), "rtsp", "it cannot be reached over the network"),
        (av.error.OSError(16, "x"), "device", "it is in use by another program"),
        (av.error.OSError(25, "x"), "device", "it is no video camera, or was unplugged"),
        (av.error.HTTPBadRequestError(1, "x"), "rtsp", "it answered with an error"),
        (ConnectionResetError(104, "x"), "rtsp", "the connection broke"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), "file", DAMAGED),
        (ConnectionRefusedError(111, "x"), "rtsp", "the connection was refused"),
    ],
)
def test_what_is_wrong_with_a_file_is_its_content(error, kind, said):
    """By whatever name FFmpeg calls it; of what is in the network the name is told."""
    assert video_problem(error, file=kind == "file") == said


def test_the_last_frame_of_a_source_that_ended_long_ago_is_not_shown(tmp_path):
    """Nobody looked when the camera was unplugged: who comes back is told, not shown the past."""
    first, second, *_ = read_video(str(make_video(tmp_path / "video.mkv")), 1 << 20, 5.0)
    newest = NewestFrame()
    newest.put(first)
    newest.end("the stream ended")
    assert newest.take() == (first, 1, 0)
    newest.put(second)
    newest._at -= STALE
    with pytest.raises(UnreadableVideo, match="the stream ended"):
        newest.take()
