"""Photographs of every kind become upright JPEGs under plain names, with a way back."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from mataserver import BadRequest, decode_image
from mataserver_reconstruct import advice, intake, photos
from mataserver_reconstruct.spec import Limits, Spec

# Pillow warns of metadata and of sizes that the tests have damaged on purpose.
pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"
)

RNG = np.random.default_rng(5)
PIXELS = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (12, 16, 3), np.uint8)).resize((160, 120)), np.uint8
)
FOCAL = 28


def exif(orientation=1):
    """Return EXIF of a camera: its names, its focal length, how it was held."""
    made = Image.Exif()
    made[0x010F], made[0x0110], made[0x0112] = "Maker", "Model", orientation
    made.get_ifd(0x8769).update({0x920A: 4.2, 0xA405: FOCAL})
    return made


def encoded(kind, mode="RGB", **options):
    """Return a picture in a format."""
    out = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(out, kind, **options)
    return out.getvalue()


def heic():
    """Return a picture as a phone writes it."""
    out = io.BytesIO()
    made = pillow_heif.from_pillow(Image.fromarray(PIXELS))
    made.save(out, quality=90, exif=exif().tobytes())
    return out.getvalue()


def gigantic():
    """Return the header of a PNG of 60,000 by 60,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(4)


@pytest.fixture
def prepared(tmp_path):
    """Return a function that prepares the photographs of files, by name."""

    def prepare(files, **spec):
        job = SimpleNamespace(input=tmp_path / "in", work=tmp_path / "work")
        job.report = lambda *_: None
        for name, data in files.items():
            path = job.input / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        job.work.mkdir()
        found = photos.prepare(job, Spec(**spec))
        return found, job.work / "photos"

    return prepare


KINDS = {
    "a.jpg": encoded("JPEG", exif=exif()),
    "b.png": encoded("PNG"),
    "c.webp": encoded("WEBP", exif=exif()),
    "d.avif": encoded("AVIF", exif=exif()),
    "e.heic": heic(),
    "f.tif": encoded("TIFF"),
    "g.bmp": encoded("BMP"),
    "h.png": encoded("PNG", "RGBA"),
    "i.png": encoded("PNG", "P"),
    "j.jpg": encoded("JPEG", "CMYK"),
    "k.jpg": encoded("JPEG", "L"),
    "l.jpg": encoded("JPEG", progressive=True),
}


def test_every_format_becomes_a_jpeg(prepared):
    """Each format that phones and cameras write becomes a JPEG of three channels."""
    found, folder = prepared(KINDS)
    assert [photo.name for photo in found] == list(KINDS)
    for photo in found:
        assert not photo.problem, photo
        with Image.open(folder / photo.file) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (160, 120))
    assert len({photo.file for photo in found}) == len(KINDS)


@pytest.mark.parametrize("name", ["a.jpg", "c.webp", "d.avif", "e.heic"])
def test_the_focal_length_is_kept(name, prepared):
    """What EXIF tells of the focal length reaches the file that COLMAP reads, in any format."""
    (photo,), folder = prepared({name: KINDS[name]})
    assert photo.exif.focal_35 == FOCAL
    assert photo.exif.camera == "Maker Model 4.2 mm"
    with Image.open(folder / photo.file) as picture:
        assert picture.getexif().get_ifd(0x8769)[0xA405] == FOCAL


@pytest.mark.parametrize(("orientation", "size"), [(3, (160, 120)), (6, (120, 160))])
def test_photographs_are_upright(orientation, size, prepared):
    """A camera that was held otherwise is no matter: pixels are turned, the mark is gone."""
    data = encoded("JPEG", exif=exif(orientation), quality=95)
    (photo,), folder = prepared({"a.jpg": data})
    assert (photo.width, photo.height) == size
    with Image.open(folder / photo.file) as picture:
        assert 0x0112 not in picture.getexif()
        turned = np.asarray(picture, float)
    there = np.rot90(PIXELS, {3: 2, 6: 3}[orientation])
    assert np.abs(turned - there).mean() < 12


def test_a_plain_jpeg_is_kept_as_it_is(prepared):
    """A JPEG of which nothing changes is not coded again."""
    (photo,), folder = prepared({"a.jpg": KINDS["a.jpg"]})
    assert (folder / photo.file).read_bytes() == KINDS["a.jpg"]


