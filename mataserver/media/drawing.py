"""Drawing of a model's result into a picture: boxes, masks, keypoints, labels, depth, text."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
import simplejpeg
from msgspec import UNSET, Struct
from PIL import Image

from mataserver.media.annotator import Annotator, colour_of
from mataserver.results import (
    RESULT_TYPES,
    DepthResult,
    Detection,
    InferResponse,
    SegmentResult,
    VlmResult,
    is_task,
)
from mataserver_client.pixels import depth_array, mask_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mataserver.results import Result


QUALITY = 85
MASK_OPACITY = 0.45


def draw(jpeg: bytes, result: Result) -> bytes:
    """Return a JPEG of the frame with its result drawn in.

    Raises ``ValueError`` for bytes that are not a JPEG.
    """
    picture = drawn(simplejpeg.decode_jpeg(jpeg, colorspace="RGB"), result)
    buffer = io.BytesIO()
    # No chroma subsampling: thin coloured lines stay sharp.
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def drawn(pixels: NDArray[np.uint8], result: Result) -> Image.Image:
    """Draw a result into the pixels ``[H, W, 3]``, which are modified; return the picture."""
    picture = Image.fromarray(_blended(pixels, result))
    Annotator(picture).draw(result)
    return picture


def result_of(found: Result | InferResponse | Mapping[str, Any]) -> Result:
    """Return a result as the model produced it, before encoding.

    ``found`` is a result, a client's answer, or an answer's JSON. Raises ``ValueError`` for
    anything else.
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
    """The drawable fields in the result of a plugin's own task."""

    text: str = ""
    detections: list[Detection] = []


def _brought(output: object) -> VlmResult:
    """Return the drawable fields of an ``output``: its ``detections`` and ``text``, if any."""
    try:
        found = msgspec.convert(output, _Drawable)
        return VlmResult(found.text, detections=found.detections)
    except msgspec.ValidationError:  # a plugin may use these names for something else
        return VlmResult("")


def _blended(pixels: NDArray[np.uint8], result: Result) -> NDArray[np.uint8]:
    """Blend a result's masks into the pixels ``[H, W, 3]``, or return its depth map instead."""
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
    """Return the depth ``[h, w]`` from blue (minimum) to red (maximum), at the frame's size."""
    low, high = float(depth.min()), float(depth.max())
    share = (depth - low) / (high - low) if high > low else np.zeros_like(depth)
    bands = np.stack([share, 1 - np.abs(2 * share - 1), 1 - share], axis=-1)
    small = Image.fromarray((bands * 255).astype(np.uint8))
    return np.array(small.resize((pixels.shape[1], pixels.shape[0])))
