"""The limits of what an image processor's settings have a worker allocate for one image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mataserver import MataError

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_SIDE = 8192
"""The longest side in pixels that an image is scaled, cut or padded to."""
_SIZES = ("size", "crop_size", "pad_size", "max_image_size")


def check_sizes(processor: Any) -> None:
    """Raise ``MataError`` where ``processor`` makes images with a side over ``_MAX_SIDE``, or none.

    Its settings come with the model: an image of a million pixels by as many would take terabytes.
    Raises ``ValueError`` or ``TypeError`` for a side that is no number.
    """
    for name, side in _sides(processor):
        if not 1 <= side <= _MAX_SIDE:  # NaN is no side either
            raise MataError(
                f"the model's image processor makes images of {name} {side:.10g}; "
                f"1 to {_MAX_SIDE} pixels are possible"
            )


def _sides(processor: Any) -> Iterator[tuple[str, float]]:
    """Yield the sides in pixels that a processor's settings state, and what they are called."""
    fills = type(processor).__name__.startswith("Eomt")  # pads images to both edges
    for setting in _SIZES:
        stated = dict(getattr(processor, setting, None) or {})
        for name, side in stated.items():
            pixels = _in_pixels(processor, setting, float(side or 0))
            # Beside another one the longer edge is a bound alone, that may lie beyond every image.
            if side and (name != "longest_edge" or len(stated) == 1 or fills):
                yield f"{setting} {name}", pixels
    for place in getattr(processor, "image_grid_pinpoints", None) or ():
        yield "image_grid_pinpoints", float(max(place))
    if step := getattr(processor, "size_divisor", None):  # what MaskFormer rounds sides up to
        yield "size_divisor", float(step)
    if count := getattr(processor, "max_num_patches", None):  # SigLIP 2 fills up to so many
        yield "max_num_patches", math.sqrt(count) * processor.patch_size


def _in_pixels(processor: Any, setting: str, side: float) -> float:
    """Return a stated side in pixels: that of a square for Qwen, which states areas.

    ConvNeXt and PoolFormer enlarge an image by the inverse of ``crop_pct`` before they cut it.
    """
    if hasattr(processor, "merge_size"):
        return math.sqrt(abs(side))
    share = float(getattr(processor, "crop_pct", None) or 1.0)
    return side / share if setting == "size" else side
