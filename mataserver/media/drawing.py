"""A picture with what a model found in it: boxes, masks, keypoints, labels, depth, text."""

from __future__ import annotations

import io
import textwrap
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
import numpy as np
import simplejpeg
from msgspec import UNSET, Struct
from PIL import Image, ImageDraw, ImageFont

from mataserver.results import (
    RESULT_TYPES,
    ClassifyResult,
    DepthResult,
    Detection,
    DetectResult,
    InferResponse,
    OcrResult,
    PoseResult,
    SegmentResult,
    VlmResult,
    is_task,
)
from mataserver_client.pixels import depth_array, mask_array

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from mataserver.results import Box, Keypoint, Result, Segment

    Colour = tuple[int, int, int]
    Point = tuple[float, float]

QUALITY = 85
MASK_OPACITY = 0.45
MAX_TEXT = 2_000
MAX_LINES = 12
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


class Shown(NamedTuple):
    """A box, what is written on it, what its colour goes by, and its corners if it is turned."""

    box: Box
    text: str
    kind: str
    corners: list[Point] | None = None


def draw(jpeg: bytes, result: Result) -> bytes:
    """Return a JPEG of the frame with its result drawn in.

    Raises ``ValueError`` for bytes that are no JPEG.
    """
    picture = drawn(simplejpeg.decode_jpeg(jpeg, colorspace="RGB"), result)
    buffer = io.BytesIO()
    # With the colours at full size: thin lines stay sharp.
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def drawn(pixels: NDArray[np.uint8], result: Result) -> Image.Image:
    """Return the pixels ``[H, W, 3]``, which are changed, as a picture with the result drawn in."""
    picture = Image.fromarray(_blended(pixels, result))
    _Pen(picture).write(result)
    return picture


def result_of(found: Result | InferResponse | Mapping[str, Any]) -> Result:
    """Return what a model gave, as it was before it was encoded.

    ``found`` is that itself, an answer of the client, or the JSON of an answer. Raises
    ``ValueError`` for what is none.
    """
    if isinstance(found, RESULT_TYPES):
        return cast("Result", found)
    answer = msgspec.convert(found, InferResponse) if isinstance(found, Mapping) else found
    kinds = {task: each for each in RESULT_TYPES for task in vars(each)["tasks"]}
    if not isinstance(answer, InferResponse) or not is_task(answer.task):
        raise ValueError("no result of a task")
    if answer.task not in kinds:
        return _brought(answer.output)
    kind = kinds[answer.task]
    if kind is DepthResult:
        return DepthResult(depth_array(answer))
    values = {name: getattr(answer, name) for name in kind.__struct_fields__}
    if kind is SegmentResult:
        values["segments"] = [
            msgspec.structs.replace(each, mask=mask_array(each)) if each.mask else each
            for each in values["segments"]
        ]
    return cast("Result", kind(**values))


class _Drawable(Struct):
    """What can be drawn of the result of a task that a plugin brings."""

    text: str = ""
    detections: list[Detection] = []


def _brought(output: object) -> VlmResult:
    """Return what can be drawn of an ``output``: its ``detections`` and its ``text``, if any."""
    try:
        found = msgspec.convert(output, _Drawable)
        return VlmResult(found.text, detections=found.detections)
    except msgspec.ValidationError:  # fields of those names may be something else there
        return VlmResult("")


def colour_of(name: str) -> Colour:
    """Return the colour of a label, the same in every picture."""
    return _PALETTE[zlib.crc32(name.encode()) % len(_PALETTE)]


def _blended(pixels: NDArray[np.uint8], result: Result) -> NDArray[np.uint8]:
    """Return the pixels ``[H, W, 3]`` under a result's masks or beside its depth."""
    if isinstance(result, DepthResult):
        return _depth(pixels, result.depth_map)
    if isinstance(result, SegmentResult):
        for segment in result.segments:
            mask = segment.mask
            if mask is not UNSET and mask is not None and mask.shape == pixels.shape[:2]:
                tint = np.array(colour_of(segment.label), np.float32) * MASK_OPACITY
                pixels[mask] = (pixels[mask] * (1 - MASK_OPACITY) + tint).astype(np.uint8)
    return pixels