def test_large_photographs_are_reduced(prepared):
    """A photograph is looked at in the size that is asked, and its own is told."""
    big = Image.fromarray(PIXELS).resize((1600, 1200))
    out = io.BytesIO()
    big.save(out, "JPEG", exif=exif())
    (photo,), _ = prepared({"a.jpg": out.getvalue()}, max_size=800)
    assert (photo.width, photo.height, photo.original) == (800, 600, (1600, 1200))


@pytest.mark.parametrize(("ending", "bits", "told"), [
    ("tif", 12, True), ("png", 12, True), ("TIFF", 10, True), ("tif", 16, False), ("tif", 0, False),
])  # fmt: skip
def test_few_bits_in_files_of_16_are_told(ending, bits, told, prepared):
    """Such a file is read as nearly black: its owner is told what may be wrong with it."""
    deep = np.round(PIXELS / 255.0 * (2**bits - 1)).astype(np.uint16)
    data = cv2.imencode(f".{ending.lower()}", deep)[1].tobytes()
    found, _ = prepared({f"a.{ending}": data})
    said = " ".join(advice.before(found, "auto"))
    assert ("hold 10 or 12 bits" in said) == told
    assert ("too dark" in said) == (bits < 16)


BAD = {
    "cut.jpg": (KINDS["a.jpg"][: len(KINDS["a.jpg"]) // 2], "truncated or damaged"),
    "cut.png": (KINDS["b.png"][:-200], "truncated or damaged"),
    "large.png": (gigantic(), "too large"),
    "text.jpg": (b"hello", "unknown format"),
    "document.jpg": (b"%PDF-1.7", "PDF"),
    "none.jpg": (b"", "empty"),
}


def test_a_bad_photograph_is_told_and_the_others_are_used(prepared):
    """A photograph that cannot be read says why; it does not end the job."""
    found, folder = prepared({name: data for name, (data, _) in BAD.items()} | KINDS)
    for photo in found:
        if photo.name in BAD:
            assert BAD[photo.name][1] in photo.problem
            assert not photo.file
        else:
            assert (folder / photo.file).exists()


def png_chunk(kind, body):
    """Return a part of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def segment(marker, body):
    """Return a part of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize(
    "part",
    [
        png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 2_000_000)),
        png_chunk(b"eXIf", b"garbage"),
        png_chunk(b"iCCP", b"x\0\0garbage"),
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe"),
    ],
    ids=["text", "exif", "profile", "jfif", "adobe"],
)
def test_metadata_that_cannot_be_read_cost_nothing(part, prepared):
    """A picture that can be decoded is used, whatever Pillow says of its metadata."""
    plain, at = (KINDS["b.png"], 33) if part[0] == 0 else (encoded("JPEG"), 2)
    found, _ = prepared({"a.jpg": plain[:at] + part + plain[at:], "b.jpg": KINDS["a.jpg"]})
    assert [(photo.width, photo.problem) for photo in found] == [(160, "")] * 2


def test_names_are_kept_apart(prepared):
    """Names that collide, or that no file system may like, are each found again."""
    names = ["x/001.jpg", "y/001.jpg", "ä ö 写真.jpg", "a\u0308.jpg", "ä.jpg", "A.JPG", "a.jpg"]
    found, folder = prepared(dict.fromkeys(names, KINDS["a.jpg"]))
    assert {photo.path for photo in found} == set(names)
    assert {photo.name for photo in found} >= {"x/001.jpg", "y/001.jpg", "ä ö 写真.jpg"}
    assert len({photo.name for photo in found}) == len(names)
    assert all(file.name.isascii() for file in folder.iterdir())


def test_order_is_that_of_people(prepared):
    """Photographs come in the order of their numbers."""
    found, _ = prepared({f"p{number}.jpg": KINDS["a.jpg"] for number in (10, 2, 1, 33)})
    assert [photo.name for photo in found] == ["p1.jpg", "p2.jpg", "p10.jpg", "p33.jpg"]


