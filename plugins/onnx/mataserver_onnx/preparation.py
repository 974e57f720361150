"""How an image becomes a network's input, and how coordinates are mapped back.

Values are looked up: a resized image holds bytes, so scaling and normalising are a table of 256
numbers per channel, computed once with the arithmetic that transformers uses for each pixel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from mataserver import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Size = tuple[int, int]
    Pixels = NDArray[np.uint8]
    Tensor = NDArray[np.float32]

GREY = 114
"""The value of a letterbox's bars, as in YOLO's training."""

_PROBE_SIZES = ((300, 400), (400, 300))
"""Two image sizes that show whether a plan's result depends on the image."""

_LONGEST = 8
"""How many times the pixels of a usual image any image may be enlarged to."""


class Placement(NamedTuple):
    """The position of an image in a network's input.

    ``x_input = left + x_image * scale_x``, and so for ``y``; ``size`` is the image's (height,
    width) and ``input_size`` the input's.
    """

    size: Size
    input_size: Size
    scale_x: float
    scale_y: float
    left: float = 0.0
    top: float = 0.0

    def to_image(self, boxes: Tensor) -> Tensor:
        """Map boxes ``[n, 4]`` (x1, y1, x2, y2) of the input to the image's pixels."""
        offset = np.array([self.left, self.top] * 2, np.float32)
        scale = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        undone: Tensor = (boxes - offset) / scale
        return undone


class Geometry(NamedTuple):
    """The steps for an image of one size: resize, then crop or pad to ``crop``.

    ``rounded``: an odd number of excess pixels is split as torchvision does, where half a pixel is
    rounded to even; else the smaller part is removed above and on the left.
    """

    resize: Size
    crop: Size | None = None
    rounded: bool = False


class Preparation:
    """Prepares the inputs of one network."""

    def __init__(
        self,
        plan: Callable[[int, int], Geometry],
        table: Tensor,
        *,
        resample: int = Image.Resampling.BILINEAR,
        flip: bool = False,
        letterbox: Size | None = None,
        corner: bool = False,
    ) -> None:
        """Keep the parameters.

        plan:      the geometry for an image of a height and a width.
        table:     ``[3, 256]``, the value of each byte of each channel, in the network's order.
        flip:      the network takes blue first.
        letterbox: the (height, width) that bars fill up to.
        corner:    the image lies in the upper left of them, and not in the middle.
        """
        self._plan = plan
        self._table = table
        self._resample = Image.Resampling(resample)
        self._flip = flip
        self._letterbox = letterbox
        self._corner = corner
        self.max_pixels: int | None = None

    @property
    def fixed_size(self) -> Size | None:
        """The (height, width) of every input, or None where it depends on the image."""
        return self._letterbox or fixed_size(self._plan)

    @property
    def crops(self) -> bool:
        """Whether parts of images are cut off, so that the network sees less than the whole."""
        made = (self._plan(*each) for each in _PROBE_SIZES)
        return any(each.crop not in {None, each.resize} for each in made)

    @property
    def resized_to(self) -> Size | None:
        """The smallest (height, width) that images are resized to; None if they are not.

        With a fixed aspect ratio, both are the shorter edge.
        """
        if self._letterbox is not None:
            return self._letterbox
        wide, tall, large = (self._plan(*each).resize for each in (*_PROBE_SIZES, (1200, 1600)))
        if wide != large:
            return None
        return wide if wide == tall else (min(wide), min(wide))

    def prepare(self, image: Pixels) -> tuple[Tensor, Placement]:
        """Return the input ``[3, h, w]`` for an image ``[H, W, 3]``, and its placement.

        Raises ``BadRequest`` for an image that has no pixel left, or would be enlarged to too many:
        one of 1 by 5000 to more than a gigabyte, of which the middle is seen.
        """
        height, width = image.shape[:2]
        geometry = self._plan(height, width)
        rows, columns = geometry.resize
        if rows < 1 or columns < 1 or rows * columns > self._most(height * width):
            raise BadRequest(
                f"an image of {width}x{height} pixels is too small or too narrow for this model"
            )
        pixels = self._resized(image, geometry.resize)
        top = left = 0
        if self._letterbox is not None:
            pixels, top, left = _letterboxed(pixels, self._letterbox, corner=self._corner)
        elif geometry.crop is not None:
            pixels = centre(pixels, geometry.crop, rounded=geometry.rounded)
        inside = (pixels.shape[0], pixels.shape[1])
        place = Placement((height, width), inside, columns / width, rows / height, left, top)
        return self._values(pixels), place

    def _most(self, pixels: int) -> float:
        """Return to how many pixels an image of ``pixels`` may be enlarged.

        At least to what the input needs, however few pixels an image itself may have.
        """
        if self.max_pixels is None:
            return math.inf
        usual = [self._plan(*each).resize for each in _PROBE_SIZES] + [self._letterbox or (0, 0)]
        needed = _LONGEST * max(rows * columns for rows, columns in usual)
        return max(self.max_pixels, pixels, needed)

    def _resized(self, image: Pixels, size: Size) -> Pixels:
        if image.shape[:2] == size:
            return image
        rows, columns = size
        resized = Image.fromarray(image).resize((columns, rows), self._resample)
        return np.asarray(resized)

    def _values(self, pixels: Pixels) -> Tensor:
        colours = (2, 1, 0) if self._flip else (0, 1, 2)
        values = np.empty((3, *pixels.shape[:2]), np.float32)
        for place, colour in enumerate(colours):
            np.take(self._table[place], pixels[..., colour], out=values[place], mode="clip")
        return values


