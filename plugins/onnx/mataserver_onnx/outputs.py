"""Which inputs and outputs of a network are read, and the meaning of their dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import MataError
from mataserver_onnx import ends, exporter_metadata, labels, yolo
from mataserver_onnx.graph import WHOLE_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver_onnx.graph import Dim, Graph, Port
    from mataserver_onnx.options import LayoutName, ModelOptions

    Size = tuple[int, int]

VECTORS = ("image_embeds", "pooler_output")
"""Outputs that hold an image's embedding."""

_OUTPUT_NAMES: dict[LayoutName, tuple[str, ...]] = {
    "detr": ("logits", "pred_boxes"),
    "rt-detr": ("logits", "pred_boxes"),
    "rt-detr-deploy": ("labels", "boxes", "scores"),
    "rf-detr": ("dets", "labels"),
    "rf-detr-seg": ("dets", "labels", "masks"),
}
"""The outputs of the layouts that are read by name."""


def image_input(graph: Graph) -> Port | None:
    """Return the input ``[batch, 3, height, width]`` or ``[batch, height, width, 3]``, or None.

    Some exporters leave the number of channels open as well.
    """
    squares = [port for port in graph.inputs if len(port.dims) == 4]
    coloured = [port for port in squares if port.dims[1] == 3]
    last = [port for port in squares if channels_last(port)]
    open_ones = [port for port in squares if not isinstance(port.dims[1], int)]
    return next(iter(coloured + last + open_ones), None)


def channels_last(port: Port) -> bool:
    """Whether the input's channels come last, as in TensorFlow."""
    return port.dims[1] != 3 and port.dims[-1] == 3


def graph_size(graph: Graph) -> Size | None:
    """Return the fixed (height, width) of a network's input, or None when it takes any."""
    port = image_input(graph)
    if port is None:
        return None
    height, width = port.dims[1:3] if channels_last(port) else port.dims[2:]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def stated_metadata(graph: Graph, options: ModelOptions) -> exporter_metadata.ExporterMetadata:
    """Return a network's metadata, overridden by the settings."""
    found = exporter_metadata.read(graph)
    return found._replace(keypoints=options.keypoints or found.keypoints)


def fits(graph: Graph, layout: LayoutName) -> bool:
    """Whether the outputs have the ranks and names of a layout."""
    if layout in yolo.FORMS:
        found = yolo.find_outputs(graph)
        masks = yolo.FORMS[layout].task == "segment"
        return found is not None and masks == (found.prototypes is not None)
    if layout in _OUTPUT_NAMES:
        ports = [graph.output(name) for name in _OUTPUT_NAMES[layout]]
        return None not in ports and _fits_named(graph, layout)
    if layout == "vector":
        return vector_output(graph) is not None
    if layout == "depth":
        return depth_output(graph) is not None
    if layout == "classes":
        return bool(class_outputs(graph))
    return any(
        len(port.dims) == 4 and port.kind not in WHOLE_NUMBERS and not classes_last(graph, port)
        for port in _main_output(graph)
    )


def classes_last(graph: Graph, port: Port) -> bool:
    """Whether an output ``[batch, h, w, C]`` has the classes of a pixel last, as in TensorFlow.

    Its places are the input's or open, and the number of classes is not.
    """
    first, second, last = port.dims[1:]
    if isinstance(last, int) and not isinstance(first, int) and not isinstance(second, int):
        return True
    size = graph_size(graph)
    return size is not None and (first, second) == size and last != size[1]


def _fits_named(graph: Graph, layout: LayoutName) -> bool:
    """Whether outputs of a layout's names are this layout's, and not another project's."""
    if layout == "rt-detr-deploy":
        return any(port.name == "orig_target_sizes" for port in graph.inputs)
    if layout in {"rf-detr", "rf-detr-seg"}:
        boxes, scores = graph.output("dets"), graph.output("labels")
        ranks = [len(port.dims) for port in (boxes, scores) if port is not None]
        whole = layout == "rf-detr-seg" or graph.output("masks") is None
        return whole and ranks == [3, 3] and boxes is not None and boxes.dims[2] in {4, ""}
    return all(len(port.dims) == 3 for port in graph.outputs if port.name in _OUTPUT_NAMES[layout])


def class_count(
    graph: Graph, config: Mapping[str, Any], layout: LayoutName, options: ModelOptions
) -> int | None:
    """Return the number of a network's classes; None where its file does not state it."""
    if layout in {"rt-detr-deploy", "depth", "vector"}:
        return None
    if layout in yolo.FORMS:
        return _yolo_class_count(graph, layout, options)
    if layout in {"rf-detr", "rf-detr-seg"}:
        port = graph.output("labels")
    elif layout == "classes":
        port = class_output(graph, config, options)
    else:
        port = _main_output(graph)[0]
    axis = 1 if layout in {"classes", "semantic"} else -1
    side = port.dims[axis] if port is not None else None
    return side - int(layout == "detr") if isinstance(side, int) else None


def _yolo_class_count(graph: Graph, layout: LayoutName, options: ModelOptions) -> int | None:
    """Return the number of classes. Raises ``MataError`` for an answer too short for one."""
    form, found = yolo.FORMS[layout], yolo.find_outputs(graph)
    if found is None or not form.has_classes:
        return None
    width, more = yolo.answer_width(form, found.port), tail(graph, layout, options)
    if not isinstance(width, int):
        return None
    count = width - form.fixed - more
    if count < 1:
        others = f"{form.fixed + more} others"
        if more:
            kind = "a mask" if form.task == "segment" else "keypoints"
            others += f", {more} of them for {kind}"
        hint = "keypoints, or another layout," if form.task == "pose" else "another layout"
        raise MataError(
            f"{yolo.describe_outputs(graph)} have no number of a class: an answer of {layout} has "
            f"{others}; state {hint} under plugins.onnx.models"
        )
    return count


