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

from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

SCHEMA_VERSION = "mata.v1"

TASKS = ("classify", "depth", "detect", "embed", "ocr", "pose", "segment", "track", "vlm")
"""The tasks a model can be registered under."""

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels."""


class Detection(Struct, frozen=True, omit_defaults=True):
    """One object. ``track_id`` is set by the task ``track`` alone.

    ``extra`` holds what a model tells beside that, as plain JSON values by name: ``corners`` of a
    turned box are four points ``[x, y]`` around it. It is left out when empty.
    """

    label: str
    confidence: float
    bbox: Box
    track_id: int | UnsetType = UNSET
    extra: dict[str, Any] = {}


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

    ``error`` is present when the last load failed or the worker keeps dying, ``pinned`` (true) when
    the model is not to be evicted.
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
    pinned: bool | UnsetType = UNSET


class ModelDetail(ModelInfo, kw_only=True):
    """One model of ``GET /v1/models/{model_id}``.

    ``params`` is there when it is asked for: the JSON Schema of the model's parameters.
    """

    params: dict[str, Any] | UnsetType = UNSET


def decode(data: bytes, *, msgpack: bool = False) -> InferResponse:
    """Decode an answer's body. Raises ``msgspec.DecodeError`` on anything else."""
    decoder = msgspec.msgpack.decode if msgpack else msgspec.json.decode
    return decoder(data, type=InferResponse)
