"""Which preparation a network's images get: the settings', the processor's, or the layout's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import MataError
from mataserver_onnx import notes, processor
from mataserver_onnx.layouts import LAYOUTS
from mataserver_onnx.options import Resize
from mataserver_onnx.preparation import Preparation, cropped, fitted, stretched, table
from mataserver_onnx.sizes import size_of

if TYPE_CHECKING:
    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.graph import Graph
    from mataserver_onnx.options import LayoutName, ModelOptions

    Size = tuple[int, int]

_WHOLE = frozenset[Resize]({"stretch", "letterbox", "corner"})
_POSSIBLE: dict[str, frozenset[Resize]] = {
    **{
        name: _WHOLE for name, layout in LAYOUTS.items() if layout.resize in {"letterbox", "corner"}
    },
    "classes": _WHOLE | {"crop"},
    "vector": _WHOLE | {"crop"},
}
"""What may be done to images besides stretching, where the answer is about places or the whole."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESCALE = {"plain": 1 / 255, "imagenet": 1 / 255, "bytes": 1.0}
_MIDDLE = 224 / 256
"""The part of a picture that classifiers of torchvision are shown."""


def preparation(
    bundle: Bundle, layout: LayoutName, options: ModelOptions
) -> tuple[Preparation, Size | None]:
    """Return how images are prepared, and the (height, width) that all inputs then have, if any.

    ``preprocessor_config.json`` counts unless the settings say something about pixels. Raises
    ``MataError`` when a size is needed that nothing says, or two that contradict each other.
    """
    size = size_of(bundle, layout, options)
    if bundle.processor and not options.states_pixels:
        made = processor.read(bundle.processor, size)
        if made.cuts and "crop" not in _POSSIBLE.get(layout, ()):
            raise MataError(
                f"the model's image processor cuts off parts of images, which does not go with "
                f"the layout {layout}: state resize and what else is to be done to pixels under "
                "plugins.onnx.models"
            )
        return made, size or made.fixed
    assert size is not None  # noqa: S101 - for the type checker: ``size_of`` saw to it
    return _stated(bundle.graph, layout, options, size), size


def _stated(graph: Graph, layout: LayoutName, options: ModelOptions, size: Size) -> Preparation:
    """Prepare as the settings say, and as is usual for the layout where they say nothing."""
    found = notes.read(graph)
    ultralytics = layout == "classes" and found.task == "classify"
    usual = "plain" if ultralytics else LAYOUTS[layout].pixels
    normalised = usual == "imagenet"
    mean = options.mean or (_MEAN if normalised else (0.0, 0.0, 0.0))
    std = options.std or (_STD if normalised else (1.0, 1.0, 1.0))
    rescale = options.rescale if options.rescale is not None else _RESCALE[usual]
    resize = LAYOUTS[layout].resize if options.resize == "auto" else options.resize
    if resize not in _POSSIBLE.get(layout, {"stretch"}):
        raise MataError(f"resize: {resize} does not go with the layout {layout}")
    boxed = resize in {"letterbox", "corner"}
    # Ultralytics, and YOLOv5 before it, show classifiers the largest square in the middle.
    part = 1.0 if found.own or options.resize == "crop" else _MIDDLE
    plans = {"stretch": stretched(size), "crop": cropped(size, part)}
    return Preparation(
        fitted(size) if boxed else plans[resize],
        table(rescale, [(mean, std)]),
        flip=options.channels == "bgr" or (options.channels == "auto" and usual == "bytes"),
        letterbox=size if boxed else None,
        corner=resize == "corner",
    )
