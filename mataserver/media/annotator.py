"""The displayable content of a result, boxes with labels and lines of text, and its drawing."""

from __future__ import annotations

import textwrap
import zlib
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET
from PIL import ImageDraw, ImageFont

from mataserver.results import (
    ClassifyResult,
    DetectResult,
    OcrResult,
    PoseResult,
    SegmentResult,
    VlmResult,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL import Image

    from mataserver.results import Box, Detection, Keypoint, Result, Segment

    Colour = tuple[int, int, int]
    Point = tuple[float, float]
MAX_LINES = 12
MAX_TEXT = 2_000
_PALETTE: tuple[Colour, ...] = (
    (255, 64, 64),
    (64, 200, 64),
    (80, 140, 255),
    (255, 176, 32),
    (216, 80, 216),
    (32, 200, 200),
    (255, 112, 160),
    (168, 208, 32),
)


class Annotation(NamedTuple):
    """A box, its label, the name that determines its colour, and its corners if rotated."""

    box: Box
    text: str
    kind: str
    corners: list[Point] | None = None


def boxes_of(result: Result) -> list[Annotation]:
    """Return the boxes of any task's result."""
    if isinstance(result, (DetectResult, VlmResult)):
        found = result.detections if result.detections is not UNSET else []
        return [Annotation(each.bbox, _named(each), each.label, _corners(each)) for each in found]
    if isinstance(result, SegmentResult):
        return [Annotation(each.bbox, _named(each), each.label) for each in result.segments]
    if isinstance(result, PoseResult):
        return [Annotation(each.bbox, _named(each), each.label) for each in result.keypoints]
    if isinstance(result, OcrResult):
        return [
            Annotation(r.bbox, r.text[:40], "text") for r in result.regions if r.bbox is not None
        ]
    return []


def _corners(found: Detection) -> list[Point] | None:
    """Return the four corners of a rotated box, None if there are none."""
    try:
        corners = msgspec.convert(found.extra.get("corners"), list[tuple[float, float]])
    except msgspec.ValidationError:
        return None
    return corners if len(corners) == 4 and np.isfinite(corners).all() else None


def _named(found: Detection | Segment | Keypoint) -> str:
    track = getattr(found, "track_id", UNSET)
    number = "" if track is UNSET else f"#{track} "
    return f"{number}{found.label[:40]} {found.confidence:.2f}"


def lines_of(result: Result) -> list[str]:
    """Return the text for the picture's corner: classes with probabilities, or the text."""
    if isinstance(result, ClassifyResult):
        return [f"{each.label[:60]} {each.confidence:.2f}" for each in result.classifications]
    if isinstance(result, VlmResult) or (isinstance(result, OcrResult) and not boxes_of(result)):
        return result.text[:MAX_TEXT].splitlines()
    return []


def colour_of(name: str) -> Colour:
    """Return a label's colour, the same in every picture."""
    return _PALETTE[zlib.crc32(name.encode()) % len(_PALETTE)]


class Annotator:
    """Draws on one picture, with lines and labels scaled to its size."""

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture
        self._draw = ImageDraw.Draw(picture)
        side = min(picture.size)
        self._width = max(2, side // 300)
        self._size = max(10, side // 40)
        self._font = ImageFont.load_default(self._size)

    def draw(self, result: Result) -> None:
        """Draw the boxes, points and text of a result."""
        boxes = boxes_of(result)
        # For OCR, a label should cover neither its own line of text nor another one.
        taken = [each.box for each in boxes] if isinstance(result, OcrResult) else None
        for annotation in boxes:
            self._box(annotation, colour_of(annotation.kind), taken)
        if isinstance(result, PoseResult):
            for found in result.keypoints:
                self._points(found.keypoints, colour_of(found.label))
        self._lines(lines_of(result))

    def _box(self, annotation: Annotation, colour: Colour, taken: list[Box] | None) -> None:
        box = annotation.box
        right, bottom = self._picture.width - 1, self._picture.height - 1
        x1, x2 = (min(max(round(x), 0), right) for x in (box[0], box[2]))
        y1, y2 = (min(max(round(y), 0), bottom) for y in (box[1], box[3]))
        if x2 < x1 or y2 < y1:
            return
        if annotation.corners is None:
            self._draw.rectangle((x1, y1, x2, y2), outline=colour, width=self._width)
        else:
            # The second corner again closes the outline with a joint.
            around = [*annotation.corners, *annotation.corners[:2]]
            self._draw.line(around, fill=colour, width=self._width, joint="curve")
        if annotation.text:
            at = (x1, max(0, y1 - self._size - 4))
            if taken is not None:
                at = self._free((x1, y1, x2, y2), at, annotation.text, taken)
            self._label(at, annotation.text, colour)

    def _free(
        self, own: tuple[int, int, int, int], at: tuple[int, int], text: str, taken: list[Box]
    ) -> tuple[int, int]:
        """Find and reserve a place where a label covers nothing in ``taken``; else return ``at``.

        Tries above the box, right of it, below it, and left of it.
        """
        x1, y1, x2, y2 = own
        left, top, right, bottom = self._ground((0, 0), text)
        gap = self._width + 1
        beside = round((y1 + y2 - top - bottom) / 2)
        places = (
            (x1, round(y1 - 1 - bottom)),
            (round(x2 + gap - left), beside),
            (x1, round(y2 + gap - top)),
            (round(x1 - gap - right), beside),
        )
        boxes = np.array(taken, np.float64)
        for place in places:
            x, y = self._shifted(place, text)
            ground = self._ground((x, y), text)
            inside = ground[1] >= 0 and ground[3] < self._picture.height
            # A label shifted back into the picture would overlap its own box, which is in
            # ``taken``.
            apart = (
                (boxes[:, 0] > ground[2])
                | (boxes[:, 2] < ground[0])
                | (boxes[:, 1] > ground[3])
                | (boxes[:, 3] < ground[1])
            )
            if inside and apart.all():
                taken.append(ground)
                return x, y
        return at

    def _shifted(self, at: tuple[int, int], text: str) -> tuple[int, int]:
        """Shift a label horizontally such that it lies within the picture."""
        beyond = self._draw.textbbox(at, text, font=self._font)[2] + 3 - self._picture.width
        return (max(2, at[0] - max(0, round(beyond))), at[1])

    def _ground(self, at: tuple[int, int], text: str) -> Box:
        """Return the rectangle covered by a label with its margin."""
        box = self._draw.textbbox(at, text, font=self._font)
        return (box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2)

    def _label(self, at: tuple[int, int], text: str, ground: Colour) -> None:
        """Draw one line of text on an opaque background, to be legible on any picture.

        It is shifted left if it would extend beyond the right edge.
        """
        at = self._shifted(at, text)
        self._draw.rectangle(self._ground(at, text), fill=ground)
        ink = (0, 0, 0) if sum(ground) > 380 else (255, 255, 255)
        self._draw.text(at, text, fill=ink, font=self._font)

    def _points(self, points: Iterable[tuple[float, float, float]], colour: Colour) -> None:
        radius = self._width + 1
        for x, y, confidence in points:
            if confidence > 0:
                box = (x - radius, y - radius, x + radius, y + radius)
                self._draw.ellipse(box, fill=colour, outline=(0, 0, 0))

    def _lines(self, lines: list[str]) -> None:
        columns = max(10, int(self._picture.width / (0.6 * self._size)))
        fitting = [part for line in lines for part in textwrap.wrap(line, columns)]
        for index, line in enumerate(fitting[:MAX_LINES]):
            self._label((4, 4 + index * (self._size + 6)), line, (0, 0, 0))
