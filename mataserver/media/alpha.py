"""Composition of transparent pictures on a background."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver.config import Alpha

MORE = 3
"""How many times what the other background hides the requested one hides to be exchanged for it."""
FLAT = 24
"""How many levels, of 256, a pixel differs from the background at least to be seen on it."""
PLAIN = 64
"""How many levels it differs from the other one to be seen there as well, if not better."""
_SEEN_PIXELS = 1 << 20
"""About how many pixels a picture is reduced to before that is looked for."""
_SWEEPS = 4
"""How often what is seen spreads in a part; once is enough for a card."""
_GROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0)}
_OTHER: dict[Alpha, Alpha] = {"white": "black", "black": "white"}
_WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})
_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}  # a HEIF's colours, a TIFF's grey
_PNG_DEPTH = 24  # offset of IHDR's bit depth


def is_transparent(picture: Image.Image) -> bool:
    """Whether a loaded picture has an alpha channel that counts, or a transparent colour.

    Windows writes BMPs whose alpha is 0 everywhere, and shows them as opaque.
    """
    if picture.format == "BMP" and picture.mode == "RGBA":
        return picture.getchannel("A").getbbox() is not None
    return picture.mode in _WITH_ALPHA or "transparency" in picture.info


def framed(picture: Image.Image) -> Image.Image:
    """Return a loaded GIF whose first frame leaves a part of the canvas empty as ``RGBA``.

    Others are returned as they are. Pillow fills that part with the first colour of the palette,
    unless a colour is transparent; browsers leave it transparent.
    """
    frame = getattr(picture, "dispose_extent", None)
    whole = (0, 0, *picture.size)
    if picture.format != "GIF" or "transparency" in picture.info or frame in {None, whole}:
        return picture
    cover = Image.new("L", picture.size, 0)
    cover.paste(255, frame)
    layers = picture.convert("RGB")
    layers.putalpha(cover)
    return layers


def opaque(picture: Image.Image, alpha: Alpha, *, legible: bool) -> Image.Image:
    """Return the RGB composition of an 8-bit picture with alpha, ``RGBA`` or ``LA``.

    ``legible`` uses the opposite background if the requested one hides far more, such as white
    letters, also beside a coloured mark.
    """
    colours, cover = picture.convert("RGB"), picture.getchannel("A")
    if alpha == "drop" or cover.getextrema() == (255, 255):
        return colours
    found = _over(colours, cover, alpha)
    if legible and _hides_more(found, cover, alpha):
        return _over(colours, cover, _OTHER[alpha])
    return found


def layered(picture: Image.Image, depth: int) -> Image.Image:
    """Return a transparent picture of at most 8 bits per sample as ``RGBA`` or ``LA``.

    ``depth`` is the file's bits per sample. A transparent colour is in that range, whereas Pillow
    has scaled the samples to 8 bits.
    """
    if picture.mode in _PREMULTIPLIED:
        return picture.convert(_PREMULTIPLIED[picture.mode])
    if picture.mode in _WITH_ALPHA - {"PA"}:
        return picture
    clear = picture.info.get("transparency")
    if picture.mode in {"1", "L"} and depth != 8:
        picture.info["transparency"] = _widened(int(clear or 0), depth)
    return picture.convert("RGBA")


def keyed(picture: Image.Image, data: bytes | memoryview) -> Image.Image:
    """Return a loaded PNG of 16-bit RGB with a transparent colour as ``RGBA``.

    Pillow keeps the high byte of each sample, and many colours share the high bytes of the
    transparent one. So the low bytes are read too.
    """
    low = Image.open(io.BytesIO(data), formats=("PNG",))
    low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
    cover = np.zeros(picture.size[::-1], np.uint8)
    for band, sample in enumerate(picture.info["transparency"]):
        for half, byte in ((picture, sample >> 8), (low, sample & 0xFF)):
            cover[np.asarray(half.getchannel(band)) != byte] = 255
    return Image.merge("RGBA", (*picture.split(), Image.fromarray(cover)))


def layered_grey(samples: NDArray[Any], grey: NDArray[np.uint8], clear: int | None) -> Image.Image:
    """Return grey pixels as ``LA``: those whose 16-bit sample is ``clear`` are transparent."""
    cover = np.where(samples == clear, np.uint8(0), np.uint8(255))
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(cover)))


def depth_of(picture: Image.Image, data: bytes | memoryview) -> int:
    """Return the bits per sample in which the file gives its transparent colour."""
    return int(data[_PNG_DEPTH]) if picture.format == "PNG" and len(data) > _PNG_DEPTH else 8


def _widened(sample: int, depth: int) -> int:
    """Scale a sample to 8 bits. Of one bit, Pillow (below 12) may or may not have scaled it."""
    if depth == 1:
        return 255 if sample else 0
    return sample * 255 // ((1 << depth) - 1)


def _over(colours: Image.Image, cover: Image.Image, alpha: Alpha) -> Image.Image:
    ground = Image.new("RGB", colours.size, _GROUNDS[alpha])
    ground.paste(colours, mask=cover)
    return ground


def _hides_more(found: Image.Image, cover: Image.Image, alpha: Alpha) -> bool:
    """Whether the background of a composition hides far more than the other one would."""
    factor = max(1, math.isqrt(found.width * found.height // _SEEN_PIXELS))
    levels = np.asarray(found.convert("L").reduce(factor), np.int16)
    shares = np.asarray(cover.reduce(factor), np.int16)
    part = shares >= FLAT
    here = np.abs(levels - _GROUNDS[alpha][0])
    hidden = _hidden(part, here >= FLAT)
    if not hidden:
        return False
    there = shares - here  # the ends of the range are the cover apart
    return hidden > MORE * _hidden(part, (there >= PLAIN) | (there > here))


def _hidden(part: NDArray[np.bool_], seen: NDArray[np.bool_]) -> int:
    """Return in how many runs of a row or a column nothing is seen, of parts that are hidden whole.

    A white card with text is seen on white, too: its text is. So a part, which is what hangs
    together, is hidden if nothing in it is seen; its outline alone would be nothing to read.
    """
    seen = seen & part
    for _ in range(_SWEEPS):
        before = np.count_nonzero(seen)
        seen, rows = _spread(seen, part)
        turned, columns = _spread(seen.T, part.T)
        seen = turned.T
        if not columns:
            return 0
        if np.count_nonzero(seen) == before:
            break
    return rows + columns


def _spread(seen: NDArray[np.bool_], part: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Let what is seen cover the run of its row; return that, and how many runs have nothing."""
    cells = np.pad(part, ((0, 0), (1, 0)))  # no run goes on in the next row
    runs = np.cumsum(cells[:, 1:] & ~cells[:, :-1], dtype=np.int32).reshape(part.shape)
    is_seen = np.zeros(int(runs[-1, -1]) + 1, bool)
    is_seen[runs[seen]] = True
    return is_seen[runs] & part, is_seen.size - 1 - int(is_seen.sum())
