"""Which preparation a network's images get: the settings', the processor's, or the layout's."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from mataserver import MataError
from mataserver_onnx import processor
from mataserver_onnx.layouts import YOLO_SIDE, image_input
from mataserver_onnx.preparation import Preparation, cropped, fitted, stretched, table

if TYPE_CHECKING:
    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.graph import Graph
    from mataserver_onnx.options import LayoutName, ModelOptions, Resize

    Size = tuple[int, int]

_YOLO = frozenset({"yolo-v5", "yolo-v8", "yolo-v10", "yolo-seg"})
_PLAIN = _YOLO | {"rt-detr", "rt-detr-deploy"}
_POSSIBLE: dict[str, set[Resize]] = {
    **{name: {"stretch", "letterbox"} for name in _YOLO},
    "classes": {"stretch", "letterbox", "crop"},
    "vector": {"stretch", "letterbox", "crop"},
}
"""What may be done to images besides stretching, where the answer is about places or the whole."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MIDDLE = 224 / 256
"""The part of a picture that classifiers of torchvision are shown."""


def preparation(
    bundle: Bundle, layout: LayoutName, options: ModelOptions
) -> tuple[Preparation, Size | None]:
    """Return how images are prepared, and the (height, width) that all inputs then have, if any.

    ``preprocessor_config.json`` counts unless the settings say something about pixels. Raises
    ``MataError`` when a size is needed that nothing says, or two that contradict each other.
    """
    own = graph_size(bundle.graph)
    if bundle.processor and not options.states_pixels:
        made = processor.read(bundle.processor, own)
        return made, own or made.fixed
    if own and options.input_size not in {None, own}:
        raise MataError(
            f"input_size: the network takes images of {own[1]}x{own[0]} pixels and no others"
        )
    size = own or options.input_size or _usual_size(bundle.graph, layout)
    return _stated(bundle.graph, layout, options, size), size


def graph_size(graph: Graph) -> Size | None:
    """Return the only (height, width) that a network takes, or None when it takes any."""
    port = image_input(graph)
    height, width = port.dims[2:] if port is not None else ("", "")
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _usual_size(graph: Graph, layout: LayoutName) -> Size:
    """Return the size that the exporter noted, or YOLO's own."""
    try:
        noted = ast.literal_eval(graph.metadata.get("imgsz", "None"))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        noted = None
    if isinstance(noted, list) and len(noted) == 2 and all(isinstance(n, int) for n in noted):
        return noted[0], noted[1]
    if layout in _YOLO:
        return YOLO_SIDE, YOLO_SIDE
    raise MataError(
        "nothing says how large the network's images are: add its preprocessor_config.json, or "
        "state input_size under plugins.onnx.models"
    )


def _stated(graph: Graph, layout: LayoutName, options: ModelOptions, size: Size) -> Preparation:
    """Prepare as the settings say, and as is usual for the layout where they say nothing."""
    plain = layout in _PLAIN or (layout == "classes" and "stride" in graph.metadata)
    mean = options.mean or ((0.0, 0.0, 0.0) if plain else _MEAN)
    std = options.std or ((1.0, 1.0, 1.0) if plain else _STD)
    rescale = 1 / 255 if options.rescale is None else options.rescale
    resize = _usual_resize(layout) if options.resize == "auto" else options.resize
    if resize not in _POSSIBLE.get(layout, {"stretch"}):
        raise MataError(f"resize: {resize} does not go with the layout {layout}")
    part = 1.0 if plain or options.resize == "crop" else _MIDDLE
    plans = {
        "stretch": stretched(size),
        "letterbox": fitted(size),
        "crop": cropped(size, part),
    }
    return Preparation(
        plans[resize],
        table(rescale, [(mean, std)]),
        flip=options.channels == "bgr",
        letterbox=size if resize == "letterbox" else None,
    )


def _usual_resize(layout: LayoutName) -> Resize:
    if layout in _YOLO:
        return "letterbox"
    return "crop" if layout in {"classes", "vector"} else "stretch"