def _depth(pixels: NDArray[np.uint8], depth: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the depth ``[h, w]`` from blue (least) to red (greatest), at the frame's size."""
    low, high = float(depth.min()), float(depth.max())
    share = (depth - low) / (high - low) if high > low else np.zeros_like(depth)
    bands = np.stack([share, 1 - np.abs(2 * share - 1), 1 - share], axis=-1)
    small = Image.fromarray((bands * 255).astype(np.uint8))
    return np.array(small.resize((pixels.shape[1], pixels.shape[0])))


class _Pen:
    """Draws on one picture, with lines and letters that suit its size."""

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture
        self._draw = ImageDraw.Draw(picture)
        side = min(picture.size)
        self._width = max(2, side // 300)
        self._size = max(10, side // 40)
        self._font = ImageFont.load_default(self._size)

    def write(self, result: Result) -> None:
        """Draw the boxes of a result, its points and its text."""
        boxes = _boxes(result)
        # Of text that was read, a label should hide neither its line nor another one.
        taken = [each.box for each in boxes] if isinstance(result, OcrResult) else None
        for shown in boxes:
            self._box(shown, colour_of(shown.kind), taken)
        if isinstance(result, PoseResult):
            for found in result.keypoints:
                self._points(found.keypoints, colour_of(found.label))
        self._lines(_lines(result))

    def _box(self, shown: Shown, colour: Colour, taken: list[Box] | None) -> None:
        box = shown.box
        right, bottom = self._picture.width - 1, self._picture.height - 1
        x1, x2 = (min(max(round(x), 0), right) for x in (box[0], box[2]))
        y1, y2 = (min(max(round(y), 0), bottom) for y in (box[1], box[3]))
        if x2 < x1 or y2 < y1:
            return
        if shown.corners is None:
            self._draw.rectangle((x1, y1, x2, y2), outline=colour, width=self._width)
        else:
            around = [*shown.corners, *shown.corners[:2]]  # so that the last joint is round as well
            self._draw.line(around, fill=colour, width=self._width, joint="curve")
        if shown.text:
            at = (x1, max(0, y1 - self._size - 4))
            if taken is not None:
                at = self._free((x1, y1, x2, y2), at, shown.text, taken)
            self._label(at, shown.text, colour)

    def _free(
        self, own: tuple[int, int, int, int], at: tuple[int, int], text: str, taken: list[Box]
    ) -> tuple[int, int]:
        """Return where a label covers nothing that is taken, and take it; ``at`` if nowhere.

        Above the box is tried first, then right of it, below it, and left of it.
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
            # Beside its box a label that had to be shifted would lie on it, which is taken, too.
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
        """Return the place moved to the left, or the right, so that the line is in the picture."""
        beyond = self._draw.textbbox(at, text, font=self._font)[2] + 3 - self._picture.width
        return (max(2, at[0] - max(0, round(beyond))), at[1])

    def _ground(self, at: tuple[int, int], text: str) -> Box:
        """Return what a line and its margin cover."""
        box = self._draw.textbbox(at, text, font=self._font)
        return (box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2)

    def _label(self, at: tuple[int, int], text: str, ground: Colour) -> None:
        """Write one line on a ground of its own, so that it can be read on any picture.

        One that would reach beyond the right edge is moved to the left.
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


def _boxes(result: Result) -> list[Shown]:
    if isinstance(result, (DetectResult, VlmResult)):
        found = result.detections if result.detections is not UNSET else []
        return [Shown(each.bbox, _named(each), each.label, _corners(each)) for each in found]
    if isinstance(result, SegmentResult):
        return [
            Shown(s.bbox, f"{s.label[:40]} {s.confidence:.2f}", s.label) for s in result.segments
        ]
    if isinstance(result, PoseResult):
        return [
            Shown(k.bbox, f"{k.label[:40]} {k.confidence:.2f}", k.label) for k in result.keypoints
        ]
    if isinstance(result, OcrResult):
        return [Shown(r.bbox, r.text[:40], "text") for r in result.regions if r.bbox is not None]
    return []


def _corners(found: Detection) -> list[Point] | None:
    """Return the four corners of a turned box; None for another, or what is none."""
    try:
        corners = msgspec.convert(found.extra.get("corners"), list[tuple[float, float]])
    except msgspec.ValidationError:
        return None
    return corners if len(corners) == 4 and np.isfinite(corners).all() else None


def _named(found: Detection | Segment | Keypoint) -> str:
    track = getattr(found, "track_id", UNSET)
    number = "" if track is UNSET else f"#{track} "
    return f"{number}{found.label[:40]} {found.confidence:.2f}"


def _lines(result: Result) -> list[str]:
    """Return what is written in the corner: classes with their probability, or the text."""
    if isinstance(result, ClassifyResult):
        return [f"{each.label[:60]} {each.confidence:.2f}" for each in result.classifications]
    if isinstance(result, VlmResult) or (isinstance(result, OcrResult) and not _boxes(result)):
        return result.text[:MAX_TEXT].splitlines()
    return []
