"""What the outputs of a network mean, told by their names and shapes.

A layout is one way to read outputs; the README describes each. Shapes are those that the
exporters of the named projects write; what fits none, or several, must be stated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mataserver import MataError
from mataserver_onnx.labels import count as label_count

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mataserver_onnx.graph import Dim, Graph, Port
    from mataserver_onnx.options import LayoutName

TASKS: dict[LayoutName, str] = {
    "detr": "detect",
    "rt-detr": "detect",
    "rt-detr-deploy": "detect",
    "yolo-v5": "detect",
    "yolo-v8": "detect",
    "yolo-v10": "detect",
    "yolo-seg": "segment",
    "classes": "classify",
    "semantic": "segment",
    "depth": "depth",
    "vector": "embed",
}
"""The task of each layout."""

SIGMOID_FAMILIES = frozenset(
    {"conditional_detr", "d_fine", "deformable_detr", "rt_detr", "rt_detr_v2"}
)
SOFTMAX_FAMILIES = frozenset({"detr", "table-transformer", "yolos"})
"""Values of ``model_type``: whether the scores of a DETR are each for itself, or share."""

YOLO_SIDE = 640
"""The side of YOLO's input where neither the graph nor its metadata say it."""

_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
_MOST_FINISHED = 1000
_VECTORS = ("image_embeds", "pooler_output")


def image_input(graph: Graph) -> Port | None:
    """Return the input ``[batch, 3, height, width]``, or None.

    Some exporters leave the number of colours open as well.
    """
    squares = [port for port in graph.inputs if len(port.dims) == 4]
    open_ones = [port for port in squares if not isinstance(port.dims[1], int)]
    coloured = [port for port in squares if port.dims[1] == 3]
    return next(iter(coloured + open_ones), None)


def choose(
    graph: Graph, config: Mapping[str, Any], task: str, stated: LayoutName | None
) -> LayoutName:
    """Return the layout of a network for a task; ``stated`` by the settings, else recognised.

    Raises ``MataError`` when it is not recognised, or when what is stated does not fit.
    """
    if image_input(graph) is None:
        raise MataError(f"the network takes no image [batch, 3, height, width]: {_inputs(graph)}")
    if stated is not None:
        if TASKS[stated] != task:
            raise MataError(f"the layout {stated} is one for the task {TASKS[stated]}, not {task}")
        if not fits(graph, stated):
            raise MataError(f"the network's outputs are not those of {stated}: {_outputs(graph)}")
        return stated
    found = sorted(name for name in candidates(graph, config) if TASKS[name] == task)
    if len(found) == 1:
        return found[0]
    if found:
        reason = f"may be those of {' or '.join(found)}"
    else:
        known = ", ".join(name for name, its in TASKS.items() if its == task)
        reason = f"are not recognised (known for {task}: {known})"
    raise MataError(
        f"the network's outputs {reason}; state the layout under plugins.onnx.models: "
        f"{_outputs(graph)}"
    )


def candidates(graph: Graph, config: Mapping[str, Any]) -> frozenset[LayoutName]:
    """Return the layouts that a network's outputs may have; none when nothing is recognised."""
    if image_input(graph) is None:
        return frozenset()
    if fits(graph, "detr"):
        return _transformer(graph, config)
    named = _named(graph)
    if named is not None:
        return frozenset({named})
    return _unnamed(graph) if len(graph.outputs) == 1 else frozenset()


def _named(graph: Graph) -> LayoutName | None:
    """Recognise outputs that bear their exporters' usual names."""
    logits = graph.output("logits")
    if logits is not None:
        ranks: dict[int, LayoutName] = {2: "classes", 4: "semantic"}
        return ranks.get(len(logits.dims))
    signs: dict[LayoutName, bool] = {
        "rt-detr-deploy": fits(graph, "rt-detr-deploy"),
        "depth": graph.output("predicted_depth") is not None,
        "vector": any(graph.output(name) for name in (*_VECTORS, "last_hidden_state")),
        "yolo-seg": fits(graph, "yolo-seg"),
    }
    return next((name for name, seen in signs.items() if seen), None)


def fits(graph: Graph, layout: LayoutName) -> bool:
    """Whether the outputs have the ranks and names that a layout needs."""
    names = {port.name for port in graph.outputs}
    ranks = [len(port.dims) for port in graph.outputs]
    if layout in {"detr", "rt-detr"}:
        return {"logits", "pred_boxes"} <= names
    if layout == "rt-detr-deploy":
        sizes = any(port.name == "orig_target_sizes" for port in graph.inputs)
        return sizes and {"labels", "boxes", "scores"} <= names
    if layout == "yolo-seg":
        return ranks == [3, 4] and _masks(graph) is not None
    if layout == "vector":
        return vector_output(graph) is not None
    if layout == "depth":
        return depth_output(graph) is not None
    rank = {"classes": 2, "semantic": 4}.get(layout, 3)
    return any(len(port.dims) == rank for port in _main(graph))


def classes(graph: Graph, layout: LayoutName) -> int | None:
    """Return how many classes a network tells apart; None where its file does not say it."""
    if layout in {"yolo-v10", "rt-detr-deploy", "depth", "vector"}:
        return None
    port = _main(graph)[0]
    extra = {"detr": 1, "yolo-v5": 5, "yolo-v8": 4}.get(layout, 0)
    if layout == "yolo-seg":
        extra = 4 + (_masks(graph) or 0)
    axis = -1 if layout in {"detr", "rt-detr", "yolo-v5"} else 1
    side = port.dims[axis]
    return side - extra if isinstance(side, int) else None


