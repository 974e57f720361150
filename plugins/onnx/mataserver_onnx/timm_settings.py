"""timm's description of the pictures that a network takes: ``pretrained_cfg`` in its config."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    Size = tuple[int, int]
    Triple = tuple[float, float, float]

_RESAMPLES = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
"""Pillow's numbers of the filters, by timm's names."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_UNUSABLE = "the pretrained_cfg in the model's config.json cannot be used"


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


def read(config: Mapping[str, Any]) -> TimmSettings | None:
    """Return the settings in a ``config.json``, or None where timm wrote none.

    Raises ``MataError`` for values that timm does not write.
    """
    given = config.get("pretrained_cfg")
    if not isinstance(given, dict):
        return None
    mode, interpolation = given.get("crop_mode") or "center", given.get("interpolation")
    if mode not in {"center", "squash"} or (interpolation or "bicubic") not in _RESAMPLES:
        raise MataError(
            f"{_UNUSABLE}: state input_size, mean, std and resize under plugins.onnx.models"
        )
    try:
        side = given.get("input_size")
        found = TimmSettings(
            size=None if side is None else _size(side),
            mean=_triple(given.get("mean") or _MEAN),
            std=_triple(given.get("std") or _STD),
            share=float(given.get("crop_pct") or 0.875),
            squashes=mode == "squash",
            resample=_RESAMPLES[interpolation or "bicubic"],
        )
    except (TypeError, ValueError) as error:
        raise MataError(_UNUSABLE) from error
    if not (0 < found.share <= 1 and min(found.std) > 0):
        raise MataError(_UNUSABLE)
    return found


def _size(given: Any) -> Size:
    channels, height, width = (int(side) for side in given)
    if channels != 3 or min(height, width) < 1:
        raise ValueError("not the size of a picture with three colours")
    return height, width


def _triple(given: Any) -> Triple:
    red, green, blue = (float(value) for value in given)
    return red, green, blue
