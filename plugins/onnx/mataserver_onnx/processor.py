"""Image processor settings: reimplements transformers' image processors without transformers.

Each type is checked against transformers itself, value for value. A setting that no published
checkpoint of a type uses is refused rather than guessed at.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from mataserver import BadRequest, MataError
from mataserver_onnx.graph import printable
from mataserver_onnx.preparation import Geometry, Preparation, fixed_size, stretched, table
from mataserver_onnx.processor_types import PROCESSORS, shortest, square

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mataserver_onnx.preparation import Tensor
    from mataserver_onnx.processor_types import ProcessorType

    Size = tuple[int, int]
    Plan = Callable[[int, int], Geometry]

_SMALL = 384
_GLPN_PIXELS = 4 * 480 * 640
"""To how many pixels a larger image is reduced for GLPN, as by the plugin hf."""
_MOST_SQUARES = 16
"""How often the stated size may fit into an image whose shape is kept; nothing else limits it."""
_MAX_SIDE = 8192
"""The longest side that an image is scaled or cut to, as of an ONNX file's own input."""
_PROBE_SIDE = 1024
"""The side of the image that shows how large others become."""
_SPECIAL = frozenset[str]().union(*(each.extra for each in PROCESSORS.values())) - {"do_normalize"}
"""Settings that some processors alone have. Configurations keep those of a former processor."""


def type_of(settings: Mapping[str, Any]) -> str:
    """Return the processor's type, without the suffix of one of transformers' implementations."""
    name = str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")
    for mark in ("Fast", "Pil"):
        name = name.removesuffix(mark)
    return name.replace("FeatureExtractor", "ImageProcessor")


def read(
    settings: Mapping[str, Any], stretch: Size | None = None, *, blue_first: bool | None = None
) -> Preparation:
    """Return the preparation that an image processor's settings describe.

    ``stretch`` is the (height, width) of a network with a fixed input, which replaces a processor
    that keeps the aspect ratio; ``blue_first`` is the order of colours, if it is not the
    processor's. Raises ``MataError`` for an unsupported type or setting.
    """
    name = type_of(settings)
    kind = PROCESSORS.get(name)
    if kind is None:
        raise MataError(
            f"the model's configuration names {printable(name) or 'no processor'}, which is not "
            "known here: state input_size, mean and std under plugins.onnx.models"
        )
    try:
        others = kind.ignored | (_SPECIAL - kind.extra.keys())
        own = {key: value for key, value in settings.items() if key not in others}
        if blue_first is not None:
            own["do_flip_channel_order"] = blue_first
        plan = _ProcessorSettings(kind, {**kind.extra, **own})
        return plan.preparation(stretch)
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise MataError("the settings of the model's image processor cannot be used") from error