def wanted(graph: Graph, layout: LayoutName) -> tuple[str, ...]:
    """Return the names of the outputs that are read, in the order in which they are."""
    if layout in {"detr", "rt-detr"}:
        return ("logits", "pred_boxes")
    if layout == "rt-detr-deploy":
        return ("labels", "boxes", "scores")
    if layout == "yolo-seg":
        return (graph.outputs[0].name, graph.outputs[1].name)
    finders = {"vector": vector_output, "depth": depth_output}
    port = finders[layout](graph) if layout in finders else None
    return ((port or _main(graph)[0]).name,)


def vector_output(graph: Graph) -> Port | None:
    """Return the output that is an image's vector, or whose first token is."""
    for name in (*_VECTORS, "last_hidden_state"):
        port = graph.output(name)
        if port is not None:
            return port
    [first, *others] = graph.outputs
    return first if not others and len(first.dims) == 2 else None


def depth_output(graph: Graph) -> Port | None:
    """Return the output that is a map ``[batch, h, w]`` or ``[batch, 1, h, w]``."""
    named = graph.output("predicted_depth")
    port = named or graph.outputs[0]
    flat = len(port.dims) == 3 or (len(port.dims) == 4 and port.dims[1] == 1)
    return port if flat else None


def _main(graph: Graph) -> tuple[Port, ...]:
    """Return the output with the classes, in a tuple; the only one where it has no usual name."""
    named = graph.output("logits")
    return (named,) if named is not None else graph.outputs[:1]


def _transformer(graph: Graph, config: Mapping[str, Any]) -> frozenset[LayoutName]:
    """Tell DETR, whose last class is "nothing", from those that score each class for itself."""
    family = str(config.get("model_type", ""))
    if family in SIGMOID_FAMILIES:
        return frozenset({"rt-detr"})
    if family in SOFTMAX_FAMILIES:
        return frozenset({"detr"})
    known, seen = label_count(graph, config), classes(graph, "rt-detr")
    if known is not None and seen is not None:
        if known == seen:
            return frozenset({"rt-detr"})
        if known == seen - 1:
            return frozenset({"detr"})
    return frozenset({"detr", "rt-detr"})


def _masks(graph: Graph) -> int | None:
    """Return how many prototypes of masks there are, if the second output holds some."""
    side = graph.outputs[1].dims[1]
    return side if isinstance(side, int) and side > 1 else None


def _unnamed(graph: Graph) -> frozenset[LayoutName]:
    """Recognise the only output of a network by its shape."""
    [port] = graph.outputs
    if len(port.dims) == 2:
        return frozenset({"classes", "vector"})
    if len(port.dims) == 4:
        return frozenset({"depth" if port.dims[1] == 1 else "semantic"})
    if len(port.dims) != 3:
        return frozenset()
    yolo = _yolo(graph, port)
    return yolo or frozenset({"depth"} if _is_map(graph, port) else ())


def _yolo(graph: Graph, port: Port) -> frozenset[LayoutName]:
    """Recognise YOLO by the number of places that it looks at, which its strides give."""
    rows, columns = port.dims[1:]
    anchors = set(_anchors(graph))
    found: LayoutName | None = None
    if columns in anchors and _above(rows, 4):
        found = "yolo-v8"
    elif rows in {3 * each for each in anchors} and _above(columns, 5):
        found = "yolo-v5"
    elif rows in anchors:
        found = None  # YOLOv6 or YOLOX: the one's boxes are finished, the other's are not
    elif columns == 6 and isinstance(rows, int) and rows <= _MOST_FINISHED:
        found = "yolo-v10"
    elif "stride" in graph.metadata:
        found = _yolo_of_any_size(rows, columns)
    return frozenset({found} if found else ())


def _yolo_of_any_size(rows: Dim, columns: Dim) -> LayoutName | None:
    """Recognise what Ultralytics, who note the stride, export for inputs of any size."""
    if _above(rows, 4) and not isinstance(columns, int):
        return "yolo-v8"
    if _above(columns, 6) and not isinstance(rows, int):
        return "yolo-v5"
    return None


def _above(side: Dim, least: int) -> bool:
    return isinstance(side, int) and side > least


def _anchors(graph: Graph) -> Iterable[int]:
    port = image_input(graph)
    height, width = port.dims[2:] if port is not None else ("", "")
    if isinstance(height, int) and isinstance(width, int):
        for strides in _STRIDES:
            yield sum((height // each) * (width // each) for each in strides)


def _is_map(graph: Graph, port: Port) -> bool:
    """Whether an output ``[batch, h, w]`` has the aspect ratio of the input, or any size."""
    given = image_input(graph)
    height, width = given.dims[2:] if given is not None else ("", "")
    h, w = port.dims[1:]
    if all(isinstance(side, int) for side in (height, width, h, w)):
        return int(height) * int(w) == int(width) * int(h)
    return not isinstance(h, int) and not isinstance(w, int)


def _outputs(graph: Graph) -> str:
    return "outputs " + ", ".join(_said(port) for port in graph.outputs[:8])


def _inputs(graph: Graph) -> str:
    return "inputs " + ", ".join(_said(port) for port in graph.inputs[:8])


def _said(port: Port) -> str:
    sides = ", ".join(str(side) if isinstance(side, int) else "?" for side in port.dims)
    return f"{port.name[:40]} [{sides}]"