def test_the_order_of_an_archive_does_not_matter(prepared):
    """COLMAP's results depend on the order of its files: it is that of the names."""
    names = ["p10.jpg", "p2.jpg", "x/p1.jpg", "p1.JPG"]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for at, name in enumerate(names):
            archive.writestr(name, encoded("PNG", quality=90 + at))
    found, _ = prepared({"photos.zip": out.getvalue()})
    assert [photo.path for photo in found] == ["p1.JPG", "x/p1.jpg", "p2.jpg", "p10.jpg"]
    assert [photo.file for photo in found] == [f"{at:05d}.jpg" for at in range(4)]


def test_an_attempt_goes_on_behind_the_last_photograph(tmp_path, monkeypatch):
    """A killed attempt's photographs are not decoded again, unless a copy is not whole."""
    job = SimpleNamespace(input=tmp_path / "in", work=tmp_path / "work")
    job.input.mkdir()
    job.work.mkdir()
    for at in range(6):
        (job.input / f"{at}.png").write_bytes(encoded("PNG", quality=90 + at))
    (job.input / "2.png").write_bytes(b"no picture")
    decoded = []
    monkeypatch.setattr(photos, "decode_image", lambda *a: decoded.append(0) or decode_image(*a))

    def killed(_stage, at, *_):
        if at == 4:
            raise KeyboardInterrupt

    job.report = killed
    with pytest.raises(KeyboardInterrupt):
        photos.prepare(job, Spec(threads=1))
    with (job.work / "photos.jsonl").open("ab") as log:
        log.write(b'\n{"name":"4.png","pa')
    (job.work / "photos" / "00001.jpg").write_bytes(b"")
    job.report = lambda *_: None
    decoded.clear()
    found = photos.prepare(job, Spec(threads=1))
    assert len(decoded) == 3  # the emptied one, and the last two
    assert [bool(photo.file) for photo in found] == [True, True, False, True, True, True]
    assert photos.prepare(job, Spec(threads=1)) == found
    (job.work / "photos" / "00005.jpg").unlink()
    decoded.clear()
    assert photos.prepare(job, Spec(threads=1)) == found
    assert len(decoded) == 6


def test_archives_and_files_together(tmp_path):
    """Two archives with the same names in them, and a file beside them, are all read."""
    for name in ("one.zip", "two.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("a.jpg", KINDS["a.jpg"])
    (tmp_path / "b.jpg").write_bytes(b"b")
    sources, paths = intake.list_photos(tmp_path, Limits())
    assert paths == ["b.jpg", "one/a.jpg", "two/a.jpg"]
    assert list(intake.read(sources, Limits())) == [b"b", KINDS["a.jpg"], KINDS["a.jpg"]]


@pytest.mark.parametrize(
    ("names", "limits", "why"),
    [
        ([], Limits(), "no photograph"),
        (["notes.txt", "video.mp4"], Limits(), "no photograph"),
        (["a.jpg", "b.jpg"], Limits(max_images=1), "too many"),
    ],
)
def test_an_input_is_refused(names, limits, why, tmp_path):
    """An input without photographs, or with too many, is refused with the reason."""
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadRequest, match=why):
        intake.list_photos(tmp_path, limits)


@pytest.mark.parametrize(
    "damage",
    [
        b"Exif\0\0" + b"\xff" * 40,
        b"Exif\0\0II*\0" + struct.pack("<IH", 8, 65_535),
        b"Exif\0\0MM\0*" + bytes(20),
    ],
)
def test_damaged_exif_tells_nothing(damage, prepared):
    """EXIF that cannot be read is as none."""
    plain = encoded("JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", len(damage) + 2) + damage
    (photo,), _ = prepared({"a.jpg": plain[:2] + segment + plain[2:]})
    assert photo.file
    assert photo.exif.focal_35 == 0


@pytest.mark.parametrize(
    ("taken", "focal"),
    [((640, 480), 24), ((480, 640), 24), ((160, 120), 96), ((640, 360), 96), (None, 96)],
)
def test_the_focal_length_of_a_photograph_that_was_made_smaller(taken, focal, prepared):
    """A sensor of 24 mm keeps its pixels in the EXIF; a photograph that was cropped has its own."""
    made = Image.Exif()
    made.get_ifd(0x8769).update({0x920A: 16.0, 0xA20E: 640 / 24, 0xA210: 4})
    if taken is not None:
        made.get_ifd(0x8769).update({0xA002: taken[0], 0xA003: taken[1]})
    (photo,), _ = prepared({"a.jpg": encoded("JPEG", exif=made)})
    assert photo.exif.focal_35 == pytest.approx(focal, rel=1e-4)


