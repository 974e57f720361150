"""The wire format ``mata.v1``: what a model returns and what a client receives.

Coordinates are absolute pixels of the original image after its EXIF orientation was applied:
``x`` grows to the right, ``y`` downwards, a ``bbox`` is ``(x1, y1, x2, y2)``, clipped to the image.
Confidences lie in 0..1 unless a task says otherwise.

A model returns one of the ``*Result`` structs per image. Pixel data stays an array there
(``Segment.mask`` boolean ``[H, W]``, ``DepthResult.depth_map`` float32 ``[h, w]``); the server
encodes it: PNG for masks, little-endian C-order float32 for depth, as base64 in JSON and as raw
bytes in MessagePack. The client gets the same structs back with arrays replaced by bytes.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

SCHEMA_VERSION = "mata.v1"

TASKS = ("classify", "depth", "detect", "embed", "ocr", "pose", "segment", "track", "vlm")
"""The tasks a model can be registered under."""

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels."""


class Detection(Struct, frozen=True, omit_defaults=True):
    """One object. ``track_id`` is set by the task ``track`` alone."""

    label: str
    confidence: float
    bbox: Box
    track_id: int | UnsetType = UNSET


class Segment(Struct, frozen=True, omit_defaults=True):
    """One object with its mask.

    A model gives ``mask`` as a boolean array ``[H, W]`` of the original image's size; on the wire
    it is an 8-bit PNG of 0 and 255. It is left out when a model has none.
    """

    label: str
    confidence: float
    bbox: Box
    mask: Any = UNSET


class Classification(Struct, frozen=True):
    """One class and its probability."""

    label: str
    confidence: float


class Keypoint(Struct, frozen=True):
    """One instance with its keypoints, each ``(x, y, confidence)``."""

    label: str
    confidence: float
    bbox: Box
    keypoints: list[tuple[float, float, float]]


class TextRegion(Struct, frozen=True):
    """One piece of text; ``bbox`` is None where the engine gives no position."""

    text: str
    bbox: Box | None
    confidence: float


class Entity(Struct, frozen=True, omit_defaults=True):
    """One thing that a vision-language model named."""

    label: str
    confidence: float = 1.0
    attributes: dict[str, Any] = {}


class DetectResult(Struct, frozen=True):
    """Tasks ``detect`` and ``track``."""

    tasks: ClassVar[tuple[str, ...]] = ("detect", "track")
    detections: list[Detection]


class SegmentResult(Struct, frozen=True):
    """Task ``segment``."""

    tasks: ClassVar[tuple[str, ...]] = ("segment",)
    segments: list[Segment]


class ClassifyResult(Struct, frozen=True):
    """Task ``classify``: best first."""

    tasks: ClassVar[tuple[str, ...]] = ("classify",)
    classifications: list[Classification]


class PoseResult(Struct, frozen=True):
    """Task ``pose``."""

    tasks: ClassVar[tuple[str, ...]] = ("pose",)
    keypoints: list[Keypoint]


class OcrResult(Struct, frozen=True):
    """Task ``ocr``: ``text`` is the regions' texts joined by newlines."""

    tasks: ClassVar[tuple[str, ...]] = ("ocr",)
    text: str
    regions: list[TextRegion]


class DepthResult(Struct, frozen=True):
    """Task ``depth``: ``depth_map`` is a float32 array ``[h, w]``."""

    tasks: ClassVar[tuple[str, ...]] = ("depth",)
    depth_map: Any


class EmbedResult(Struct, frozen=True):
    """Task ``embed``: ``embedding`` is a float32 array ``[d]`` of length 1 (L2-normalised).

    In JSON it is a list of numbers, in MessagePack little-endian float32 bytes.
    """

    tasks: ClassVar[tuple[str, ...]] = ("embed",)
    embedding: Any


class Usage(Struct, frozen=True):
    """What a generated text took. ``truncated``: it did not end by itself but at a limit."""

    prompt_tokens: int
    completion_tokens: int
    truncated: bool = False


class VlmResult(Struct, frozen=True, omit_defaults=True):
    """Task ``vlm``: the text, and what ``output_mode`` parsed out of it.

    ``usage`` is set by models that count tokens.
    """

    tasks: ClassVar[tuple[str, ...]] = ("vlm",)
    text: str
    entities: list[Entity] | UnsetType = UNSET
    detections: list[Detection] | UnsetType = UNSET
    classifications: list[Classification] | UnsetType = UNSET
    output: Any = UNSET
    usage: Usage | UnsetType = UNSET


Result = (
    DetectResult
    | SegmentResult
    | ClassifyResult
    | PoseResult
    | OcrResult
    | DepthResult
    | EmbedResult
    | VlmResult
)
"""What ``Model.predict`` returns for one image."""

RESULT_TYPES: tuple[type[Struct], ...] = (
    DetectResult,
    SegmentResult,
    ClassifyResult,
    PoseResult,
    OcrResult,
    DepthResult,
    EmbedResult,
    VlmResult,
)


