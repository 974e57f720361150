"""Binary PGM and PPM as arrays: Pillow reads most of them sample by sample."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from mataserver.errors import BadRequest
from mataserver.media import kinds
from mataserver.media.limits import check_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GAP = rb"(?:\s|#[^\n\r]*[\n\r])"
_NUMBER = _GAP + rb"+0*([1-9]\d{0,5})"
_HEAD = re.compile(rb"P([56])" + _NUMBER + _NUMBER + _NUMBER + rb"\s")
_WITHIN = 256
_CHANNELS = {b"5": 1, b"6": 3}
_MAX_HEADER = 4_096
_TOKENS = {**dict.fromkeys((b"P1", b"P4"), 2), **dict.fromkeys((b"P2", b"P3", b"P5", b"P6"), 3)}
"""How many numbers the head of each kind has."""
_TEXT = (b"P1", b"P2", b"P3")
MAX_TEXT_BYTES = 4_000_000
"""Pillow reads samples that are written as text one by one: a megabyte takes a quarter of a second,
or more."""
_EXTENSIONS = (b"P0", b"Pf", b"Py")
"""Magic numbers that Pillow takes besides: floating-point samples, and some for its own tests."""


def decode(data: bytes | memoryview, max_pixels: int) -> NDArray[np.uint8] | None:
    """Return the pixels of a binary PGM or PPM as RGB ``[H, W, 3]``; None for anything else.

    Samples are scaled from the file's maximum to 255. Raises ``BadRequest`` for a file that is too
    large or truncated. (https://netpbm.sourceforge.net/doc/ppm.html)
    """
    if bytes(data[:2]) not in {b"P5", b"P6"}:
        return None
    head = _HEAD.match(bytes(data[:_WITHIN]))
    if head is None:
        return None
    width, height, most = (int(head[i]) for i in (2, 3, 4))
    if most > 65_535:
        return None
    check_size(width, height, max_pixels)
    shape = (height, width, _CHANNELS[head[1]])
    kind = np.dtype(np.uint8 if most < 256 else ">u2")
    count = width * height * shape[2]
    if len(data) - head.end() < count * kind.itemsize:
        raise BadRequest("image cannot be decoded: it is truncated or damaged")
    samples = np.frombuffer(data, kind, count, head.end()).reshape(shape)
    pixels = _scaled(samples, most)
    return pixels if shape[2] == 3 else pixels.repeat(3, axis=2)


def check(data: bytes | memoryview) -> None:
    """Raise ``BadRequest`` for a head that has no end soon: Pillow reads it byte by byte.

    Also for over ``MAX_TEXT_BYTES`` of text, and for what Pillow takes for a file of this family
    and is none of P1 to P6.
    """
    if bytes(data[:2]) in _EXTENSIONS:
        raise BadRequest(kinds.refusal(data))
    tokens = _TOKENS.get(bytes(data[:2]), 0)
    if not tokens or len(data) <= _MAX_HEADER:
        return
    head = rb"P.(?:%b+[^\s#]+){%d}\s" % (_GAP, tokens)
    if not re.match(head, bytes(data[:_MAX_HEADER]), re.DOTALL):
        raise BadRequest(f"image cannot be decoded: its head has over {_MAX_HEADER} bytes")
    if bytes(data[:2]) in _TEXT and len(data) > MAX_TEXT_BYTES:
        raise BadRequest(
            f"image is too large: a PBM, PGM or PPM of text has at most {MAX_TEXT_BYTES} bytes; "
            "save it as a binary one"
        )


def _scaled(samples: NDArray[Any], most: int) -> NDArray[np.uint8]:
    """Scale samples from 0..``most`` to bytes, in a new array."""
    if most == 255:
        return samples.copy()
    levels = np.rint(np.arange(most + 1) * (255 / most)).astype(np.uint8)
    return np.take(levels, samples, mode="clip")  # samples over the maximum count as the maximum
