"""The wire format ``mata.v1``, as an answer is decoded. The server builds results of these, too.

Coordinates are absolute pixels of the upright image: ``x`` grows to the right, ``y`` downwards, a
``bbox`` is ``(x1, y1, x2, y2)``. Confidences lie in 0..1 unless a task says otherwise. Fields that
a newer server adds are ignored.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

Box = tuple[float, float, float, float]
"""``(x1, y1, x2, y2)`` in pixels."""


class Detection(Struct, frozen=True, omit_defaults=True):
    """One object, at ``bbox`` in pixels of the upright picture, of a confidence from 0 to 1.

    ``track_id`` is set by the task ``track`` alone, and else ``UNSET``, which is not ``None``.

    ``extra`` holds what a model tells beside that, as plain JSON values by name: ``corners`` of a
    turned box are four points ``[x, y]`` around it. It is left out when empty.
    """

    label: str
    confidence: float
    bbox: Box
    track_id: int | UnsetType = UNSET
    extra: dict[str, Any] = {}


class Segment(Struct, frozen=True, omit_defaults=True):
    """One object with its mask, at ``bbox`` in pixels of the upright picture.

    A model gives ``mask`` as a boolean array ``[H, W]`` of the original image's size; on the wire
    it is an 8-bit PNG of 0 and 255. It is left out when a model has none.
    """

    label: str
    confidence: float
    bbox: Box
    mask: Any = UNSET


class Classification(Struct, frozen=True):
    """One class and its probability, from 0 to 1 (any number with ``use_softmax: false``)."""

    label: str
    confidence: float


class Keypoint(Struct, frozen=True):
    """One instance at ``bbox``, with its keypoints, each ``(x, y, confidence)``.

    Places are in pixels of the upright picture, confidences from 0 to 1.
    """

    label: str
    confidence: float
    bbox: Box
    keypoints: list[tuple[float, float, float]]


class TextRegion(Struct, frozen=True):
    """One piece of text, of a confidence from 0 to 1.

    ``bbox`` is in pixels of the upright picture, None where the engine gives no position.
    """

    text: str
    bbox: Box | None
    confidence: float


class Entity(Struct, frozen=True, omit_defaults=True):
    """One thing that a vision-language model named."""

    label: str
    confidence: float = 1.0
    attributes: dict[str, Any] = {}


class Usage(Struct, frozen=True):
    """What a generated text took. ``truncated``: it did not end by itself but at a limit."""

    prompt_tokens: int
    completion_tokens: int
    truncated: bool = False


class InferResponse(Struct, kw_only=True):
    """An answer of the server, as a client decodes it.

    Only the fields of the task are present, others are ``UNSET``, which counts as false. ``mask``
    and ``depth_map`` hold base64 text in JSON and bytes in MessagePack; ``embedding`` is a list of
    numbers in JSON, and bytes of little-endian float32 in MessagePack.

    Answers over a WebSocket add ``session_id``, ``frame_id`` (number of the received frame, from
    0), ``inference_ms``, ``dropped`` (frames replaced by newer ones since the session began) and,
    once, ``reset`` after the model's state was lost.
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


class LoadProgress(Struct):
    """A load that is under way: for how many seconds, and what it waits for now.

    That is "memory" (other models are unloaded), "worker" (a process is started) or "weights" (the
    model's plugin reads them).
    """

    seconds: float
    waits_for: str


class ModelInfo(Struct, kw_only=True):
    """One model of ``GET /v1/models``. Sizes in MB of 1e6 bytes, times in Unix seconds.

    ``error`` is present when the last load failed or the worker keeps dying, ``pinned`` (true) when
    the model is not to be evicted, ``loading`` while it is loaded.
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
    loading: LoadProgress | UnsetType = UNSET


class ModelDetail(ModelInfo, kw_only=True):
    """One model of ``GET /v1/models/{model_id}``.

    ``params`` is there when it is asked for: the JSON Schema of the model's parameters.
    """

    params: dict[str, Any] | UnsetType = UNSET


def decode(data: bytes, *, msgpack: bool = False) -> InferResponse:
    """Decode an answer's body. Raises ``msgspec.DecodeError`` on anything else."""
    decoder = msgspec.msgpack.decode if msgpack else msgspec.json.decode
    return decoder(data, type=InferResponse)
