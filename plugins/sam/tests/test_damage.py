"""Damaged videos: a right answer or a refusal, whatever is wrong with them."""

from __future__ import annotations

import io
import random
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from mataserver import BadRequest
from mataserver_sam.frames import Clip
from mataserver_sam.limits import Limits

COUNT = 12
UNKNOWN = "coded in an unknown way"
KINDS = {
    "h264.mp4": ("libx264", {"bf": "2"}),
    "fragments.mp4": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "mpeg4.mp4": ("mpeg4", {}),
    "h264.mkv": ("libx264", {"bf": "2"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4.avi": ("mpeg4", {}),
    "h264.ts": ("libx264", {}),
}


def gif(movies):
    """Return a GIF that moves."""
    pictures = [Image.fromarray(movies.picture(number)).quantize(32) for number in range(COUNT)]
    buffer = io.BytesIO()
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=100)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def whole(movies, tmp_path_factory):
    """``whole(name)`` are the bytes of a video that is not damaged."""
    folder, kept = tmp_path_factory.mktemp("whole"), {}

    def make(name):
        if name not in kept:
            codec, options = KINDS.get(name, ("", {}))
            flags = {key: options[key] for key in options if key == "movflags"}
            coding = {key: options[key] for key in options if key != "movflags"}
            kept[name] = (
                movies.write(folder / name, COUNT, codec, options=coding, layout=flags).read_bytes()
                if codec
                else gif(movies)
            )
        return kept[name]

    return make


@pytest.fixture
def opened(tmp_path):
    """``opened(name, data)`` opens a video of those bytes; it is closed at the end."""
    clips = []

    def make(name, data):
        (tmp_path / name).write_bytes(data)
        clips.append(Clip(tmp_path / name, lambda image: image, 1e6, Limits()))
        return clips[-1]

    yield make
    for clip in clips:
        clip.close()


def damaged(data, seed):
    """Yield damaged copies: cut off, with changed bytes, zeroed, and with parts left out."""
    rng = random.Random(seed)
    for _ in range(8):
        yield data[: rng.randrange(1, len(data))]
        start, length = rng.randrange(len(data)), rng.randrange(1, len(data) // 3)
        yield data[:start] + bytes(min(length, len(data) - start)) + data[start + length :]
        yield data[:start] + data[start + length :]
        for count, reach in ((1, len(data)), (20, len(data)), (8, 700)):
            changed = bytearray(data)
            for _ in range(count):
                changed[rng.randrange(min(reach, len(data)))] = rng.randrange(256)
            yield bytes(changed)


@pytest.mark.parametrize("name", [*KINDS, "moving.gif"])
def test_random_damage(whole, opened, name):
    """Each of 48 damaged files is refused in a sentence, or gives frames or sentences."""
    read = 0
    for data in damaged(whole(name), name):
        try:
            clip = opened(name, data)
        except BadRequest:
            continue
        assert 0 < len(clip) < 10 * COUNT
        assert np.isfinite([clip.fps, clip.seconds]).all()
        for number in [*range(len(clip)), 0]:
            try:
                read += clip.frame(number).size > 0
            except BadRequest:
                continue
    assert read


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("h264.mp4", b"avc1", UNKNOWN),
        ("fragments.mp4", b"avc1", UNKNOWN),
        ("mpeg4.avi", b"FMP4", UNKNOWN),
        ("h264.mkv", b"V_MPEG4/ISO/AVC", "holds no video"),
        ("vp9.webm", b"V_VP9", "holds no video"),
    ],
)
def test_a_codec_that_nobody_knows(whole, opened, name, code, said):
    """What no decoder is there for is refused for that; Matroska then tells of no stream."""
    data = whole(name)
    assert code in data
    with pytest.raises(BadRequest, match=said):
        opened(name, data.replace(code, b"Z" * len(code)))


@pytest.mark.parametrize("box", [b"stsd", b"stbl", b"minf"])
def test_an_mp4_that_lost_the_description_of_its_video(whole, opened, box):
    """Without the box that names the codec there is no decoder."""
    with pytest.raises(BadRequest, match=UNKNOWN):
        opened("a.mp4", whole("h264.mp4").replace(box, b"free"))


def test_a_title_in_another_encoding(whole, opened, movies):
    """A title that is no UTF-8 is nobody's business: the video is read."""
    data = whole("h264.mp4").replace(b"isomiso2avc1mp41", b"iso\xffiso2avc1mp41")
    assert b"\xff" in data[:40]
    assert movies.number(opened("a.mp4", data).frame(7)) == 7


def test_a_cover_is_not_the_video(whole, movies, tmp_path, opened):
    """Of a file with a cover in front the film is read, as players show it."""
    cover, path = io.BytesIO(), tmp_path / "covered.mkv"
    Image.new("RGB", (320, 320), "red").save(cover, "JPEG")
    with (
        av.open(io.BytesIO(whole("h264.mp4"))) as reader,
        av.open(str(path), "w") as writer,
    ):
        shown = writer.add_stream("mjpeg")
        shown.width, shown.height, shown.pix_fmt = 320, 320, "yuvj420p"
        shown.disposition = Disposition.attached_pic
        film = writer.add_stream_from_template(reader.streams.video[0])
        picture = av.Packet(cover.getvalue())
        picture.pts, picture.dts, picture.time_base = 0, 0, Fraction(1, 10)
        picture.stream, picture.is_keyframe = shown, True
        writer.mux(picture)
        for packet in reader.demux(video=0):
            if packet.dts is not None:
                packet.stream = film
                writer.mux(packet)
    clip = opened("a.mkv", path.read_bytes())
    assert (clip.width, len(clip), movies.number(clip.frame(9))) == (80, COUNT, 9)


WALKS = {
    "forwards": range(24),
    "backwards": range(23, -1, -1),
    "at random": np.random.default_rng(3).permutation(24).tolist(),
}


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
@pytest.mark.parametrize("name", ["plain.mp4", "plain.ts", "mpeg4.mkv"])
@pytest.mark.parametrize(
    "damage",
    [(8, dict.fromkeys(range(8, 12), 12)), (20, dict.fromkeys(range(20, 24), 19))],
    ids=["in the middle", "at the end"],
)
def test_no_frame_is_guessed(movies, opened, tmp_path, name, damage, walk):
    """Whole frames, also up to the next key frame, replace what a decoder would conceal."""
    victim, others = damage
    coding = ("mpeg4", {}) if name == "mpeg4.mkv" else ("libx264", {"bf": "0"})
    path = movies.write(tmp_path / name, 24, coding[0], options=coding[1], size=(320, 256))
    data = path.read_bytes()
    clean = opened(name, data)
    frames = [clean.frame(number).copy() for number in range(24)]
    assert not any(map(clean.is_damaged, range(24)))
    clip = opened(f"damaged-{name}", movies.with_damage(data, victim))
    assert len(clip) == 24
    for number in walk:
        assert np.array_equal(clip.frame(number), frames[others.get(number, number)])
        assert clip.is_damaged(number) == (number in others)
