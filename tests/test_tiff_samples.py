"""TIFFs whose samples Pillow gives as they are: which is black, and how far is white.

Also those whose channels lie apart, in planes (PlanarConfiguration 2).
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from mataserver import media
from mataserver.errors import BadRequest

LIMIT = 1_000_000
SHADES = np.linspace(0, 255, 64).round().astype(np.uint8)
"""A row of what is to be seen."""


def tiff(samples: bytes, bits: int, *, white: int = 1, form: int = 1) -> bytes:
    """Return a TIFF of one grey row of 64: ``white`` is PhotometricInterpretation."""
    tags = {
        256: 64,  # width
        257: 1,  # height
        258: bits,
        259: 1,  # not compressed
        262: white,
        273: 8,  # where the row begins
        277: 1,  # samples of a pixel
        278: 1,  # rows of a strip
        279: len(samples),
        339: form,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(samples)) + samples + directory


def packed(shades: np.ndarray) -> bytes:
    """Return samples of 12 bits, two in three bytes."""
    wide = shades.astype(int) * 4095 // 255
    pairs = wide.reshape(-1, 2)
    return b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs)


def sixteen(shades: np.ndarray) -> bytes:
    """Return samples of 16 bits."""
    return (shades.astype("<u2") * 257).tobytes()


@pytest.mark.parametrize(
    ("bits", "write", "white"),
    [
        (8, np.ndarray.tobytes, 0),
        (8, np.ndarray.tobytes, 1),
        (12, packed, 1),  # Pillow reads no other
        (16, sixteen, 0),
        (16, sixteen, 1),
    ],
)
def test_black_is_black_in_every_depth(bits, write, white):
    """Samples of 8, 12 and 16 bits are spread to 0..255, and turned where their 0 is white."""
    stored = SHADES if white else 255 - SHADES
    decoded = media.decode(tiff(write(stored), bits, white=white), LIMIT)
    assert decoded.shape == (1, 64, 3)
    assert np.abs(decoded[0, :, 0].astype(int) - SHADES).max() <= 1


@pytest.mark.parametrize(
    ("bits", "form", "kind"), [(32, 1, "<u4"), (32, 2, "<i4"), (16, 2, "<i2"), (8, 2, "i1")]
)
def test_measurements_are_no_shades(bits, form, kind):
    """Samples of 32 bits or with a sign do not say what white is: they are refused, not black."""
    data = tiff((SHADES // 2).astype(kind).tobytes(), bits, form=form)
    with pytest.raises(BadRequest, match="32 bits or with a sign"):
        media.decode(data, LIMIT)


def planes(
    channels: list[np.ndarray], photometric: int, *, extra: int | None, deflated: bool, order: str
) -> bytes:
    """Return a TIFF of channels ``[h, w]`` stored one after the other; ``order`` is "<" or ">"."""
    height, width = channels[0].shape
    kind = channels[0].dtype.newbyteorder(order)
    strips = [channel.astype(kind).tobytes() for channel in channels]
    if deflated:
        strips = [zlib.compress(strip) for strip in strips]
    count = len(channels)
    lists = {
        258: [kind.itemsize * 8] * count,
        273: list(np.cumsum([8, *map(len, strips)])[:-1].tolist()),
        279: [len(strip) for strip in strips],
    }
    tags = {256: width, 257: height, 259: 8 if deflated else 1, 262: photometric}
    tags |= {277: count, 278: height, 284: 2} | ({} if extra is None else {338: extra})
    body, entries = b"".join(strips), []
    body += bytes(len(body) % 2)
    for tag, values in sorted([*lists.items(), *((tag, [value]) for tag, value in tags.items())]):
        written = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            at, body = 8 + len(body), body + written
            written = struct.pack(order + "I", at)
        entries.append(struct.pack(order + "HHI", tag, 4, len(values)) + written)
    directory = struct.pack(order + "H", len(entries)) + b"".join(entries) + bytes(4)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(order + "I", 8 + len(body)) + body + directory


NOISE = np.random.default_rng(5).integers(0, 256, (4, 6, 9), np.uint8)
"""Channels of 6x9 pixels."""


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("form", ["RGB", "RGBA", "CMYK"])
def test_planes_are_put_together(form, kind, order, deflated):
    """Each sample is its own channel's, in 8 and in 16 bits, compressed or not."""
    channels = [channel.astype(kind) * (257 if kind == np.uint16 else 1) for channel in NOISE]
    channels = channels[: len(form)]
    extra = 2 if form == "RGBA" else None
    data = planes(channels, 5 if form == "CMYK" else 2, extra=extra, deflated=deflated, order=order)
    whole = Image.merge(form, [Image.fromarray(channel) for channel in NOISE[: len(form)]])
    buffer = io.BytesIO()
    whole.save(buffer, "TIFF")
    expected = media.decode(buffer.getvalue(), LIMIT)
    assert np.abs(media.decode(data, LIMIT).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize(
    ("count", "photometric", "extra"), [(2, 1, 2), (2, 1, 1), (3, 8, None), (4, 2, None)]
)
def test_planes_that_would_be_misread_are_refused(count, photometric, extra, deflated):
    """Grey with alpha, L*a*b*, and a fourth channel of unknown meaning."""
    data = planes(list(NOISE[:count]), photometric, extra=extra, deflated=deflated, order="<")
    with pytest.raises(BadRequest, match="separate planes"):
        media.decode(data, LIMIT)


def pages(*marks: int | None, subfiles: bool = False) -> bytes:
    """Return a TIFF of a page for each NewSubfileType, 10 pixels wide, 20, and so on."""
    file = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(file) as whole:
        for number, mark in enumerate(marks, 1):
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            if mark is not None:
                tags[254] = mark
            if subfiles:
                tags[330] = 8
            Image.new("RGB", (10 * number, 5)).save(whole, format="TIFF", tiffinfo=tags)
            whole.newFrame()
    return file.getvalue()


@pytest.mark.parametrize(
    ("marks", "width"),
    [((None, None), 10), ((0, 0), 10), ((1, 0), 20), ((1, 1, 2), 30), ((1,), 10), ((1, 1), 10)],
)
def test_a_thumbnail_in_front_is_passed_over(marks, width):
    """The picture is the first page that is not marked as a reduced copy, if there is one."""
    assert media.decode(pages(*marks), LIMIT).shape == (5, width, 3)


def test_a_raw_photograph_is_refused():
    """What Pillow reads of a DNG is its thumbnail: boxes would be in the pixels of that."""
    with pytest.raises(BadRequest, match="raw photograph"):
        media.decode(pages(1, subfiles=True), LIMIT)
    assert media.decode(pages(0, subfiles=True), LIMIT).shape == (5, 10, 3)
