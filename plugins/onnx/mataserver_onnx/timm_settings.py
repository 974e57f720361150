"""timm's description of the pictures that a network takes: ``pretrained_cfg`` in its config."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.options import LayoutName, ModelOptions

    Size = tuple[int, int]
    Triple = tuple[float, float, float]

LAYOUTS: frozenset[LayoutName] = frozenset({"classes", "vector"})
"""The layouts of the networks that timm makes; pictures for others are never prepared so."""
_RESAMPLES = {
    "nearest": 0,
    "lanczos": 1,
    "bilinear": 2,
    "bicubic": 3,
    "box": 4,
    "hamming": 5,
    # In training, bilinear or bicubic for each picture. Validation took it for bilinear in timm's
    # older versions, and fails in the newer ones.
    "random": 2,
}
"""Pillow's numbers of the filters, by timm's names."""
_MIN_SHARE = 0.1
"""The smallest share that is believed: pictures are enlarged by its inverse before they are cut."""
_MAX_SIDE = 8192
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_UNUSABLE = (
    "the pretrained_cfg in the model's config.json cannot be used: state input_size, mean, std and "
    "resize under plugins.onnx.models"
)


class TimmSettings(NamedTuple):
    """How timm prepares pictures for a network; what is not stated has timm's defaults.

    size:      height and width of the input.
    share:     the share of the resized picture's side that the network sees.
    squashes:  whether the picture is stretched, and not cropped to the input's aspect ratio.
    resample:  Pillow's number of the filter.
    """

    size: Size | None
    mean: Triple
    std: Triple
    share: float
    squashes: bool
    resample: int

    def resized(self, size: Size) -> Size:
        """Return the (height, width) of which the centre is the input, of ``size``."""
        return math.floor(size[0] / self.share), math.floor(size[1] / self.share)


def find(bundle: Bundle, layout: LayoutName, options: ModelOptions) -> TimmSettings | None:
    """Return timm's settings, or None where something else decides how pictures are prepared.

    That is an image processor, the options, or a layout of which timm makes no networks. Raises
    ``MataError`` for values that timm does not write.
    """
    if bundle.processor or options.states_preparation or layout not in LAYOUTS:
        return None
    return read(bundle.config)


def read(config: Mapping[str, Any]) -> TimmSettings | None:
    """Return the settings in a ``config.json``, or None where timm wrote none.

    Raises ``MataError`` for values that timm does not write.
    """
    given = config.get("pretrained_cfg")
    if not isinstance(given, dict):
        return None
    mode = given.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise MataError(_UNUSABLE)
    try:
        found = TimmSettings(
            size=size(config),
            mean=_triple(given.get("mean") or _MEAN),
            std=_triple(given.get("std") or _STD),
            share=float(given.get("crop_pct") or 0.875),
            squashes=mode == "squash",
            resample=_RESAMPLES[given.get("interpolation") or "bicubic"],
        )
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise MataError(_UNUSABLE) from error
    finite = all(math.isfinite(value) for value in (*found.mean, *found.std))
    if not (finite and min(found.std) > 0 and _MIN_SHARE <= found.share <= 1):
        raise MataError(_UNUSABLE)
    return found


def size(config: Mapping[str, Any]) -> Size | None:
    """Return the (height, width) in a ``config.json``, or None where timm wrote none.

    Raises ``MataError`` where it is not the size of a picture with three colours.
    """
    given = config.get("pretrained_cfg")
    sides = given.get("input_size") if isinstance(given, dict) else None
    if sides is None:
        return None
    try:
        channels, height, width = (int(side) for side in sides)
    except (OverflowError, TypeError, ValueError) as error:
        raise MataError(_UNUSABLE) from error
    if channels != 3 or not 1 <= min(height, width) <= max(height, width) <= _MAX_SIDE:
        raise MataError(_UNUSABLE)
    return height, width


def _triple(given: Any) -> Triple:
    red, green, blue = (float(value) for value in given)
    return red, green, blue