class InferResponse(Struct, kw_only=True):
    """An answer of the server, as a client decodes it.

    Only the fields of the task are present. ``mask`` and ``depth_map`` hold base64 text in JSON
    and bytes in MessagePack. Answers over a WebSocket add ``session_id``, ``frame_id`` (number of
    the received frame, from 0), ``inference_ms``, ``dropped`` (frames replaced by newer ones since
    the session began) and, once, ``reset`` after the model's state was lost.
    """

    schema_version: str
    task: str
    model: str
    timestamp: float
    detections: list[Detection] | UnsetType = UNSET
    segments: list[Segment] | UnsetType = UNSET
    classifications: list[Classification] | UnsetType = UNSET
    keypoints: list[Keypoint] | UnsetType = UNSET
    text: str | UnsetType = UNSET
    regions: list[TextRegion] | UnsetType = UNSET
    depth_map: Any = UNSET
    depth_shape: tuple[int, int] | UnsetType = UNSET
    embedding: Any = UNSET
    entities: list[Entity] | UnsetType = UNSET
    output: Any = UNSET
    usage: Usage | UnsetType = UNSET
    session_id: str | UnsetType = UNSET
    frame_id: int | UnsetType = UNSET
    inference_ms: float | UnsetType = UNSET
    dropped: int | UnsetType = UNSET
    reset: bool | UnsetType = UNSET


class ModelInfo(Struct, kw_only=True):
    """One model of ``GET /v1/models``. Sizes in MB of 1e6 bytes, times in Unix seconds.

    ``error`` is present when the last load failed or the worker keeps dying.
    """

    model: str
    task: str
    source: str
    state: str
    size_mb: float | None
    memory_mb: float | None
    loaded_at: float | None
    last_used: float | None
    error: str | UnsetType = UNSET


def problem(result: object, task: str) -> str | None:
    """Say what is wrong with a model's ``result`` for ``task``, or None when it can be served.

    The wire types are not checked when a struct is made, so this is where a model that returns
    garbage is caught: a wrong type, a NaN, a box of three numbers.
    """
    if not isinstance(result, RESULT_TYPES):
        return f"expected a result struct, got {type(result).__name__}"
    if task not in getattr(type(result), "tasks", ()):
        return f"{type(result).__name__} does not belong to the task {task}"
    if type(result) in _ARRAYS:
        array, dimensions = _ARRAYS[type(result)]
        return _array_problem(array, getattr(result, array), dimensions)
    for name in result.__struct_fields__:
        value = getattr(result, name)
        if isinstance(value, (str, Usage)) or value is UNSET or name == "output":
            continue
        if not isinstance(value, list):
            return f"{name} must be a list"
        found = None if _sound(value) else _items_problem(name, value)
        if found:
            return found
    return None


_ARRAYS: dict[type, tuple[str, int]] = {
    DepthResult: ("depth_map", 2),
    EmbedResult: ("embedding", 1),
}


def _array_problem(name: str, array: object, dimensions: int) -> str | None:
    shape, dtype = getattr(array, "shape", ()), getattr(array, "dtype", None)
    if len(shape) != dimensions or str(dtype) != "float32" or 0 in shape:
        return f"{name} must be a float32 array of {dimensions} dimensions, not empty"
    extremes = (array.min(), array.max())  # type: ignore[attr-defined]
    finite = all(map(math.isfinite, extremes))
    return None if finite else f"{name} holds numbers that are not finite"


_ITEM_TYPES = (Detection, Segment, Classification, Keypoint, TextRegion, Entity)


_ITEMS, _NUMBERS, _STRINGS = frozenset(_ITEM_TYPES), frozenset({float, int}), frozenset({str})


def _sound(items: list[Any]) -> bool:
    """Whether all is well, found out in a third of the time that it takes to say what is not."""
    if not _ITEMS.issuperset(map(type, items)):
        return False
    boxes = [box for item in items if (box := getattr(item, "bbox", None)) is not None]
    points = [point for item in items if type(item) is Keypoint for point in item.keypoints]
    if not {4}.issuperset(map(len, boxes)) or not {3}.issuperset(map(len, points)):
        return False
    numbers = [item.confidence for item in items]
    numbers.extend(chain.from_iterable(boxes))
    numbers.extend(chain.from_iterable(points))
    return (
        _NUMBERS.issuperset(map(type, numbers))
        and _STRINGS.issuperset(type(getattr(item, "label", "")) for item in items)
        and math.isfinite(sum(numbers))
    )


def _items_problem(name: str, items: list[Any]) -> str | None:
    for index, item in enumerate(items):
        if not isinstance(item, _ITEM_TYPES):
            return f"{name}[{index}] is a {type(item).__name__}"
        if not _finite(item.confidence):
            return f"{name}[{index}].confidence is not a finite number"
        box = getattr(item, "bbox", None)
        if box is not None and not (len(box) == 4 and all(map(_finite, box))):
            return f"{name}[{index}].bbox is not four finite numbers"
        if not isinstance(getattr(item, "label", ""), str):
            return f"{name}[{index}].label is not a string"
        if isinstance(item, Keypoint) and not all(
            len(point) == 3 and all(map(_finite, point)) for point in item.keypoints
        ):
            return f"{name}[{index}].keypoints are not triples of finite numbers"
    return None


def _finite(value: object) -> bool:
    return isinstance(value, (float, int)) and math.isfinite(value)


def decode(data: bytes, *, msgpack: bool = False) -> InferResponse:
    """Decode an answer's body. Raises ``msgspec.DecodeError`` on anything else."""
    decoder = msgspec.msgpack.decode if msgpack else msgspec.json.decode
    return decoder(data, type=InferResponse)
