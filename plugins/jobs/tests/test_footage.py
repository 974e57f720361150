"""What an ``infer`` job is given: its order, and what is refused of it."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile

import av
import numpy as np
import pytest
from av.stream import Disposition
from films import archive, picture, sound, video
from PIL import Image

from mataserver import BadRequest
from mataserver_jobs.item_sources import open_source


def test_a_video(tmp_path):
    """Frames come in order with their time, from any of them, and each so many."""
    source = open_source(video(tmp_path / "v.mp4", 10))
    assert source.total == 10
    times = [item.time for item in source.items(0, 1)]
    assert times == pytest.approx([number / 25 for number in range(10)])
    assert [item.time for item in source.items(4, 1)] == times[4:]
    assert [item.time for item in source.items(1, 3)] == times[3::3]
    assert not source.is_damaged


def jpegs(path, *sides):
    """Write a video whose frames are JPEGs of these sizes; it says that it is as the first."""
    frames = []
    for side in sides:
        buffer = io.BytesIO()
        Image.new("L", (side, side)).save(buffer, "JPEG")
        frames.append(buffer.getvalue())
    size = (sides[0], sides[0])
    head = struct.pack("<4sHH4sHHIII4x", b"DKIF", 0, 32, b"MJPG", *size, 25, 1, len(frames))
    parts = [struct.pack("<IQ", len(data), at) + data for at, data in enumerate(frames)]
    path.write_bytes(head + b"".join(parts))
    return path


def test_a_frame_that_is_larger_than_the_first(tmp_path, monkeypatch):
    """The size that a video tells is not that of each frame: one that is too large is left out."""
    monkeypatch.setattr("mataserver_jobs.item_sources.MAX_PIXELS", 200 * 200)
    source = open_source(jpegs(tmp_path / "v.ivf", 64, 80, 640, 64))
    sizes = [Image.open(io.BytesIO(item.image)).size for item in source.items(0, 1)]
    assert (sizes, source.is_damaged) == ([(64, 64), (80, 80), (64, 64)], True)


def test_pictures(tmp_path):
    """A folder and a ZIP give the pictures in the natural order of their names."""
    names = ["b10.png", "b9.png", "a.png", ".hidden", "__MACOSX/x.png"]
    for name in names[:4]:
        (tmp_path / name).write_bytes(picture())
    entries = [(name, picture()) for name in names] + [("folder/", b"")]
    zipped = archive(tmp_path / ".v.zip", entries)
    os.close(os.open(os.fsencode(tmp_path) + b"/c\xff", os.O_CREAT))
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    for path, more in ((tmp_path, ["c\ufffd"]), (zipped, [])):
        source = open_source(path)
        found = [item.file for item in source.items(0, 1)]
        assert found == ["a.png", "b9.png", "b10.png", *more]
        assert [item.file for item in source.items(2, 1)] == found[2:]


def linked():
    """Return an entry that is a link."""
    info = zipfile.ZipInfo("link.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("entry", "data", "reason"),
    [
        ("../up.png", b"x", r"\.\./up\.png: its name leads out of the ZIP file"),
        ("a/../../up.png", b"x", "leads out"),
        ("/etc/passwd", b"x", "/etc/passwd: its name leads out"),
        ("..\\up.png", b"x", "leads out"),
        ("c:\\up.png", b"x", "leads out"),
        (linked(), b"/etc/passwd", r"link\.png: it is a link"),
        ("bomb.png", bytes(20_000_000), r"bomb\.png: it would take 20000000 bytes"),
    ],
)
def test_archives_that_are_refused(tmp_path, entry, data, reason):
    """A name that leads elsewhere, a link and a bomb are refused with the entry's name."""
    zipped = archive(tmp_path / "v.zip", [("good.png", picture()), (entry, data)])
    with pytest.raises(BadRequest, match=reason):
        open_source(zipped)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_how_what_is_not_read_is_packed(tmp_path, method):
    """Folders and the files of systems may be packed by any method; what is read may not."""
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as made:
        for name in ("a/", "a/.DS_Store", "__MACOSX/a/._b.png"):
            made.writestr(name, b"", method)
        made.writestr("a/b.png", picture())
    assert [item.file for item in open_source(tmp_path / "v.zip").items(0, 1)] == ["a/b.png"]
    with zipfile.ZipFile(tmp_path / "v.zip", "a") as made:
        made.writestr("a/c.png", picture(), method)
    with pytest.raises(BadRequest, match=r"a/c\.png: it is packed by a method"):
        open_source(tmp_path / "v.zip")