def tail(graph: Graph, layout: LayoutName, options: ModelOptions) -> int:
    """Return how many trailing numbers of an answer belong to its mask or keypoints."""
    found = yolo.find_outputs(graph)
    form = yolo.FORMS.get(layout)
    if found is None or form is None:
        return 0
    return yolo.tail(form, found, keypoints(graph, options))


def objectness_is_score(graph: Graph, layout: LayoutName, classes: int | None) -> bool:
    """Whether a score is the objectness alone, and not times the class's number.

    YOLOv7 does not train the number of an only class, and ignores it. YOLOv5, which multiplies by
    it, writes metadata.
    """
    if layout not in {"yolo-v5", "yolo-v5-seg"} or classes != 1:
        return False
    return not exporter_metadata.read(graph).is_known_exporter


def keypoints(graph: Graph, options: ModelOptions) -> tuple[int, int]:
    """Return the number of keypoints of an instance, and of numbers for each; COCO's by default."""
    return stated_metadata(graph, options).keypoints or yolo.COCO_PERSON


def output_names(
    graph: Graph, config: Mapping[str, Any], layout: LayoutName, options: ModelOptions
) -> tuple[str, ...]:
    """Return the names of the outputs that are read, in the layout's order.

    Raises ``MataError`` where several may hold the answer.
    """
    if layout in _OUTPUT_NAMES:
        return _OUTPUT_NAMES[layout]
    if layout in yolo.FORMS:
        found = yolo.find_outputs(graph)
        ports = [found.port, found.prototypes] if found is not None else []
        return tuple(port.name for port in ports if port is not None)
    if options.output:
        if graph.output(options.output) is None:
            raise MataError(f"output: the network has none called {options.output[:40]}")
        return (options.output,)
    if layout == "classes":
        return (class_output(graph, config, options).name,)
    finders = {"vector": vector_output, "depth": depth_output}
    port = finders[layout](graph) if layout in finders else None
    return ((port or _main_output(graph)[0]).name,)


def class_output(graph: Graph, config: Mapping[str, Any], options: ModelOptions) -> Port:
    """Return the output with a number for each class.

    Of several it is the one called "logits", or the only one with as many numbers as there are
    names, or that ends in probabilities. Raises ``MataError`` where that is none or several.
    """
    found = class_outputs(graph)
    stated = graph.output(options.output) if options.output else graph.output("logits")
    if stated in found:
        return stated
    known = labels.count(graph, config)
    for choice in (
        found,
        [port for port in found if port.dims[1] == known],
        [port for port in found if ends.activation_of(graph.ends.get(port.name, ()))],
    ):
        if len(choice) == 1:
            return choice[0]
    raise MataError(
        f"{yolo.describe_outputs(graph)} may each hold the classes: state output under "
        "plugins.onnx.models"
    )


def class_outputs(graph: Graph) -> list[Port]:
    """Return the outputs ``[batch, classes]``, with or without trailing dimensions of 1.

    Outputs with the best classes only are left out.
    """
    return [
        port
        for port in graph.outputs
        if len(port.dims) >= 2
        and all(side == 1 for side in port.dims[2:])
        and port.kind not in WHOLE_NUMBERS
        and not ends.selects_best(graph.ends.get(port.name, ()))
    ]


def named_vector(graph: Graph) -> Port | None:
    """Return the output called as embeddings are; a map of a convolutional network has no token."""
    ports = [graph.output(name) for name in (*VECTORS, "last_hidden_state")]
    port = next((each for each in ports if each is not None), None)
    if port is None or len(port.dims) <= 3:
        return port
    pooled = all(side == 1 or not isinstance(side, int) for side in port.dims[2:])
    return port if port.name in VECTORS and pooled else None


def check_class_token(tokens: Dim, size: Size | None) -> None:
    """Raise ``MataError`` when a network has no token besides those of an image's patches.

    The first would be the vector of the upper left corner, as in SigLIP and Swin.
    """
    if size is None or not isinstance(tokens, int) or tokens == 1:
        return
    height, width = size
    sides = (side for side in range(2, min(size) + 1) if not (height % side or width % side))
    if any((height // side) * (width // side) == tokens for side in sides):
        raise MataError(
            f"the network gives {tokens} vectors, one for each patch of the image, and none for "
            "the whole: export it with pooler_output or image_embeds"
        )


def vector_output(graph: Graph) -> Port | None:
    """Return the output that is an image's embedding, or whose first token is."""
    named = named_vector(graph)
    if named is not None:
        return named
    [first, *others] = graph.outputs
    return first if not others and len(first.dims) == 2 else None


def depth_output(graph: Graph) -> Port | None:
    """Return the output that is a map ``[batch, h, w]`` or ``[batch, 1, h, w]``."""
    named = graph.output("predicted_depth")
    port = named or graph.outputs[0]
    flat = len(port.dims) == 3 or (len(port.dims) == 4 and port.dims[1] == 1)
    return port if flat else None


def _main_output(graph: Graph) -> tuple[Port, ...]:
    """Return the output called "logits", else the first, as a tuple of one."""
    named = graph.output("logits")
    return (named,) if named is not None else graph.outputs[:1]


def check_labels(names: labels.Labels, count: int, layout: LayoutName) -> None:
    """Raise ``MataError`` when there are names, but not for so many classes.

    RF-DETR has an output for one class more than it was trained for.
    """
    names.check(count, spare=int(layout in {"rf-detr", "rf-detr-seg"}))
