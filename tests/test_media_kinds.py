"""Pictures of phones are read, and files that are no picture are told what they are."""

from __future__ import annotations

import io
import struct
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from conftest import picture
from mataserver import media
from mataserver.errors import BadRequest
from mataserver.media import kinds

LIMIT = 1_000_000
ORIENTATION = 0x0112
RESOLUTION_UNIT = 0x0128
FTYP = b"\0\0\0\x18ftyp"
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def upright() -> np.ndarray:
    """Return a grey picture of 64x48 with a red box at (10, 8, 30, 28)."""
    image = Image.new("RGB", (64, 48), (60, 60, 60))
    image.paste((255, 0, 0), (10, 8, 30, 28))
    return np.asarray(image)


def stored(orientation: int, form: str) -> bytes:
    """Return the upright picture as a phone stores it: turned, with what turns it back."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright())))
    buffer = io.BytesIO()
    if form == "HEIC":  # the box that turns it is written from EXIF, which keeps its tag as well
        pillow_heif.from_pillow(image).save(buffer, quality=95, exif=exif.tobytes())
    else:
        image.save(buffer, form, quality=95, exif=exif.tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["HEIC", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_a_phones_picture_is_turned_once(orientation, form):
    """A HEIC or AVIF with its own turn and EXIF's comes back upright."""
    decoded = media.decode(stored(orientation, form), LIMIT)
    assert decoded.shape == (48, 64, 3)
    rows, columns = np.nonzero((decoded[:, :, 0] > 180) & (decoded[:, :, 1] < 100))
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.subtract(found, (10, 8, 30, 28))).max() <= 1


def saying(orientation: int, form: str, *, turned: int) -> bytes:
    """Return a picture whose container is turned one way, and whose EXIF says another."""
    data = stored(turned, form)
    if form == "HEIC":
        given, tag = turned, ORIENTATION
    else:  # Pillow takes the orientation out of the EXIF of an AVIF: another tag becomes it
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[ORIENTATION], exif[RESOLUTION_UNIT] = turned, orientation
        image = Image.fromarray(np.ascontiguousarray(STORED[turned](upright())))
        image.save(buffer, form, quality=95, exif=exif.tobytes())
        data, given, tag = buffer.getvalue(), orientation, RESOLUTION_UNIT
    (order,) = [each for each in ("little", "big") if entry(tag, given, each) in data]
    return data.replace(entry(tag, given, order), entry(ORIENTATION, orientation, order))


def entry(tag: int, value: int, order: str) -> bytes:
    """Return an entry of TIFF's directory: one number of 16 bits."""
    shorts = (tag, 3), (value,)
    first, last = (b"".join(each.to_bytes(2, order) for each in some) for some in shorts)
    return first + (1).to_bytes(4, order) + last


@pytest.mark.parametrize("form", ["HEIC", "AVIF"])
@pytest.mark.parametrize("turned", STORED)
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_container_counts_and_not_its_exif(orientation, turned, form):
    """ISO/IEC 23008-12: a HEIC or AVIF is turned by its boxes alone, whatever EXIF says."""
    decoded = media.decode(saying(orientation, form, turned=turned), LIMIT)
    assert decoded.shape == (48, 64, 3)
    assert decoded[18, 20, 0] > 180
    assert decoded[18, 20, 1] < 100
    assert decoded[40, 50].max() < 100