@pytest.mark.parametrize("focal", [1, 3, 4_001, 65_535])
def test_a_focal_length_that_cannot_be_is_unknown(focal, prepared):
    """COLMAP would place none of the photographs, and reads the file of each by itself."""
    made = exif()
    made.get_ifd(0x8769)[0xA405] = focal
    (photo,), folder = prepared({"a.jpg": encoded("JPEG", exif=made)})
    assert (photo.exif.focal_35, photo.exif.camera) == (0, "Maker Model 4.2 mm")
    with Image.open(folder / photo.file) as picture:
        assert not picture.getexif().get_ifd(0x8769)


def test_enlarged_photographs_share_no_camera_with_others(prepared):
    """Of the same lens, and the same focal length in their EXIF: the picture was cut in the camera.

    0 and 1 say that it was not.
    """
    files = {}
    for zoom in (0, 1, 2):
        made = exif()
        made.get_ifd(0x8769)[0xA404] = float(zoom)
        files[f"{zoom}.jpg"] = encoded("JPEG", exif=made)
    none, whole, enlarged = prepared(files)[0]
    assert none.camera == whole.camera != enlarged.camera
    assert none.exif.focal_35 == enlarged.exif.focal_35


@pytest.mark.parametrize(
    ("zooms", "cameras"),
    [
        ((1, 1.0039, 1.0117, 1.02), 1),
        ((2, 2.0039, 1.9961, 2.0117), 1),
        ((1, 1.1, 1.5, 2, 2.1, 10, 10.5), 7),
    ],
)
def test_zooms_that_differ_by_thousandths_are_one_camera(prepared, zooms, cameras):
    """A phone may write another ratio for each photograph, which bends no model."""
    files = {}
    for at, zoom in enumerate(zooms):
        made = exif()
        made.get_ifd(0x8769)[0xA404] = float(zoom)
        files[f"{at}.jpg"] = encoded("JPEG", exif=made)
    assert len({photo.camera for photo in prepared(files)[0]}) == cameras


def test_the_place_is_read(prepared):
    """GPS becomes degrees and metres, south and west negative."""
    made = exif()
    made.get_ifd(0x8825).update({1: "S", 2: (33, 51, 30), 3: "W", 4: (70, 30, 0), 5: 0, 6: 12.5})
    (photo,), _ = prepared({"a.jpg": encoded("JPEG", exif=made)})
    assert photo.exif.gps == pytest.approx((-33.858333, -70.5, 12.5), abs=1e-5)


def test_names_are_sorted_as_people_do():
    """Numbers by their value, a name before those that go on from it, whatever the ending."""
    names = ["a10.jpg", "a2.PNG", "b/a.jpg", "a.webp", "A1.jpg", "v1.2.jpg", "v1.10.jpg", "a_1.jpg"]
    wanted = [
        "a.webp",
        "A1.jpg",
        "a2.PNG",
        "a10.jpg",
        "a_1.jpg",
        "b/a.jpg",
        "v1.2.jpg",
        "v1.10.jpg",
    ]
    assert sorted(names, key=intake.natural_key) == wanted
    long = [f"{digits}.jpg" for digits in ("1" + "0" * 5_000, "9" * 5_000, "8", "007")]
    assert sorted(long, key=intake.natural_key) == [*reversed(long)]
    arabic = ["\u0660\u0660\u0662.jpg", "\u0669.jpg", "\u0661\u0660.jpg"]  # 002, 9, 10
    assert sorted(sorted(arabic), key=intake.natural_key) == arabic


def test_a_power_failure_leaves_no_name_without_its_content(tmp_path, monkeypatch):
    """Else a later attempt would go on with an empty file, and fail like each after it."""
    done, fsync, replace = [], os.fsync, Path.replace

    def noted_sync(file):
        fsync(file)
        done.append(("on the disk", os.fstat(file).st_ino, os.fstat(file).st_size))

    def noted_replace(path, target):
        done.append(("named", path.stat().st_ino, path.stat().st_size))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    photos.write_atomically(tmp_path / "photos.json", b"[]")
    monkeypatch.undo()
    number = (tmp_path / "photos.json").stat().st_ino
    assert done == [("on the disk", number, 2), ("named", number, 2)]