def table(
    rescale: float | None,
    normalisations: Sequence[tuple[Sequence[float] | float, Sequence[float] | float]] = (),
    offset: float = 0.0,
) -> Tensor:
    """Return the value of each byte of each channel, ``[3, 256]``.

    Bytes are multiplied by ``rescale`` in float64, ``offset`` is added, and each normalisation
    subtracts a mean and divides by a deviation, in float32: transformers' order and precision.
    """
    values = np.arange(256, dtype=np.float32)
    if rescale is not None:
        values = (np.arange(256, dtype=np.float64) * rescale).astype(np.float32)
    values = np.stack([values + np.float32(offset)] * 3)
    for mean, deviation in normalisations:
        off, by = (np.broadcast_to(np.array(each, np.float32), 3) for each in (mean, deviation))
        values = (values - off[:, None]) / by[:, None]
    return values


def centre(pixels: Pixels, size: Size, *, rounded: bool = False) -> Pixels:
    """Crop the central ``size`` (height, width); smaller images get a black border.

    ``rounded`` as in ``Geometry``.
    """
    short = [max(0, want - has) for want, has in zip(size, pixels.shape, strict=False)]
    if any(short):
        border = [(-(-each // 2), each // 2) for each in short]
        pixels = np.pad(pixels, (*border, (0, 0)))
    spare = (has - want for has, want in zip(pixels.shape, size, strict=False))
    top, left = (round(each / 2) if rounded else each // 2 for each in spare)
    return pixels[top : top + size[0], left : left + size[1]]


def _letterboxed(pixels: Pixels, size: Size, *, corner: bool) -> tuple[Pixels, int, int]:
    """Put an image on a grey one of ``size``; return that, and the image's top and left.

    Of an odd number of excess pixels, the bar above and on the left is the smaller one.
    """
    top, left = ((want - has) // 2 for want, has in zip(size, pixels.shape, strict=False))
    if corner:
        top = left = 0
    barred = np.full((*size, 3), GREY, np.uint8)
    barred[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return barred, top, left


# geometries


def fixed_size(plan: Callable[[int, int], Geometry]) -> Size | None:
    """Return the (height, width) that a plan gives to every image, or None."""
    wide, tall = (plan(*each) for each in _PROBE_SIZES)
    if wide.crop is not None:
        return wide.crop
    return wide.resize if wide == tall else None


def stretched(size: Size) -> Callable[[int, int], Geometry]:
    """Resize to ``size`` (height, width), whatever the aspect ratio."""
    return lambda _height, _width: Geometry(size)


def fitted(size: Size) -> Callable[[int, int], Geometry]:
    """Resize to the largest size within ``size`` that keeps the aspect ratio."""

    def plan(height: int, width: int) -> Geometry:
        scale = min(size[0] / height, size[1] / width)
        return Geometry((max(1, round(height * scale)), max(1, round(width * scale))))

    return plan


def cropped(size: Size, part: float = 1.0) -> Callable[[int, int], Geometry]:
    """Resize until ``size`` is ``part`` of the image in one direction, and crop the centre.

    Exactly as torchvision's ``Resize`` and ``CenterCrop``, with which such networks are trained:
    the longer side is rounded down.
    """
    return cropped_from((round(size[0] / part), round(size[1] / part)), size)


def covered(whole: Size, size: Size) -> Callable[[int, int], Geometry]:
    """Resize to cover ``whole`` and crop, as timm's ``ResizeKeepRatio``: both sides are rounded."""

    def plan(height: int, width: int) -> Geometry:
        ratio = min(height / whole[0], width / whole[1])
        return Geometry((round(height / ratio), round(width / ratio)), size, rounded=True)

    return plan


def cropped_from(whole: Size, size: Size) -> Callable[[int, int], Geometry]:
    """Resize to the smallest size around ``whole`` that keeps the aspect ratio, and crop."""

    def plan(height: int, width: int) -> Geometry:
        rows, columns = whole
        if rows * width > columns * height:
            resized = rows, max(columns, int(rows * width / height))
        else:
            resized = max(rows, int(columns * height / width)), columns
        return Geometry(resized, size, rounded=True)

    return plan