class _ProcessorSettings:
    """One processor's settings, over the defaults of its type."""

    def __init__(self, kind: ProcessorType, given: Mapping[str, Any]) -> None:
        self._kind = kind
        self._settings = given
        if given.get("pad_size") or (given.get("do_pad") and kind.resizing == "multiple"):
            raise MataError("the model's preprocessor pads images in an unknown way")
        size = given.get("size")
        number = kind.number or kind.size
        self._size = _sides(kind.size if size is None else size, number, given.get("max_size"))
        crop = given.get("crop_size")
        self._crop = _sides(kind.crop if crop is None else crop, square(1))

    def preparation(self, stretch: Size | None) -> Preparation:
        """Build the preparation."""
        plan = self._plan()
        # A share or a multiple makes more of the sizes that are stated, or nothing.
        rows, columns = plan(_PROBE_SIDE, _PROBE_SIDE).resize
        _checked({"height": rows, "width": columns})
        fixed = fixed_size(plan)
        if stretch is not None and fixed is not None and fixed != stretch:
            raise MataError(
                f"the network takes images of {stretch[1]}x{stretch[0]} pixels, but "
                f"its image processor makes {fixed[1]}x{fixed[0]} of them"
            )
        if stretch is not None and fixed is None:
            plan = stretched(stretch)
        resample = self._settings.get("resample")
        flip, values = bool(self._settings.get("do_flip_channel_order")), self._table()
        return Preparation(
            plan,
            values[::-1] if flip else values,  # each colour keeps its own mean and deviation
            resample=self._kind.resample if resample is None else int(resample),
            flip=flip,
        )

    def _table(self) -> Tensor:
        """Return the values of bytes. Raises ``ValueError`` where some are no numbers."""
        given = self._settings
        mean, std = self._or_usual("image_mean"), self._or_usual("image_std")
        steps = [(mean, std)] if given.get("do_normalize", True) else []
        if given.get("include_top"):
            steps.append((0.0, std))
        rescale = given.get("rescale_factor")
        factor: float | None = 1 / 255 if rescale is None else float(rescale)
        offset = -1.0 if given.get("rescale_offset") else 0.0
        if not given.get("do_rescale", True):
            factor, offset = None, 0.0
        with np.errstate(all="ignore"):
            values = table(factor, steps, offset)
        if not np.isfinite(values).all():
            raise ValueError("a deviation of 0, or a number without end")
        return values

    def _or_usual(self, name: str) -> Any:
        """Return a setting of colours, or the type's; 0 is a setting."""
        given = self._settings.get(name)
        return getattr(self._kind, name.removeprefix("image_")) if given is None else given

    def _plan(self) -> Plan:
        if not self._settings.get("do_resize", True):
            return self._cropped(lambda height, width: (height, width))
        way = self._kind.resizing
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
        # A null is no: transformers keeps it over the type's default.
        crops = bool(self._settings.get("do_center_crop", self._kind.crop is not None))
        crop = (self._crop["height"], self._crop["width"]) if crops else None
        return lambda height, width: Geometry(resized(height, width), crop)

    # sizes: (height, width) of an image to (height, width) of what it is resized to

    def _plain(self, height: int, width: int) -> Size:
        size = self._size
        if "longest_edge" in size:
            return _resize_within((height, width), size["shortest_edge"], size["longest_edge"])
        if "shortest_edge" in size:
            return _resize_shorter((height, width), size["shortest_edge"])
        return size["height"], size["width"]

    def _yolos(self, height: int, width: int) -> Size:
        size = self._size
        if "longest_edge" not in size:
            return self._plain(height, width)
        edge, longest = size["shortest_edge"], size["longest_edge"]
        rows, columns = _resize_within((height, width), edge, longest, keep=width >= height)
        return rows - rows % 16, columns - columns % 16

    def _levit(self, height: int, width: int) -> Size:
        if "shortest_edge" not in self._size:
            return self._plain(height, width)
        return _resize_shorter((height, width), int((256 / 224) * self._size["shortest_edge"]))

    def _poolformer(self, height: int, width: int) -> Size:
        part, size = self._settings["crop_pct"], self._size
        if part is None:
            return self._plain(height, width)
        if "shortest_edge" in size or size["height"] == size["width"]:
            side = size.get("shortest_edge") or size["height"]
            return _resize_shorter((height, width), int(side / part))
        return int(size["height"] / part), int(size["width"] / part)

    def _multiple(self, height: int, width: int) -> Size:
        high, wide = self._size["height"] / height, self._size["width"] / width
        if self._settings["keep_aspect_ratio"]:
            high = wide = wide if abs(1 - wide) < abs(1 - high) else high
            self._check_squares(height, width, high)
        step = self._settings["ensure_multiple_of"]
        return _nearest(high * height, step), _nearest(wide * width, step)

    def _check_squares(self, height: int, width: int, scale: float) -> None:
        """Raise ``BadRequest`` for an image so long that attention would see too many tokens."""
        stated = self._size["height"] * self._size["width"]
        if scale * scale * height * width > _MOST_SQUARES * stated:
            raise BadRequest(
                f"an image of {width}x{height} pixels is too small or too narrow for this model"
            )

    def _divisor(self, height: int, width: int) -> Size:
        step = int(self._settings["size_divisor"])
        scale = min(1.0, math.sqrt(_GLPN_PIXELS / (height * width)))
        rows, columns = (
            min(side // step, max(1, int(side * scale) // step)) * step for side in (height, width)
        )
        if scale == 1.0:
            return rows, columns
        most = _GLPN_PIXELS // max(step, min(rows, columns)) // step * step
        return min(rows, most), min(columns, most)

    def _convnext(self) -> Plan:
        if self._settings.get("do_center_crop"):
            raise MataError("the model's preprocessor crops images in an unknown way")
        side = self._size["shortest_edge"]
        if side >= _SMALL:
            return stretched((side, side))
        first = int(side / self._settings["crop_pct"])
        return lambda height, width: Geometry(_resize_shorter((height, width), first), (side, side))


def _sides(given: Any, usual: Mapping[str, int], longest: int | None = None) -> dict[str, int]:
    """Return a size as a dict; a bare number has the meaning of the type's default size.

    Raises ``MataError`` for a side that no image has.
    """
    if given is None:
        return {}
    if not isinstance(given, int):
        return _checked({name: int(side) for name, side in dict(given).items() if side})
    if "shortest_edge" not in usual:
        return _checked(square(given))
    if "longest_edge" in usual:
        return _checked(shortest(given) | {"longest_edge": int(longest or usual["longest_edge"])})
    return _checked(shortest(given))


def _checked(sides: dict[str, int]) -> dict[str, int]:
    """Return the sides: an image of theirs is allocated in the worker, whatever a file asks for."""
    for name, side in sides.items():
        # The longer edge is a bound alone, that some checkpoints set beyond every image.
        if side < 1 or (side > _MAX_SIDE and name != "longest_edge"):
            raise MataError(
                f"the model's image processor makes images of {name} {side}; "
                f"1 to {_MAX_SIDE} pixels are possible"
            )
    return sides


def _resize_shorter(size: Size, edge: int) -> Size:
    """Scale so that the shorter side is ``edge``."""
    height, width = size
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def _resize_within(size: Size, edge: int, longest: int, *, keep: bool = True) -> Size:
    """Scale the shorter side to ``edge``, or the longer to ``longest`` if it would exceed that.

    The longer side is computed from the shorter one before that is rounded, as in transformers.
    ``keep`` an image whose shorter side is ``edge`` already.
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