@pytest.mark.parametrize("form", ["HEIC", "AVIF"])
def test_a_phones_picture_is_checked_like_any_other(form):
    """Its header's size counts, and a cut one says so."""
    data = stored(1, form)
    with pytest.raises(BadRequest, match="too large: 64x48 pixels, at most 100"):
        media.decode(data, 100)
    damaged = rf"truncated|it is an? {form} picture that is damaged|a frame's size was not found"
    with pytest.raises(BadRequest, match=damaged):
        media.decode(data[: len(data) // 2], LIMIT)


def heads():
    """Return beginnings of files, and what is said of each."""
    spaces = b" " * 3000
    return [
        (b"%PDF-1.7\n", "it is a PDF: send its pages as JPEG or PNG"),
        (b"\r\n\r\n%PDF-1.4", "it is a PDF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG drawing: send it as PNG"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- made --><svg>", "it is an SVG drawing"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (FTYP + b"isom\0\0\2\0isomiso2mp41", "it is a video: send one frame of it"),
        (FTYP + b"qt  \0\0\0\0qt  ", "it is a video"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "it is a video"),
        (b"\x1a\x45\xdf\xa3\x01", "it is a video"),
        (b"RIFF\0\0\1\0AVI LIST", "it is a video"),
        (b"\x00\x00\x01\xba\x44", "it is a video"),
        ((b"\x47" + bytes(187)) * 3, "it is a video"),
        (FTYP + b"crx \0\0\0\1crx isom", "it is a camera's raw file"),
        (b"\xff\x0a\xfa\x1f", "it is a JPEG XL picture: send it as JPEG or PNG"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "it is a JPEG 2000 picture"),
        (b"8BPS\0\1", "it is a Photoshop document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it is a PostScript drawing"),
        (b"\0\0\1\0\1\0", "it is an icon"),
        (b"data:image/png;base64,iVBORw0KGgo", "it is base64 text"),
        (b"/9j/4AAQSkZJRg", "it is base64 text"),
        (b"hello", "unknown format or broken header"),
        (spaces, "unknown format or broken header"),
        (bytes(1000), "unknown format or broken header"),
    ]


@pytest.mark.parametrize(("data", "said"), heads())
def test_what_a_file_is_and_what_to_do(data, said):
    """The sentence names the file's sort, what to do about it, and the formats that are read."""
    with pytest.raises(BadRequest) as refused:
        media.decode(data, LIMIT)
    assert refused.value.detail.startswith(f"image cannot be decoded: {said}")
    assert "JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP, TIFF and PPM are read" in refused.value.detail


def test_without_the_extra_a_heic_says_so(monkeypatch):
    """A server without pi-heif names the extra, and does not list HEIC among what it reads."""
    monkeypatch.setattr(sys, "path", [])  # nothing is found that was not imported before
    monkeypatch.delitem(sys.modules, "pi_heif", raising=False)
    assert not kinds.reads_heif()
    with pytest.raises(BadRequest, match=r"it is a HEIC picture.*mataserver\[heic\]") as refused:
        media.decode(stored(1, "HEIC"), LIMIT)
    assert "AVIF, GIF, BMP, TIFF and PPM are read" in refused.value.detail


def tiff(width, height, data, *tags, colours=b""):
    """Return an uncompressed TIFF of one strip, with further ``tags`` and a palette."""
    end = 8 + len(data)
    plain = ((256, width), (257, height), (259, 1), (273, 8), (278, height), (279, len(data)))
    entries = [(tag, 4, 1, value) for tag, value in plain]
    entries += [(320, 3, len(colours) // 2, end)] if colours else []
    entries = sorted([*entries, *tags])
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = struct.pack("<4sI", b"II*\0", end + len(colours))
    return head + data + colours + struct.pack("<H", len(entries)) + directory + bytes(4)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("factor", [1, 256, 257])
def test_a_tiffs_palette_has_16_bits_or_8(depth, factor):
    """Colours of 8 bits are read as such; as 16 bits they would all be black."""
    count, width = 1 << depth, 16
    palette = np.random.default_rng(depth).integers(0, 256, (count, 3))
    palette[0] = 255
    indices = np.arange(width * 4) * 7 % count
    bits = "".join(f"{each:0{depth}b}" for each in indices)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big")
    colours = (palette.T * factor).astype("<u2").tobytes()
    tags = ((258, 3, 1, depth), (262, 3, 1, 3), (277, 3, 1, 1))
    found = media.decode(tiff(width, 4, data, *tags, colours=colours), LIMIT)
    assert np.array_equal(found, palette[indices].reshape(4, width, 3))


def test_a_tiff_whose_subsampling_is_not_told():
    """By default a pair of colours stands for four pixels; of more the file must say so."""
    whole = np.asarray(Image.fromarray(upright()).convert("YCbCr"))
    quads = whole.reshape(24, 2, 32, 2, 3).transpose(0, 2, 1, 3, 4)
    light = quads[..., 0].reshape(24, 32, 4)
    shared = quads[..., 1:].reshape(24, 32, 4, 2).mean(axis=2).round().astype(np.uint8)
    tags = ((258, 3, 1, 8), (262, 3, 1, 6), (277, 3, 1, 3))
    usual = media.decode(tiff(64, 48, np.concatenate([light, shared], 2).tobytes(), *tags), LIMIT)
    assert np.abs(usual.astype(int) - upright()).max() < 4
    told = (530, 3, 2, 1 | 1 << 16)
    full = media.decode(tiff(64, 48, whole.tobytes(), *tags, told), LIMIT)
    assert np.abs(full.astype(int) - upright()).max() < 4
    with pytest.raises(BadRequest, match="how its colours are subsampled"):
        media.decode(tiff(64, 48, whole.tobytes(), *tags), LIMIT)


def test_a_jpeg_without_a_frame():
    """Neither its size nor its colours are told: it is refused as damaged, not as a failure."""
    data = picture(form="JPEG")
    at = data.index(b"\xff\xc0")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    with pytest.raises(BadRequest, match="image cannot be decoded"):
        media.decode(data[:at] + data[end:], LIMIT)
