"""Encoding of masks as PNG, for results."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from zlib_ng import zlib_ng

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PNG_START, _GREY = b"\x89PNG\r\n\x1a\n", 0


def grey(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert a boolean mask to an array of 0 and 255, whatever byte represents True."""
    inside: NDArray[np.bool_] = np.asarray(mask, dtype=bool).view(np.uint8) != 0
    return np.negative(inside.view(np.uint8))


def encode_png(mask: NDArray[Any]) -> bytes:
    """Encode a boolean mask ``[H, W]`` as an 8-bit grey PNG of 0 and 255 (W3C, PNG, 3rd edition).

    Uses unfiltered rows and run-length matching: for masks that is smaller than a general-purpose
    encoder's output, in a tenth of the time. Raises ``ValueError`` for an empty mask or another
    shape.
    """
    pixels = grey(mask)
    height, width = pixels.shape
    if not pixels.size:
        raise ValueError(f"a mask of {width}x{height} pixels")
    rows = np.zeros((height, width + 1), np.uint8)  # each row starts with its filter type: 0, none
    rows[:, 1:] = pixels
    runs = zlib_ng.compressobj(1, zlib_ng.DEFLATED, strategy=zlib_ng.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8, _GREY, 0, 0, 0)
    packed = runs.compress(rows) + runs.flush()
    chunks = ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    return _PNG_START + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib_ng.crc32(data, zlib_ng.crc32(kind))
    return b"".join((len(data).to_bytes(4, "big"), kind, data, check.to_bytes(4, "big")))
