"""Masks: resizes a network's logits to the image's size, and encodes masks for transport.

A network returns a small grid. Resizing that to a photograph and encoding it are the most expensive
steps of a mask, so only the rectangle that can hold a true pixel is kept, and if it is small no
other is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import pybase64

from mataserver_sam.outlines import outlines

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bits = NDArray[np.bool_]
    Floats = NDArray[np.float32]
    Corners = tuple[int, int, int, int]
    Relative = tuple[float, float, float, float]

MaskFormat = Literal["rle", "coco", "png", "polygon"]

_MAX_BITS = 40
"""Of a run length: no mask has so many pixels."""
_SMALL_SHARE = 6
"""A rectangle of less than a sixth of the image is resized alone: OpenCV, which only resizes the
whole, is that much faster."""


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask of an image, stored as one rectangle; all outside of it is false.

    ``bits`` is the rectangle ``[h, w]``, ``top`` and ``left`` its position, ``size`` the image's
    (height, width).
    """

    bits: Bits
    top: int
    left: int
    size: tuple[int, int]

    @classmethod
    def from_pixels(cls, pixels: NDArray[Any]) -> Mask:
        """Return the mask of an array ``[H, W]``, true where it is not 0."""
        every: Bits = pixels.astype(bool, copy=False)
        height, width = every.shape
        return cls(every, 0, 0, (height, width)).tight()

    @classmethod
    def from_rle(cls, counts: str, size: tuple[int, int]) -> Mask:
        """Return the mask of a compressed run-length code; ``size`` is (height, width).

        Raises ``ValueError`` for an invalid code, or of another size.
        """
        height, width = size
        lengths = uncompressed(counts)
        # Python's integers: a sum of NumPy's wraps, and ``repeat`` then writes beyond its buffer.
        if min(lengths, default=0) < 0 or sum(lengths) != height * width:
            raise ValueError(f"the run lengths are not those of a mask of {width}x{height}")
        runs = np.array(lengths, np.int64)
        inside = np.arange(len(runs)) % 2 == 1
        return cls.from_pixels(np.repeat(inside, runs).reshape(width, height).T)

    def tight(self) -> Mask:
        """Return the same mask in the smallest rectangle."""
        rows, columns = (np.flatnonzero(self.bits.any(axis)) for axis in (1, 0))
        if not len(rows):
            return Mask(np.zeros((0, 0), bool), 0, 0, self.size)
        first, last, start, end = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        kept = self.bits[first:last, start:end]
        return Mask(kept, self.top + int(first), self.left + int(start), self.size)

    def full(self) -> Bits:
        """Return the mask as an array ``[H, W]``."""
        height, width = self.bits.shape
        every = np.zeros(self.size, bool)
        every[self.top : self.top + height, self.left : self.left + width] = self.bits
        return every

    @property
    def area(self) -> int:
        """The number of true pixels."""
        return int(np.count_nonzero(self.bits))

    def corners(self) -> Corners:
        """Return ``(x1, y1, x2, y2)`` around the true pixels; all 0 when there is none.

        A single pixel (x, y) has the corners (x, y, x + 1, y + 1).
        """
        tight = self.tight()
        height, width = tight.bits.shape
        if not height:
            return (0, 0, 0, 0)
        return (tight.left, tight.top, tight.left + width, tight.top + height)

    def box(self) -> Relative:
        """Return the box of the true pixels as ``(cx, cy, w, h)`` in 0..1 of the image."""
        height, width = self.size
        x1, y1, x2, y2 = self.corners()
        return (
            (x1 + x2) / 2 / width,
            (y1 + y2) / 2 / height,
            (x2 - x1) / width,
            (y2 - y1) / height,
        )

    def runs(self) -> NDArray[np.int64]:
        """Return the numbers of pixels that are false, then true, then false ... column by column.

        The first number may be 0, the others are not; their sum is the image's pixels.
        """
        height, width = self.size
        rows, columns = self.bits.shape
        if not self.bits.any():
            return np.array([height * width])
        # A false pixel above and below each column makes every run begin and end within its column.
        upright = np.zeros((columns, rows + 2), np.uint8)
        cv2.transpose(self.bits.view(np.uint8), upright[:, 1:-1])
        flat = upright.ravel()
        edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        column, row = np.divmod(edges, rows + 2)
        places = (self.left + column) * height + self.top + row - 1
        return _run_lengths(places[::2], places[1::2], height * width)

    def rle(self) -> str:
        """Return COCO's compressed run-length code: ``counts`` as text."""
        return compressed(self.runs())

    def coco(self) -> dict[str, Any]:
        """Return COCO's object: ``size`` (height, width) and ``counts``."""
        return {"size": list(self.size), "counts": self.rle()}

    def png(self) -> str:
        """Return an 8-bit PNG of 0 and 255 in base64."""
        _, encoded = cv2.imencode(
            ".png", self.full().astype(np.uint8) * 255, [cv2.IMWRITE_PNG_COMPRESSION, 1]
        )
        return pybase64.b64encode(encoded.tobytes()).decode("ascii")

    def polygons(self) -> list[list[float]]:
        """Return the outlines as ``[x1, y1, x2, y2, ...]`` in pixels; holes are ignored."""
        tight = self.tight()
        corner = np.array([tight.left, tight.top])
        return [(outline + corner).ravel().tolist() for outline in outlines(tight.bits)]

    def encode(self, form: MaskFormat) -> Any:
        """Return the mask in one of the API's formats."""
        if form == "rle":
            return self.rle()
        if form == "coco":
            return self.coco()
        return self.png() if form == "png" else self.polygons()