@pytest.mark.parametrize("size", [4_096, 4_100, 65_532])
def test_extra_fields_are_counted_before_they_are_read(tmp_path, size):
    """Each empty one has all behind it copied: 2 MB of them took two seconds."""
    entry = zipfile.ZipInfo("a.png")
    entry.extra = struct.pack("<HH", 0x9999, 0) * (size // 4)
    zipped = archive(tmp_path / "v.zip", [(entry, picture())])
    if size <= 4_096:
        assert open_source(zipped).total == 1
        return
    with pytest.raises(BadRequest, match="over 4096 bytes of extra fields"):
        open_source(zipped)


def test_entries_are_counted_before_they_are_read(tmp_path, monkeypatch):
    """An archive of too many is refused by its directory."""
    zipped = archive(tmp_path / "v.zip", [(f"{at}.png", picture()) for at in range(3)])
    assert open_source(zipped).total == 3
    monkeypatch.setattr("mataserver_jobs.item_sources.MAX_PICTURES", 2)
    monkeypatch.setattr("zipfile.ZipFile", None)
    with pytest.raises(BadRequest, match="over 2 entries"):
        open_source(zipped)


def test_names_of_thousands_of_digits(tmp_path):
    """Python reads no such number; the archive is read, and numbers are sorted by their value."""
    names = ["9" * 5_000, "1" + "0" * 5_000, "10", "9", "008", "0"]
    zipped = archive(tmp_path / "v.zip", [(f"{name}.png", picture()) for name in names])
    shown = [item.file.partition(".")[0] for item in open_source(zipped).items(0, 1)]
    assert shown == ["0", "008", "9", "10", *names[:2]]


def test_an_encrypted_archive(tmp_path):
    """A picture that needs a password is refused by name."""
    zipped = archive(tmp_path / "v.zip", [("a.png", picture())])
    data = bytearray(zipped.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    zipped.write_bytes(data)
    with pytest.raises(BadRequest, match=r"a\.png: it is encrypted"):
        open_source(zipped)


def test_a_damaged_entry(tmp_path):
    """One damaged picture of a ZIP has an error; the others are given."""
    zipped = archive(tmp_path / "v.zip", [("a.png", b"q" * 50 + picture()), ("b.png", picture())])
    data = bytearray(zipped.read_bytes())
    data[40:50] = b"\xff" * 10
    zipped.write_bytes(data)
    first, second = open_source(zipped).items(0, 1)
    assert first.error == "it is damaged in the ZIP file"
    assert second.image == picture()


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("x", b"", "is empty"),
        ("x", b"nonsense" * 100, "no video"),
        ("x.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts\n#EXT-X-ENDLIST\n", "no video"),
        ("x.ffconcat", b"ffconcat version 1.0\nfile /etc/passwd\n", "no video"),
        ("x.png", picture(), "a single picture"),
        ("x.zip", b"PK\x05\x06" + bytes(18), "no pictures"),
    ],
)
def test_what_is_no_footage(tmp_path, name, data, reason):
    """Nonsense, playlists, one picture and an empty ZIP are refused."""
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BadRequest, match=reason):
        list(open_source(path).items(0, 1))


def test_a_video_without_pictures(tmp_path):
    """Sound alone is refused, and so is an empty folder."""
    with pytest.raises(BadRequest, match="it holds no video"):
        open_source(sound(tmp_path / "s.mp4"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match="no pictures"):
        open_source(tmp_path / "empty")


def test_a_video_of_an_unknown_codec(tmp_path):
    """What nothing here decodes has no width, and is refused as such."""
    path = video(tmp_path / "v.mov", 5)
    data = path.read_bytes()
    (codec,) = [each for each in (b"avc1", b"mp4v") if each in data]
    path.write_bytes(data.replace(codec, b"zzzz"))
    with pytest.raises(BadRequest, match="coded in an unknown way"):
        open_source(path)


def test_the_film_and_not_its_cover(tmp_path):
    """Of several streams it is the one that players show, and a title may be in any encoding."""
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "A title"
        cover, video_parts = (container.add_stream("mpeg4", rate=10) for _ in range(2))
        cover.width, cover.height, video_parts.width, video_parts.height = 32, 32, 96, 64
        video_parts.disposition = Disposition.default
        for stream, count in ((cover, 1), (video_parts, 7)):
            for _ in range(count):
                pixels = np.zeros((stream.height, stream.width, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"A title", b"\xff\xfe\xe9\xe8\xfc\xf6\xe4"))
    assert sum(1 for _ in open_source(path).items(0, 1)) == 7


def test_a_truncated_video(tmp_path):
    """Of a video that was cut off what is there is given, the same each time."""
    path = video(tmp_path / "v.ts", 50, "mpegts")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    source = open_source(path)
    times = [item.time for item in source.items(0, 1)]
    assert 0 < len(times) < 50
    assert [item.time for item in source.items(5, 1)] == times[5:]
    cut = video(tmp_path / "v.mp4", 50)
    cut.write_bytes(cut.read_bytes()[:-500])  # the index stands at the end
    with pytest.raises(BadRequest, match="no video"):
        open_source(cut)


def test_a_damaged_video(tmp_path):
    """Of a video with a hole the whole frames are given, and the damage is told."""
    path = video(tmp_path / "v.mp4", 50)
    whole = path.read_bytes()
    begin = whole.index(b"mdat")
    size = int.from_bytes(whole[begin - 4 : begin])
    counts = []
    for share in (0.75, 0.5):  # in a frame behind, and in the one that all others refer to
        data, hole = bytearray(whole), begin + int(share * size)
        data[hole : hole + size // 6] = b"\xff" * (size // 6)
        path.write_bytes(data)
        source = open_source(path)
        counts.append(sum(1 for _ in source.items(0, 1)))
        assert source.is_damaged
    assert 0 < counts[0] < 50
    assert counts[1] == 0


def test_times_of_reordered_frames(tmp_path):
    """An AVI numbers its packets: the frames of one with B-frames are told in order."""
    path = tmp_path / "v.avi"
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=25, options={"bf": "3"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        noise = np.random.default_rng(0)
        for _ in range(20):
            pixels = noise.integers(0, 255, (64, 96, 3), np.uint8)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        made.mux(stream.encode(None))
    times = [item.time for item in open_source(path).items(0, 1)]
    assert times == pytest.approx([number / 25 for number in range(20)])
