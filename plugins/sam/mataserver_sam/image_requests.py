"""The requests and answers of ``/api/v1/image``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

from msgspec import UNSET, Meta, Struct, UnsetType

from mataserver_sam.prompts import MAX_PROMPTS, Prompts, Request, Share, Words

MaskFormat = Literal["rle", "coco", "png", "polygon"]
Image = Annotated[str, Meta(extra_json_schema={"minLength": 1})]
GpuMemory = list[tuple[int, int, int]]
"""Index, allocated and reserved bytes of each GPU that a worker uses."""
ImageId = Annotated[str, Meta(max_length=64)]


class SegmentRequest(Request, frozen=True, kw_only=True):
    """``POST /api/v1/image/segment``.

    image:                base64 of an encoded image, with or without ``data:image/...;base64,``.
    image_id:             instead of ``image``: one that an answer before gave.
    keep_image:           whether to keep ``image``, so that it can be asked about by its id.
    prompts:              1 to 64 prompts.
    confidence_threshold: masks with a lower score are left out.
    all_masks:            whether a point prompt, or a box of SAM 1 and 2, is answered with each of
                          the three masks that the network proposes, best first.
    return_visualization: whether to draw a picture of the answer.
    mask_format:          "rle", "coco", "png" or "polygon"; null takes the server's.
    """

    image: Image | None = None
    image_id: ImageId | None = None
    keep_image: bool = False
    prompts: Prompts
    confidence_threshold: Share = 0.5
    all_masks: bool = False
    return_visualization: bool = False
    mask_format: MaskFormat | None = None


class CachedRequest(Request, frozen=True, kw_only=True):
    """``POST /api/v1/image/cached-features``; the fields it shares mean the same."""

    image: Image | None = None
    image_id: ImageId | None = None
    keep_image: bool = False
    text_prompts: Annotated[list[Words], Meta(min_length=1, max_length=MAX_PROMPTS)]
    confidence_threshold: Share = 0.5
    mask_format: MaskFormat | None = None

    def __post_init__(self) -> None:
        """Refuse empty texts. Raises ``ValueError``."""
        for index, text in enumerate(self.text_prompts):
            if not text.strip():
                raise ValueError(f"text_prompts[{index}] is empty")


class ImageSize(Struct, frozen=True):
    """The size of the image as it is shown: its EXIF orientation is applied."""

    width: int
    height: int


class SegmentAnswer(Struct, frozen=True, kw_only=True):
    """The answer of ``segment``; ``masks``, ``boxes`` and ``scores`` are of equal length.

    masks:  in the asked format, each of the image's size.
    boxes:  ``[cx, cy, w, h]`` in 0..1.
    labels: the text that a mask was found by; "visual" for boxes and points alone.
    image_id: by which the image can be asked about again; absent if it is not kept.
    """

    masks: list[Any]
    boxes: list[tuple[float, float, float, float]]
    scores: list[float]
    labels: list[str]
    num_masks: int
    image_size: ImageSize
    visualization_url: str | None
    inference_time_ms: float
    image_id: str | UnsetType = UNSET


class CachedResult(Struct, frozen=True, kw_only=True):
    """What one text found."""

    prompt: str
    masks: list[Any]
    boxes: list[tuple[float, float, float, float]]
    scores: list[float]
    num_masks: int


class CachedAnswer(Struct, frozen=True, kw_only=True):
    """The answer of ``cached-features``: one result per text, in their order."""

    results: list[CachedResult]
    cache_hit: bool
    inference_time_ms: float
    image_id: str | UnsetType = UNSET


class WorkerAnswer(NamedTuple):
    """A worker's answer to a request.

    body:    the answer as JSON.
    timing:  the stages of the work, as the value of a ``Server-Timing`` header.
    gpus:    what the worker holds.
    picture: a PNG that shows the answer, if requested.
    """

    body: bytes
    timing: str
    gpus: GpuMemory
    picture: bytes = b""
