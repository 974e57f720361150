"""Chooses the preparation of a network's images: of the settings, the processor or the layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PIL import Image

from mataserver import MataError
from mataserver_onnx import exporter_metadata, processor, timm_settings
from mataserver_onnx.layouts import LAYOUTS
from mataserver_onnx.options import Resize
from mataserver_onnx.preparation import (
    Geometry,
    Preparation,
    covered,
    cropped,
    cropped_from,
    fitted,
    stretched,
    table,
)
from mataserver_onnx.sizes import size_of

if TYPE_CHECKING:
    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.graph import Graph
    from mataserver_onnx.options import LayoutName, ModelOptions
    from mataserver_onnx.timm_settings import TimmSettings

    Size = tuple[int, int]

_UNCROPPED = frozenset[Resize]({"stretch", "letterbox", "corner"})
_ALLOWED_RESIZES: dict[str, frozenset[Resize]] = {
    **{
        name: _UNCROPPED
        for name, layout in LAYOUTS.items()
        if layout.resize in {"letterbox", "corner"}
    },
    **dict.fromkeys(timm_settings.LAYOUTS, _UNCROPPED | {"crop"}),
}
"""Resizing methods besides stretching, where the answer is about places or the whole image."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESCALE = {"plain": 1 / 255, "imagenet": 1 / 255, "bytes": 1.0}
_CROP_SHARE = 224 / 256
"""The share of a picture's side that torchvision's classifiers see."""


def choose(
    bundle: Bundle, layout: LayoutName, options: ModelOptions
) -> tuple[Preparation, Size | None]:
    """Return the preparation of images, and the (height, width) of all inputs, if it is fixed.

    ``preprocessor_config.json``, or what timm wrote, is used unless the settings state a
    preparation. Raises ``MataError`` when a needed size is not stated, or two contradict each
    other.
    """
    size = size_of(bundle, layout, options)
    if bundle.processor and not options.states_preparation:
        blue_first = None if options.channels == "auto" else options.channels == "bgr"
        made = processor.read(bundle.processor, size, blue_first=blue_first)
        if made.crops and "crop" not in _ALLOWED_RESIZES.get(layout, ()):
            raise MataError(
                f"the model's image processor cuts off parts of images, which does not go with "
                f"the layout {layout}: state resize and what else is to be done to pixels under "
                "plugins.onnx.models"
            )
        return made, size or made.fixed_size
    assert size is not None  # noqa: S101 - for the type checker: ``size_of`` ensures it
    described = timm_settings.find(bundle, layout, options)
    if described is not None:
        return _from_timm(described, size, flip=options.channels == "bgr"), size
    return _from_options(bundle.graph, layout, options, size), size


def _from_timm(given: TimmSettings, size: Size, *, flip: bool) -> Preparation:
    """Prepare as timm does in validation.

    Where the sides differ, it crops by a class of its own, to which it does not pass the filter.
    """
    whole = given.resized(size)
    squashed = Geometry(whole, size, rounded=True)
    uneven = whole[0] != whole[1]
    crop = covered(whole, size) if uneven else cropped_from(whole, size)
    usual = uneven and not given.squashes
    values = table(1 / 255, [(given.mean, given.std)])
    return Preparation(
        (lambda _height, _width: squashed) if given.squashes else crop,
        values[::-1] if flip else values,
        resample=Image.Resampling.BILINEAR if usual else given.resample,
        flip=flip,
    )


def _from_options(
    graph: Graph, layout: LayoutName, options: ModelOptions, size: Size
) -> Preparation:
    """Prepare as the settings state, and as is usual for the layout otherwise."""
    found = exporter_metadata.read(graph)
    ultralytics = layout == "classes" and found.task == "classify"
    usual = "plain" if ultralytics else LAYOUTS[layout].pixels
    flip = options.channels == "bgr" or (options.channels == "auto" and usual == "bytes")
    usual_mean, usual_std = (_MEAN, _STD) if usual == "imagenet" else ((0.0,) * 3, (1.0,) * 3)
    order = -1 if flip else 1
    mean, std = options.mean or usual_mean[::order], options.std or usual_std[::order]
    rescale = options.rescale if options.rescale is not None else _RESCALE[usual]
    resize = LAYOUTS[layout].resize if options.resize == "auto" else options.resize
    if resize not in _ALLOWED_RESIZES.get(layout, {"stretch"}):
        raise MataError(f"resize: {resize} does not go with the layout {layout}")
    boxed = resize in {"letterbox", "corner"}
    # Ultralytics and YOLOv5 crop the largest central square for classifiers.
    part = 1.0 if found.is_known_exporter or options.resize == "crop" else _CROP_SHARE
    plans = {"stretch": stretched(size), "crop": cropped(size, part)}
    return Preparation(
        fitted(size) if boxed else plans[resize],
        table(rescale, [(mean, std)]),
        flip=flip,
        letterbox=size if boxed else None,
        corner=resize == "corner",
    )
