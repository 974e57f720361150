"""Validation of a model's result against the API's contract.

msgspec does not check types when a struct is constructed, so invalid results are caught here: a
wrong type, a NaN, a confidence of 33, a box with swapped corners or outside the image, a mask of
another size. Values out of range by rounding only are clipped, and integers become floats; any
other violation is rejected, never repaired.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import UNSET

from mataserver.engines.encoding import plain_value
from mataserver.engines.item_validation import (
    MAX_DEPTH,
    InvalidResultError,
    ItemValidator,
    check_plain,
)
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

    from mataserver.engines.item_validation import Size

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
_INFINITY_BITS = 0x7F80_0000
_WITH_TEXT = frozenset({OcrResult, VlmResult})
"""The results that have text fields in addition to lists."""


def no_raw_scores() -> bool:
    """Return False: scores are confidences."""
    return False


def validate_result(
    result: Any, task: str, size: Size | None = None, raw: Callable[[], bool] = no_raw_scores
) -> Any:
    """Validate a model's ``result`` for ``task``; return it normalized.

    ``size`` is the image's (height, width), None if unknown. ``raw()`` says whether the request
    asked for unnormalized scores. Raises ``InvalidResultError``.
    """
    kind = type(result)
    if kind not in _LISTS:
        kind = _result_type(result)
    if task not in kind.tasks:
        raise InvalidResultError(f"{kind.__name__} does not belong to the task {task}")
    if kind in _ARRAYS:
        _check_array(result, *_ARRAYS[kind])
        return result
    if kind in _WITH_TEXT:
        _check_text_fields(result)
    validator = ItemValidator(size, raw)
    normalized = {}
    for name, item in _LISTS[kind].items():
        items = getattr(result, name)
        if items is not UNSET and not validator.are_valid(name, items, item):
            normalized[name] = validator.normalize(name, items, item)
    return msgspec.structs.replace(result, **normalized) if normalized else result


def _result_type(result: object) -> Any:
    """Return the result struct that a result is an instance of; a plugin may subclass one."""
    for each in RESULT_TYPES:
        if isinstance(result, each):
            return each
    raise InvalidResultError(f"expected a result struct, got {type(result).__name__}")


def _check_array(result: object, name: str, dimensions: int) -> None:
    array: Any = getattr(result, name)
    shape, dtype = getattr(array, "shape", ()), getattr(array, "dtype", None)
    if len(shape) != dimensions or str(dtype) != "float32" or 0 in shape:
        raise InvalidResultError(
            f"{name} must be a float32 array of {dimensions} dimensions, not empty"
        )
    if not _is_finite(array):
        raise InvalidResultError(f"{name} holds numbers that are not finite")


def _is_finite(array: Any) -> bool:
    """Whether all numbers of a float32 array are finite.

    Depths are rarely negative: as whole numbers, the bits of all that are finite lie below those of
    infinity, so that one pass over the memory is enough. A sign bit makes two more necessary.
    """
    if type(array) is np.ndarray and array.view(np.uint32).max() < _INFINITY_BITS:
        return True
    return all(map(math.isfinite, (array.min(), array.max())))


def _check_text_fields(result: Any) -> None:
    if not isinstance(getattr(result, "text", ""), str):
        raise InvalidResultError(f"text is a {type(result.text).__name__}")
    usage = getattr(result, "usage", UNSET)
    if usage is UNSET:
        return
    counts = (usage.prompt_tokens, usage.completion_tokens) if isinstance(usage, Usage) else ()
    if not counts or any(type(each) is not int or each < 0 for each in counts):
        raise InvalidResultError("usage must be a Usage of whole numbers")


def validate_custom_result(
    result: Any, kind: type[msgspec.Struct], size: Size | None = None
) -> Any:
    """Validate the result of a plugin's own task; return it normalized.

    It must be an instance of ``kind`` with fields of the declared types and ranges, which both JSON
    and MessagePack can represent. ``detections`` follow the API's contract. Numpy scalars become
    Python numbers. Raises ``InvalidResultError``.
    """
    if not isinstance(result, kind):
        raise InvalidResultError(f"expected a {kind.__name__}, got {type(result).__name__}")
    validator, found = ItemValidator(size, no_raw_scores), getattr(result, "detections", None)
    listed = list(found) if isinstance(found, tuple) else found
    if isinstance(listed, list) and not validator.are_valid("detections", listed, Detection):
        normalized = type(found)(validator.normalize("detections", listed, Detection))  # type: ignore[misc]
        result = msgspec.structs.replace(result, detections=normalized)
    try:
        plain = msgspec.to_builtins(result, str_keys=True, enc_hook=plain_value)
        sound = msgspec.convert(plain, kind, str_keys=True)  # JSON keys are strings
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidResultError(f"{kind.__name__} cannot be sent: {error}") from None
    fields = plain.items() if isinstance(plain, dict) else enumerate(plain)
    for name, value in fields:
        check_plain(f"{kind.__name__}.{name}", value, MAX_DEPTH)
    return sound
