"""Settings of image processors: what transformers' image processors do, without transformers.

Each kind is checked against transformers itself, value for value. A setting that none of the
published checkpoints of a kind uses is refused rather than guessed at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mataserver import MataError
from mataserver_onnx.preparation import Geometry, Preparation, fixed_size, stretched, table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Size = tuple[int, int]
    Plan = Callable[[int, int], Geometry]

_BILINEAR, _BICUBIC = 2, 3
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SMALL = 384


@dataclass(frozen=True, slots=True)
class Kind:
    """The defaults of one processor, and how it finds the size (``way``)."""

    way: str
    size: Mapping[str, int]
    mean: tuple[float, ...] = _HALF
    std: tuple[float, ...] = _HALF
    resample: int = _BICUBIC
    crop: Mapping[str, int] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _shortest(side: int) -> dict[str, int]:
    return {"shortest_edge": side}


_DETR = Kind("edges", {"shortest_edge": 800, "longest_edge": 1333}, *_IMAGENET, _BILINEAR)
_MOBILE = Kind("plain", _shortest(256), resample=_BILINEAR, crop=_square(224))

KINDS: dict[str, Kind] = {
    "BeitImageProcessor": Kind("plain", _square(224)),
    "BitImageProcessor": Kind("plain", _shortest(224), *_CLIP, crop=_square(224)),
    "CLIPImageProcessor": Kind("plain", _shortest(224), *_CLIP, crop=_square(224)),
    "ConditionalDetrImageProcessor": _DETR,
    "ConvNextImageProcessor": Kind("convnext", _shortest(384), more={"crop_pct": 0.875}),
    "DPTImageProcessor": Kind(
        "multiple", _square(384), more={"keep_aspect_ratio": False, "ensure_multiple_of": 1}
    ),
    "DeformableDetrImageProcessor": _DETR,
    "DeiTImageProcessor": Kind("plain", _square(256), crop=_square(224)),
    "DetrImageProcessor": _DETR,
    "EfficientNetImageProcessor": Kind(
        "plain", _square(346), more={"rescale_offset": False, "include_top": True}
    ),
    "GLPNImageProcessor": Kind(
        "divisor", {}, resample=_BILINEAR, more={"size_divisor": 32, "do_normalize": False}
    ),
    "LevitImageProcessor": Kind("levit", _shortest(224), *_IMAGENET, crop=_square(224)),
    "MobileNetV1ImageProcessor": _MOBILE,
    "MobileNetV2ImageProcessor": _MOBILE,
    "MobileViTImageProcessor": Kind(
        "plain",
        _shortest(224),
        crop=_square(256),
        more={"do_normalize": False, "do_flip_channel_order": True},
    ),
    "PoolFormerImageProcessor": Kind(
        "poolformer", _shortest(224), *_IMAGENET, crop=_square(224), more={"crop_pct": 0.9}
    ),
    "PvtImageProcessor": Kind("plain", _square(224), *_IMAGENET),
    "RTDetrImageProcessor": Kind(
        "edges", _square(640), *_IMAGENET, _BILINEAR, more={"do_normalize": False}
    ),
    "SegformerImageProcessor": Kind("plain", _square(512), *_IMAGENET, _BILINEAR),
    "SiglipImageProcessor": Kind("plain", _square(224)),
    "ViTImageProcessor": Kind("plain", _square(224), resample=_BILINEAR),
    "YolosImageProcessor": Kind("yolos", _DETR.size, *_IMAGENET, _BILINEAR),
}
"""The image processors that are known, by ``image_processor_type``."""


def kind_of(settings: Mapping[str, Any]) -> str:
    """Return the processor's type, without the mark of one of transformers' implementations."""
    name = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    for mark in ("Fast", "Pil"):
        name = name.removesuffix(mark)
    return name.replace("FeatureExtractor", "ImageProcessor")


def read(settings: Mapping[str, Any], stretch: Size | None = None) -> Preparation:
    """Return what the settings of an image processor ask for.

    ``stretch`` is the (height, width) that a network of one size takes, where the processor would
    keep the aspect ratio. Raises ``MataError`` for a type or a setting that is not known.
    """
    name = kind_of(settings)
    kind = KINDS.get(name)
    if kind is None:
        raise MataError(
            f"the model's configuration names {name[:60] or 'no processor'}, which is not "
            "known here: state input_size, mean and std under plugins.onnx.models"
        )
    try:
        plan = _Recipe(kind, {**kind.more, **settings})
        return plan.preparation(stretch)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise MataError("the settings of the model's image processor cannot be used") from error


class _Recipe:
    """One processor's settings, over the defaults of its kind."""

    def __init__(self, kind: Kind, given: Mapping[str, Any]) -> None:
        self._kind = kind
        self._given = given
        if given.get("pad_size") or (given.get("do_pad") and kind.way == "multiple"):
            raise MataError("the model's preprocessor pads images in a way that is not known here")
        size = given.get("size")
        self._size = _sides(kind.size if size is None else size, kind.size, given.get("max_size"))
        crop = given.get("crop_size")
        self._crop = _sides(kind.crop if crop is None else crop, _square(1))

    def preparation(self, stretch: Size | None) -> Preparation:
        """Put the parts together."""
        plan = self._plan()
        fixed = fixed_size(plan)
        if stretch is not None and fixed is not None and fixed != stretch:
            raise MataError(
                f"the network takes images of {stretch[1]}x{stretch[0]} pixels, but "
                f"its image processor makes {fixed[1]}x{fixed[0]} of them"
            )
        if stretch is not None and fixed is None:
            plan = stretched(stretch)
        resample = self._given.get("resample")
        return Preparation(
            plan,
            self._table(),
            resample=self._kind.resample if resample is None else int(resample),
            flip=bool(self._given.get("do_flip_channel_order")),
        )

    def _table(self) -> Any:
        given = self._given
        mean = given.get("image_mean") or self._kind.mean
        std = given.get("image_std") or self._kind.std
        steps = [(mean, std)] if given.get("do_normalize", True) else []
        if given.get("include_top"):
            steps.append((0.0, std))
        rescale = given.get("rescale_factor")
        factor = 1 / 255 if rescale is None else float(rescale)
        offset = -1.0 if given.get("rescale_offset") else 0.0
        if not given.get("do_rescale", True):
            return table(None, steps)
        return table(factor, steps, offset)

    def _plan(self) -> Plan:
        if not self._given.get("do_resize", True):
            return self._cropped(lambda height, width: (height, width))
        way = self._kind.way
        if way == "convnext":
            return self._convnext()
        resized = {
            "plain": self._plain,
            "edges": self._plain,
            "yolos": self._yolos,
            "levit": self._levit,
            "poolformer": self._poolformer,
            "multiple": self._multiple,
            "divisor": self._divisor,
        }[way]
        return self._cropped(resized)

    def _cropped(self, resized: Callable[[int, int], Size]) -> Plan:
        wanted = self._given.get("do_center_crop")
        crops = self._kind.crop is not None if wanted is None else bool(wanted)
        crop = (self._crop["height"], self._crop["width"]) if crops else None
        return lambda height, width: Geometry(resized(height, width), crop)

    # sizes: (height, width) of an image to (height, width) of what it is resized to

    def _plain(self, height: int, width: int) -> Size:
        size = self._size
        if "longest_edge" in size:
            return _within((height, width), size["shortest_edge"], size["longest_edge"])
        if "shortest_edge" in size:
            return _short((height, width), size["shortest_edge"])
        return size["height"], size["width"]

    def _yolos(self, height: int, width: int) -> Size:
        size = self._size
        if "longest_edge" not in size:
            return self._plain(height, width)
        edge, longest = size["shortest_edge"], size["longest_edge"]
        rows, columns = _within((height, width), edge, longest, keep=width >= height)
        return rows - rows % 16, columns - columns % 16

    def _levit(self, height: int, width: int) -> Size:
        if "shortest_edge" not in self._size:
            return self._plain(height, width)
        return _short((height, width), int((256 / 224) * self._size["shortest_edge"]))

    def _poolformer(self, height: int, width: int) -> Size:
        part, size = self._given["crop_pct"], self._size
        if part is None:
            return self._plain(height, width)
        if "shortest_edge" in size or size["height"] == size["width"]:
            side = size.get("shortest_edge") or size["height"]
            return _short((height, width), int(side / part))
        return int(size["height"] / part), int(size["width"] / part)

    def _multiple(self, height: int, width: int) -> Size:
        high, wide = self._size["height"] / height, self._size["width"] / width
        if self._given["keep_aspect_ratio"]:
            high = wide = wide if abs(1 - wide) < abs(1 - high) else high
        step = self._given["ensure_multiple_of"]
        return _nearest(high * height, step), _nearest(wide * width, step)

    def _divisor(self, height: int, width: int) -> Size:
        step = int(self._given["size_divisor"])
        return height // step * step, width // step * step

    def _convnext(self) -> Plan:
        side = self._size["shortest_edge"]
        if side >= _SMALL:
            return stretched((side, side))
        first = int(side / self._given["crop_pct"])
        return lambda height, width: Geometry(_short((height, width), first), (side, side))


