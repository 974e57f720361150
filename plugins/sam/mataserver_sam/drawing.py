"""Draws segmentation results: masks, boxes, labels and scores."""

from __future__ import annotations

import colorsys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mataserver_sam.boxes import corners, scaled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mataserver_sam.masks import Mask
    from mataserver_sam.prompt_decoder import FoundObject

    Pixels = NDArray[np.uint8]
    Colour = tuple[int, int, int]

MAX_SIDE = 2_048
"""Larger images are drawn scaled down: pictures are previews, and kept in memory."""

_MASK_OPACITY = 0.45
_GOLDEN = 0.618034
_LONGEST_LABEL = 60


class Drawing:
    """A picture of an image on which objects are drawn, one after the other."""

    def __init__(self, image: Pixels) -> None:
        """Start with an RGB image ``[H, W, 3]``."""
        height, width = image.shape[:2]
        scale = min(1.0, MAX_SIDE / max(height, width))
        self._size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self._canvas: Any = image.copy()
        if scale < 1:
            self._canvas = cv2.resize(image, self._size, interpolation=cv2.INTER_AREA)
        self._labels: list[tuple[Sequence[float], str]] = []

    def add(self, found: FoundObject, mask: Mask) -> None:
        """Tint a mask and draw its outline; box and label are drawn by ``png``."""
        paint = colour(len(self._labels))
        self._labels.append((found.box, f"{found.label[:_LONGEST_LABEL]} {found.score:.2f}"))
        pixels: Any = mask.full().view(np.uint8)
        if pixels.shape != self._canvas.shape[:2]:
            pixels = cv2.resize(pixels, self._size, interpolation=cv2.INTER_NEAREST)
        tint(self._canvas, pixels, paint)

    def png(self) -> bytes:
        """Draw the boxes and labels on top and return the picture."""
        picture = Image.fromarray(self._canvas)
        pen = ImageDraw.Draw(picture)
        for index, (box, text) in enumerate(self._labels):
            _draw_box(pen, scaled(corners(box), *self._size), text, colour(index))
        _, encoded = cv2.imencode(
            ".png", np.asarray(picture)[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3]
        )
        return encoded.tobytes()


def colour(index: int) -> Colour:
    """Return the RGB colour of an object; neighbouring indices have different hues."""
    red, green, blue = colorsys.hsv_to_rgb(index * _GOLDEN % 1.0, 0.85, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw_box(pen: ImageDraw.ImageDraw, box: Sequence[float], text: str, paint: Colour) -> None:
    """Draw a box, and above it its label."""
    width, height = pen.im.size
    pen.rectangle(tuple(box), outline=paint, width=_thickness(width, height))
    draw_label(pen, box, text, paint)


def tint(canvas: Any, pixels: Any, paint: Colour) -> None:
    """Tint an RGB canvas ``[H, W, 3]`` where ``pixels`` ``[H, W]`` are 1; draw their outline."""
    held = pixels.astype(bool)
    tinted = canvas[held] * (1 - _MASK_OPACITY) + np.array(paint) * _MASK_OPACITY
    canvas[held] = tinted.astype(np.uint8)
    outlines, _ = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    height, width = pixels.shape
    cv2.drawContours(canvas, outlines, -1, paint, _thickness(width, height))


def draw_label(pen: ImageDraw.ImageDraw, box: Sequence[float], text: str, paint: Colour) -> None:
    """Draw a label above a box ``(x1, y1, x2, y2)``, within the picture."""
    width, height = pen.im.size
    font = _font(max(10, min(width, height) // 40))
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    x = min(max(0.0, box[0]), max(0.0, width - right))
    y = max(0.0, box[1] - bottom)
    pen.rectangle((x + left, y + top, x + right, y + bottom), fill=paint)
    pen.text((x, y), text, fill=_readable_on(paint), font=font)


@lru_cache(maxsize=8)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the system's font of many alphabets, or Pillow's own, which has Latin only."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", height)
    except OSError:
        return ImageFont.load_default(height)


def _readable_on(paint: Colour) -> Colour:
    """Return black or white, whichever contrasts better (luma of ITU-R BT.601)."""
    red, green, blue = paint
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else (255, 255, 255)


def _thickness(width: int, height: int) -> int:
    return max(1, round(min(width, height) / 400))
