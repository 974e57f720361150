"""The wire format ``mata.v1``: what a model returns and what a client receives.

Coordinates are absolute pixels of the original image, after its EXIF orientation was applied: ``x``
grows to the right, ``y`` downwards, a ``bbox`` is ``(x1, y1, x2, y2)``, clipped to the image.
Confidences lie in 0..1 unless a task says otherwise.

A model returns one of the ``*Result`` structs per image, with pixel data as arrays
(``Segment.mask`` boolean ``[H, W]``, ``DepthResult.depth_map`` float32 ``[h, w]``). The server
encodes them: PNG for masks, little-endian C-order float32 for depth, as base64 in JSON and as raw
bytes in MessagePack. The client library defines the common structs, and receives them with arrays
replaced by text or bytes.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, get_args

from msgspec import UNSET, Struct, UnsetType

from mataserver_client.results import (
    Box,
    Classification,
    Detection,
    Entity,
    InferResponse,
    Keypoint,
    LoadProgress,
    ModelDetail,
    ModelInfo,
    Segment,
    TextRegion,
    Usage,
    decode,
)

__all__ = [
    "RESULT_TYPES",
    "SCHEMA_VERSION",
    "TASKS",
    "Box",
    "Classification",
    "ClassifyResult",
    "DepthResult",
    "DetectResult",
    "Detection",
    "EmbedResult",
    "Entity",
    "InferResponse",
    "Keypoint",
    "LoadProgress",
    "ModelDetail",
    "ModelInfo",
    "OcrResult",
    "PoseResult",
    "Result",
    "Segment",
    "SegmentResult",
    "TextRegion",
    "Usage",
    "VlmResult",
    "decode",
    "is_task",
]

SCHEMA_VERSION = "mata.v1"

TASKS = ("classify", "depth", "detect", "embed", "ocr", "pose", "segment", "track", "vlm")
"""The tasks of the API, beside plugins' own."""

_PLUGIN_TASK = re.compile(r"[a-z0-9][a-z0-9_-]*\.[a-z0-9][a-z0-9_-]*")


def is_task(name: str) -> bool:
    """Whether ``name`` is a task of the API, or has the form of a plugin's own: "plugin.name".

    Does not check that the plugin is installed: settings are read before plugins are known.
    """
    return name in TASKS or (len(name) <= 64 and _PLUGIN_TASK.fullmatch(name) is not None)


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
    """Task ``ocr``: ``text`` is the regions' texts joined by newlines.

    ``usage`` is set by models that write the text token by token, which may be cut off.
    """

    tasks: ClassVar[tuple[str, ...]] = ("ocr",)
    text: str
    regions: list[TextRegion]
    usage: Usage | UnsetType = UNSET


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

RESULT_TYPES: tuple[type[Struct], ...] = get_args(Result)
