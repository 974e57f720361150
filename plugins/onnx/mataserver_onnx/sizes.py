"""The size of a network's images, from its graph, the settings or its exporter.

Nothing is decoded here: registering a model uses this too, and needs no numpy for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mataserver import MataError
from mataserver_onnx import exporter_metadata, timm_settings
from mataserver_onnx.layouts import LAYOUTS
from mataserver_onnx.outputs import graph_size

if TYPE_CHECKING:
    from mataserver_onnx.bundle import Bundle
    from mataserver_onnx.options import LayoutName, ModelOptions

    Size = tuple[int, int]

YOLO_SIDE = 640
"""The side of YOLO's input where neither the graph nor its metadata state it."""


def size_of(bundle: Bundle, layout: LayoutName, options: ModelOptions) -> Size | None:
    """Return the fixed (height, width) of all images, or None where the processor sets each.

    Raises ``MataError`` when a needed size is not stated, or two contradict each other.
    """
    own = graph_size(bundle.graph)
    if bundle.processor and not options.states_preparation:
        return own
    if own and options.input_size not in {None, own}:
        raise MataError(
            f"input_size: the network takes images of {own[1]}x{own[0]} pixels and no others"
        )
    return own or options.input_size or _usual_size(bundle, layout)


def _usual_size(bundle: Bundle, layout: LayoutName) -> Size:
    """Return the size in the exporter's metadata, that of timm, or YOLO's default."""
    noted = exporter_metadata.read(bundle.graph).size
    if noted is not None:
        return noted
    described = timm_settings.size(bundle.config) if layout in timm_settings.LAYOUTS else None
    if described is not None:
        return described
    if LAYOUTS[layout].resize in {"letterbox", "corner"}:
        return YOLO_SIDE, YOLO_SIDE
    raise MataError(
        "nothing says how large the network's images are: add its preprocessor_config.json, or "
        "state input_size under plugins.onnx.models"
    )
