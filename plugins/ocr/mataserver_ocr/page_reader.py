"""Reads a page with RapidOCR's networks.

It is imported in the worker alone: a server that merely knows of the backend needs no numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mataserver import TextRegion
from mataserver_ocr import quads, regions, strips, turns

if TYPE_CHECKING:
    from mataserver import OcrResult
    from mataserver_ocr.options import RapidOcrSettings
    from mataserver_ocr.quads import Image, Quad

MIN_SIDE = 32
MAX_RATIO = 8
"""A picture is padded until its long side is at most this many times the short one."""


class PageReader:
    """Reads lines of text, also slanted and turned ones; a region is a line or a piece of one."""

    def __init__(self, engine: Any, settings: RapidOcrSettings) -> None:
        """``engine`` is a ``rapidocr.RapidOCR``, whose networks are opened here."""
        _open_networks(engine)
        self._engine = engine
        self._side = min(settings.detection_side, settings.max_side)
        self._max_side = settings.max_side
        self._reader = turns.Reader(self._recognise, self._classify)

    def read(self, image: Image, least: float) -> OcrResult:
        """Return the lines of an image RGB uint8 ``[H, W, 3]`` in reading order.

        Lines whose confidence is below ``least``, 0 to 1, are left out.
        """
        height, width = image.shape[:2]
        page, scale = _scaled(image, self._side, self._max_side)
        found = quads.pieces(page, strips.search(page, self._find, self._side))
        lines = self._reader.read(page, found)
        sure = [i for i, line in enumerate(lines) if line.text and line.score >= least]
        order = turns.reading_order(found[sure], [lines[i] for i in sure])
        read = [
            TextRegion(lines[i].text, box, min(max(lines[i].score, 0.0), 1.0))
            for i in (sure[each] for each in order)
            if (box := regions.around((found[i] / scale).tolist(), height, width)) is not None
        ]
        return regions.result(read)

    def _find(self, picture: Image) -> Quad:
        """Return the quads ``[n, 4, 2]`` of the lines of a picture (BGR)."""
        boxes = self._engine.text_det(_padded(picture)).boxes
        found = np.array([] if boxes is None else boxes, np.float64).reshape(-1, 4, 2)
        return quads.settled(found)

    def _recognise(self, line: Image) -> tuple[str, float]:
        read = self._engine.recognize_txt([line])
        return read.txts[0], float(read.scores[0])

    def _classify(self, lines: list[Image]) -> list[float]:
        """Return the probability of each line that it stands on its head."""
        said = self._engine.text_cls(lines).cls_res
        return [float(sure if label == "180" else 1 - sure) for label, sure in said]


def _open_networks(engine: Any) -> None:
    """Read an empty picture: RapidOCR opens each network when it is first used."""
    blank = np.full((MIN_SIDE, 4 * MIN_SIDE, 3), 255, np.uint8)
    engine(blank, use_det=False)
    engine(blank, use_det=True)  # without a line in it, the other two would not be reached


def _scaled(image: Image, side: int, max_side: int) -> tuple[Image, float]:
    """Return the picture in BGR, as the networks take it, and its scale.

    It is scaled down until none of its strips, searched at ``side``, is longer than ``max_side``.
    """
    import cv2

    height, width = image.shape[:2]
    longest = strips.length(height, width, side)
    scale = min(1.0, max_side / longest)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
    return np.asarray(bgr, np.uint8), scale


def _padded(picture: Image) -> Image:
    """Return a picture that is not too narrow for the detector; boxes keep their place in it."""
    import cv2

    height, width = picture.shape[:2]
    least = max(MIN_SIDE, max(height, width) // MAX_RATIO)
    below, beside = max(0, least - height), max(0, least - width)
    if not below and not beside:
        return picture
    padded = cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    return np.asarray(padded, np.uint8)
