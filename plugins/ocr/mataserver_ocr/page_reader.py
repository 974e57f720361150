"""Reads a page with RapidOCR's networks.

Only the worker imports this module: a server that only registers the backend needs no numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mataserver import BadRequest, TextRegion
from mataserver_ocr import orientation, quads, regions, strips, tiles
from mataserver_ocr.page_queue import Clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mataserver import OcrResult
    from mataserver_ocr.options import RapidOcrSettings
    from mataserver_ocr.orientation import Reading
    from mataserver_ocr.quads import Image, Quad

MIN_SIDE = 32
MAX_RATIO = 8
"""The aspect ratio above which a picture is padded."""


class PageReader:
    """Reads lines of text, also slanted and rotated ones; a region is a line or part of one."""

    def __init__(self, engine: Any, settings: RapidOcrSettings) -> None:
        """Open the networks of ``engine``, a ``rapidocr.RapidOCR``."""
        _warm_up(engine)
        self._engine = engine
        self._side = min(settings.detection_side, settings.max_side)
        self._max_side = settings.max_side
        self._timeout = settings.timeout
        self._clock = Clock()
        self._reader = orientation.LineReader(self._recognise, self._classify)

    def read(self, image: Image, least: float, clock: Clock) -> OcrResult:
        """Return the lines of an image RGB uint8 ``[H, W, 3]`` in reading order.

        Lines whose confidence is below ``least``, 0 to 1, are left out. Raises ``BadRequest`` when
        ``clock`` has no time left: a page may have thousands of lines.
        """
        self._clock = clock
        height, width = image.shape[:2]
        page, scale = _scaled(image, self._side, self._max_side)
        found = quads.split_long_lines(page, strips.find_lines(page, self._detect, self._side))
        lines = self._reader.read(page, found)
        sure = _sure(lines, least)
        if tiles.is_large(height, width, self._side):
            found, lines = self._with_small(image, found[sure], [lines[i] for i in sure], scale)
            sure = _sure(lines, least)
        order = orientation.reading_order(found[sure], [lines[i] for i in sure])
        read = [
            TextRegion(lines[i].text, box, min(max(lines[i].score, 0.0), 1.0))
            for i in (sure[each] for each in order)
            if (box := regions.bounding_box((found[i] / scale).tolist(), height, width)) is not None
        ]
        return regions.result(read)

    def _with_small(
        self, image: Image, found: Quad, lines: list[Reading], scale: float
    ) -> tuple[Quad, list[Reading]]:
        """Add the lines of a large page whose letters vanish when the page is scaled down.

        ``found`` are the quads of ``lines`` on the page scaled by ``scale``, as the result's.
        """
        page = _bgr(image)
        in_tiles = quads.split_long_lines(page, tiles.find_lines(page, self._detect, self._side))
        kept, added = tiles.merge(
            found / scale,
            [line.score for line in lines],
            in_tiles,
            tiles.blurred_height(image.shape[0], image.shape[1], self._side),
        )
        small = in_tiles[added]
        return (
            np.concatenate([found[kept], small * scale]),
            [lines[i] for i in kept] + self._reader.read(page, small),
        )

    def _detect(self, picture: Image) -> Quad:
        """Return the quads ``[n, 4, 2]`` of the lines of a picture (BGR)."""
        self._check_time()
        boxes = self._engine.text_det(_padded(picture)).boxes
        found = np.array([] if boxes is None else boxes, np.float64).reshape(-1, 4, 2)
        return quads.with_top_left_first(found)

    def _recognise(self, line: Image) -> tuple[str, float]:
        self._check_time()
        read = self._engine.recognize_txt([line])
        return read.txts[0], float(read.scores[0])

    def _classify(self, lines: list[Image]) -> list[float]:
        """Return the probability of each line to be upside down."""
        self._check_time()
        classes = self._engine.text_cls(lines).cls_res
        return [float(score if label == "180" else 1 - score) for label, score in classes]

    def _check_time(self) -> None:
        if not self._clock.left:
            raise BadRequest(
                f"The picture was not read within {self._timeout:g} s: it is too large, "
                "or has too much text"
            )


def _warm_up(engine: Any) -> None:
    """Read an empty picture: RapidOCR opens each network on first use."""
    blank = np.full((MIN_SIDE, 4 * MIN_SIDE, 3), 255, np.uint8)
    engine(blank, use_det=False)
    engine(blank, use_det=True)  # detects no line, so the call above opened the other two


def _scaled(image: Image, side: int, max_side: int) -> tuple[Image, float]:
    """Return the picture in BGR, the networks' order, and its scale.

    It is scaled down until none of its strips, detected at ``side``, is longer than ``max_side``.
    """
    import cv2

    height, width = image.shape[:2]
    longest = strips.strip_length(height, width, side)
    scale = min(1.0, max_side / longest)
    bgr = _bgr(image)
    if scale < 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        bgr = np.asarray(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA), np.uint8)
    return bgr, scale


def _bgr(image: Image) -> Image:
    import cv2

    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)


def _sure(lines: Sequence[Reading], least: float) -> list[int]:
    """Return the indexes of the lines that say something, at least as surely as ``least``."""
    return [i for i, line in enumerate(lines) if line.text and line.score >= least]


def _padded(picture: Image) -> Image:
    """Pad a picture that is too narrow for the detector, below and to the right."""
    import cv2

    height, width = picture.shape[:2]
    least = max(MIN_SIDE, max(height, width) // MAX_RATIO)
    below, beside = max(0, least - height), max(0, least - width)
    if not below and not beside:
        return picture
    padded = cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    return np.asarray(padded, np.uint8)