def _run_lengths(
    starts: NDArray[np.int64], ends: NDArray[np.int64], total: int
) -> NDArray[np.int64]:
    """Return the lengths of runs with these starts and ends; adjacent ones are joined."""
    apart = starts[1:] != ends[:-1]
    bounds = np.zeros(2 * (np.count_nonzero(apart) + 1) + 2, np.int64)
    bounds[1:-1:2] = np.concatenate((starts[:1], starts[1:][apart]))
    bounds[2:-1:2] = np.concatenate((ends[:-1][apart], ends[-1:]))
    bounds[-1] = total
    lengths = np.diff(bounds)
    return lengths if lengths[-1] else lengths[:-1]


def rle(pixels: NDArray[Any]) -> str:
    """Return the compressed run-length code of an array ``[H, W]``."""
    return Mask.from_pixels(pixels).rle()


def compressed(runs: NDArray[np.int64]) -> str:
    """Return COCO's text of run lengths (``rleToString`` of its maskApi.c).

    From the fourth on, a number is stored as the difference to the one two before it. Each is
    written in groups of five bits, the lowest first; 32 is added where another group follows, 48 to
    all.
    """
    rest = runs.astype(np.int64)
    rest[3:] -= runs[1:-2]
    groups = np.empty((len(rest), 13), np.uint8)
    used = np.zeros(len(rest), np.int64)
    going = np.ones(len(rest), bool)
    for column in range(groups.shape[1]):
        low = rest & 31
        rest = rest >> 5
        more = np.where(low & 16, rest != -1, rest != 0)
        groups[:, column] = np.where(more, low | 32, low) + 48
        used += going
        going = going & more
        if not going.any():
            break
    written = groups[np.arange(groups.shape[1]) < used[:, None]]
    return written.tobytes().decode("ascii")


def uncompressed(counts: str) -> list[int]:
    """Return the run lengths of COCO's text. Raises ``ValueError`` for an invalid text."""
    runs: list[int] = []
    value = shift = 0
    for letter in counts:
        group = ord(letter) - 48
        if not 0 <= group < 64 or shift > _MAX_BITS:
            raise ValueError("it is not a compressed run-length code")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            value -= (group & 16) << shift - 4  # the highest bit of the last group is the sign
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the run-length code ends too early")
    return runs


@dataclass(frozen=True, slots=True)
class _ResizeAxis:
    """One axis of a bilinear resize: for each output position both inputs and their weights."""

    below: NDArray[np.intp]
    above: NDArray[np.intp]
    weight_below: Floats
    weight_above: Floats
    start: int

    @classmethod
    def build(cls, count: int, size: int, first: int, last: int) -> _ResizeAxis:
        """Resize ``count`` inputs to ``size`` outputs: those that ``first`` to ``last`` affect.

        Centers map to centers, as in ``torch.nn.functional.interpolate`` without ``align_corners``.
        """
        ratio = np.float32(count) / np.float32(size)
        places = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * ratio - np.float32(0.5)
        places = np.maximum(places, np.float32(0))
        below = np.minimum(places.astype(np.intp), count - 1)
        above = np.minimum(below + 1, count - 1)
        reached = np.flatnonzero((above >= first) & (below <= last))
        # With fewer outputs than inputs, an input may affect none.
        part = slice(int(reached[0]), int(reached[-1]) + 1) if len(reached) else slice(0, 0)
        upper = (places - below.astype(np.float32))[part]
        return cls(below[part], above[part], np.float32(1) - upper, upper, part.start)


def resize_to_mask(values: Floats, size: tuple[int, int], threshold: float = 0.0) -> Mask:
    """Return where ``values`` ``[h, w]``, resized to ``size`` (H, W), exceed ``threshold``.

    Bilinear; the same pixels as resizing everything before the comparison.
    """
    held = values > threshold
    rows, columns = (np.flatnonzero(held.any(axis)) for axis in (1, 0))
    if not len(rows):
        return Mask(np.zeros((0, 0), bool), 0, 0, size)
    down = _ResizeAxis.build(values.shape[0], size[0], int(rows[0]), int(rows[-1]))
    along = _ResizeAxis.build(values.shape[1], size[1], int(columns[0]), int(columns[-1]))
    if not (len(down.below) and len(along.below)):
        return Mask(np.zeros((0, 0), bool), 0, 0, size)
    if len(down.below) * len(along.below) * _SMALL_SHARE > size[0] * size[1]:
        whole = cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
        part = whole[down.start :, along.start :][: len(down.below), : len(along.below)]
    else:
        part = _interpolate(values, down, along)
    return Mask(part > threshold, down.start, along.start, size)


def _interpolate(values: Floats, down: _ResizeAxis, along: _ResizeAxis) -> Floats:
    """Return one rectangle of the resized values, without computing the others."""
    top = int(down.below[0])
    lines = values[top : int(down.above[-1]) + 1]
    wide = lines.take(along.below, 1) * along.weight_below
    wide += lines.take(along.above, 1) * along.weight_above
    tall = wide.take(down.below - top, 0)
    tall *= down.weight_below[:, None]
    other = wide.take(down.above - top, 0)
    other *= down.weight_above[:, None]
    tall += other
    return tall
