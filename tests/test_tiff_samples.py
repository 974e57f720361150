"""TIFFs whose samples Pillow gives as they are: which is black, and how far is white."""

from __future__ import annotations

import struct

import numpy as np
import pytest

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
