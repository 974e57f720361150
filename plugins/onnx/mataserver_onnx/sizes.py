"""How large the images of a network are: as its graph, the settings or its exporter say.

Nothing is decoded here: whoever registers a model asks this too, and needs no numpy for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import MataError
from mataserver_onnx import notes
from mataserver_onnx.layouts import LAYOUTS
from mataserver_onnx.outputs import graph_size

if TYPE_CHECKING:
    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.graph import Graph
    from mataserver_onnx.options import LayoutName, ModelOptions

    Size = tuple[int, int]

YOLO_SIDE = 640
"""The side of YOLO's input where neither the graph nor its metadata say it."""


def size_of(bundle: Bundle, layout: LayoutName, options: ModelOptions) -> Size | None:
    """Return the (height, width) of all images, None where the model's processor finds each one's.

    Raises ``MataError`` when a size is needed that nothing says, or two contradict each other.
    """
    own = graph_size(bundle.graph)
    if bundle.processor and not options.states_pixels:
        return own
    if own and options.input_size not in {None, own}:
        raise MataError(
            f"input_size: the network takes images of {own[1]}x{own[0]} pixels and no others"
        )
    return own or options.input_size or _usual_size(bundle.graph, layout)


def _usual_size(graph: Graph, layout: LayoutName) -> Size:
    """Return the size that the exporter noted, or YOLO's own."""
    noted = notes.read(graph).size
    if noted is not None:
        return noted
    if LAYOUTS[layout].resize in {"letterbox", "corner"}:
        return YOLO_SIDE, YOLO_SIDE
    raise MataError(
        "nothing says how large the network's images are: add its preprocessor_config.json, or "
        "state input_size under plugins.onnx.models"
    )
