"""Whether a model's result keeps what the API promises of it.

The wire types are not checked when a struct is made, so this is where a model that returns garbage
is caught: a wrong type, a NaN, a confidence of 33, a box whose corners are exchanged or that lies
beside the image, a mask of another size. What only rounding took out of its range is put back into
it, and whole numbers become floats; anything else is refused, never repaired.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from mataserver.engines.promises import DEEPEST, Rule, Unsound, check_plain
from mataserver.results import (
    RESULT_TYPES,
    Classification,
    ClassifyResult,
    DepthResult,
    Detection,
    DetectResult,
    EmbedResult,
    Entity,
    Keypoint,
    OcrResult,
    PoseResult,
    Segment,
    SegmentResult,
    TextRegion,
    Usage,
    VlmResult,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from mataserver.engines.promises import Size

_ARRAYS: dict[type, tuple[str, int]] = {
    DepthResult: ("depth_map", 2),
    EmbedResult: ("embedding", 1),
}
_LISTS: dict[type, dict[str, type]] = {
    DetectResult: {"detections": Detection},
    SegmentResult: {"segments": Segment},
    ClassifyResult: {"classifications": Classification},
    PoseResult: {"keypoints": Keypoint},
    OcrResult: {"regions": TextRegion},
    VlmResult: {
        "entities": Entity,
        "detections": Detection,
        "classifications": Classification,
    },
}
_TOLD = frozenset({OcrResult, VlmResult})
"""The results that hold a text beside their lists."""


def never() -> bool:
    """Say that scores are confidences."""
    return False


def sound(result: Any, task: str, size: Size | None = None, raw: Callable[[], bool] = never) -> Any:
    """Return a model's ``result`` for ``task`` as it can be served.

    ``size`` is the image's (height, width), None where it is not known. ``raw`` is asked whether
    the request wanted scores that are no confidences. Raises ``Unsound``.
    """
    kind = type(result)
    if kind not in _LISTS:
        kind = _kind(result)
    if task not in kind.tasks:
        raise Unsound(f"{kind.__name__} does not belong to the task {task}")
    if kind in _ARRAYS:
        _check_array(result, *_ARRAYS[kind])
        return result
    if kind in _TOLD:
        _check_texts(result)
    rule = Rule(size, raw)
    mended = {}
    for name, item in _LISTS[kind].items():
        items = getattr(result, name)
        if items is not UNSET and not rule.kept(name, items, item):
            mended[name] = rule.mended(name, items, item)
    return msgspec.structs.replace(result, **mended) if mended else result


def _kind(result: object) -> Any:
    """Return which of the result structs a result is; a plugin may have made its own of one."""
    for each in RESULT_TYPES:
        if isinstance(result, each):
            return each
    raise Unsound(f"expected a result struct, got {type(result).__name__}")


def _check_array(result: object, name: str, dimensions: int) -> None:
    array: Any = getattr(result, name)
    shape, dtype = getattr(array, "shape", ()), getattr(array, "dtype", None)
    if len(shape) != dimensions or str(dtype) != "float32" or 0 in shape:
        raise Unsound(f"{name} must be a float32 array of {dimensions} dimensions, not empty")
    if not all(map(math.isfinite, (array.min(), array.max()))):
        raise Unsound(f"{name} holds numbers that are not finite")


def _check_texts(result: Any) -> None:
    """Check what a result has beside its lists."""
    if not isinstance(getattr(result, "text", ""), str):
        raise Unsound(f"text is a {type(result.text).__name__}")
    usage = getattr(result, "usage", UNSET)
    if usage is UNSET:
        return
    counts = (usage.prompt_tokens, usage.completion_tokens) if isinstance(usage, Usage) else ()
    if not counts or any(type(each) is not int or each < 0 for each in counts):
        raise Unsound("usage must be a Usage of whole numbers")


def sound_brought(result: Any, kind: type[msgspec.Struct], size: Size | None = None) -> Any:
    """Return the result of a task that a plugin brings as it can be served.

    It is an object of ``kind``, keeps the types and ranges of its fields, and holds what JSON and
    MessagePack have alike. ``detections`` are held to what the API promises of those. Numbers of
    numpy become plain ones. Raises ``Unsound``.
    """
    if not isinstance(result, kind):
        raise Unsound(f"expected a {kind.__name__}, got {type(result).__name__}")
    rule, found = Rule(size, never), getattr(result, "detections", None)
    listed = list(found) if isinstance(found, tuple) else found
    if isinstance(listed, list) and not rule.kept("detections", listed, Detection):
        mended = type(found)(rule.mended("detections", listed, Detection))  # type: ignore[misc]
        result = msgspec.structs.replace(result, detections=mended)
    try:
        plain = msgspec.to_builtins(result, str_keys=True, enc_hook=_plain_number)
        fields = plain.items() if isinstance(plain, dict) else enumerate(plain)
        for name, value in fields:
            check_plain(f"{kind.__name__}.{name}", value, DEEPEST)
        return msgspec.convert(plain, kind, str_keys=True)  # as JSON's keys are
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, Unsound):
            raise
        raise Unsound(f"{kind.__name__} cannot be sent: {error}") from None


def _plain_number(value: object) -> object:
    """Return a number of numpy as Python's: models compute with those."""
    plain = getattr(value, "item", None)
    if plain is None or getattr(value, "shape", None) != ():
        raise TypeError(f"it holds a {type(value).__name__}")
    return plain()