def _sides(given: Any, usual: Mapping[str, int], longest: int | None = None) -> dict[str, int]:
    """Return a size as a dict; a bare number is what the kind's own size would be."""
    if given is None:
        return {}
    if isinstance(given, int):
        if "shortest_edge" not in usual:
            return _square(given)
        return _shortest(given) | ({"longest_edge": longest} if longest else {})
    return {name: int(side) for name, side in dict(given).items() if side}


def _short(size: Size, edge: int) -> Size:
    """Bring the shorter side to ``edge``."""
    height, width = size
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def _within(size: Size, edge: int, longest: int, *, keep: bool = True) -> Size:
    """Bring the shorter side to ``edge``, or the longer one to ``longest`` if it would exceed it.

    The longer side is computed from the shorter one before that is rounded, as transformers does.
    ``keep`` an image whose shorter side is right as it is.
    """
    height, width = size
    short, long = float(min(size)), float(max(size))
    exact: float = edge
    if long / short * edge > longest:
        exact = longest * short / long
        edge = round(exact)
    if keep and min(size) == edge:
        return height, width
    if width < height:
        return int(exact * height / width), edge
    return edge, int(exact * width / height)


def _nearest(value: float, step: float) -> int:
    side = round(value / step) * step
    if side < 0:
        side = math.ceil(value / step) * step
    return int(side)
