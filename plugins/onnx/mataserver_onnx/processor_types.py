"""The image processors of transformers that are known here, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_BILINEAR, _BICUBIC = 2, 3
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True, slots=True)
class ProcessorType:
    """The defaults of one processor, and its method of finding the size (``resizing``).

    ``ignored`` are settings of others that it ignores; ``number`` is the meaning of a size that is
    a bare number, if not that of ``size``.
    """

    resizing: str
    size: Mapping[str, int]
    mean: tuple[float, ...] = _HALF
    std: tuple[float, ...] = _HALF
    resample: int = _BICUBIC
    crop: Mapping[str, int] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    number: Mapping[str, int] | None = None


def square(side: int) -> dict[str, int]:
    """Return a size of equal sides."""
    return {"height": side, "width": side}


def shortest(side: int) -> dict[str, int]:
    """Return a size that keeps the aspect ratio."""
    return {"shortest_edge": side}


_WHOLE = frozenset({"do_center_crop"})
_EDGES = {"shortest_edge": 800, "longest_edge": 1333}
_DETR = ProcessorType("edges", _EDGES, *_IMAGENET, _BILINEAR, ignored=_WHOLE)
_MOBILE = ProcessorType("plain", shortest(256), resample=_BILINEAR, crop=square(224))

PROCESSORS: dict[str, ProcessorType] = {
    "BeitImageProcessor": ProcessorType("plain", square(224)),
    "BitImageProcessor": ProcessorType("plain", shortest(224), *_CLIP, crop=square(224)),
    "CLIPImageProcessor": ProcessorType("plain", shortest(224), *_CLIP, crop=square(224)),
    "ConditionalDetrImageProcessor": _DETR,
    "ConvNextImageProcessor": ProcessorType("convnext", shortest(384), extra={"crop_pct": 0.875}),
    "DPTImageProcessor": ProcessorType(
        "multiple",
        square(384),
        extra={"keep_aspect_ratio": False, "ensure_multiple_of": 1},
        ignored=_WHOLE,
    ),
    "DeformableDetrImageProcessor": _DETR,
    "DeiTImageProcessor": ProcessorType("plain", square(256), crop=square(224)),
    "DetrImageProcessor": _DETR,
    "EfficientNetImageProcessor": ProcessorType(
        "plain", square(346), extra={"rescale_offset": False, "include_top": True}
    ),
    "GLPNImageProcessor": ProcessorType(
        "divisor",
        {},
        resample=_BILINEAR,
        extra={"size_divisor": 32, "do_normalize": False},
        ignored=_WHOLE,
    ),
    "LevitImageProcessor": ProcessorType("levit", shortest(224), *_IMAGENET, crop=square(224)),
    "MobileNetV1ImageProcessor": _MOBILE,
    "MobileNetV2ImageProcessor": _MOBILE,
    "MobileViTImageProcessor": ProcessorType(
        "plain",
        shortest(224),
        crop=square(256),
        extra={"do_normalize": False, "do_flip_channel_order": True},
        ignored=frozenset({"do_normalize"}),
    ),
    "PoolFormerImageProcessor": ProcessorType(
        "poolformer", shortest(224), *_IMAGENET, crop=square(224), extra={"crop_pct": 0.9}
    ),
    "PvtImageProcessor": ProcessorType("plain", square(224), *_IMAGENET),
    "RTDetrImageProcessor": ProcessorType(
        "edges",
        square(640),
        *_IMAGENET,
        _BILINEAR,
        extra={"do_normalize": False},
        ignored=_WHOLE,
    ),
    "SegformerImageProcessor": ProcessorType(
        "plain", square(512), *_IMAGENET, _BILINEAR, ignored=_WHOLE
    ),
    "SiglipImageProcessor": ProcessorType("plain", square(224), number=shortest(224)),
    "ViTImageProcessor": ProcessorType("plain", square(224), resample=_BILINEAR),
    "YolosImageProcessor": ProcessorType("yolos", _EDGES, *_IMAGENET, _BILINEAR, ignored=_WHOLE),
}
"""The supported image processors, by ``image_processor_type``."""
