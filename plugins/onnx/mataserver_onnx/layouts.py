"""Determines the layout of a network's outputs, by its metadata, then by their names and shapes.

A layout is one way to read outputs; the README describes each. Shapes are those that the exporters
of the named projects write; outputs that fit none, or several, must be stated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mataserver import MataError
from mataserver_onnx import ends, labels, outputs, yolo
from mataserver_onnx.graph import FLOAT, FLOAT16, WHOLE_NUMBERS
from mataserver_onnx.options import ModelOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mataserver_onnx.exporter_metadata import ExporterMetadata
    from mataserver_onnx.graph import Graph, Port
    from mataserver_onnx.options import LayoutName, Resize


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to read outputs, and the usual preparation of pictures for such networks.

    task:   the task that it serves.
    resize: how a picture becomes the input's size; "corner" is a letterbox in the upper left.
    pixels: "plain" are 0..1, "bytes" 0..255; "imagenet" are normalised by ImageNet's mean and
            deviation.
    """

    task: str
    resize: Resize = "stretch"
    pixels: Literal["plain", "bytes", "imagenet"] = "imagenet"


_YOLO: tuple[Resize, Literal["plain"]] = ("letterbox", "plain")
_YOLOX: tuple[Resize, Literal["bytes"]] = ("corner", "bytes")

LAYOUTS: dict[LayoutName, Layout] = {
    "detr": Layout("detect"),
    "rt-detr": Layout("detect", pixels="plain"),
    "rt-detr-deploy": Layout("detect", pixels="plain"),
    "rt-detr-ultralytics": Layout("detect", pixels="plain"),
    "rf-detr": Layout("detect"),
    "rf-detr-seg": Layout("segment"),
    "yolo-v5": Layout("detect", *_YOLO),
    "yolo-v5-seg": Layout("segment", *_YOLO),
    "yolo-v6": Layout("detect", *_YOLO),
    "yolo-v8": Layout("detect", *_YOLO),
    "yolo-v8-rows": Layout("detect", *_YOLO),
    "yolo-seg": Layout("segment", *_YOLO),
    "yolo-pose": Layout("pose", *_YOLO),
    "yolo-obb": Layout("detect", *_YOLO),
    "yolo-v10": Layout("detect", *_YOLO),
    "yolo-v26-seg": Layout("segment", *_YOLO),
    "yolo-v26-pose": Layout("pose", *_YOLO),
    "yolo-v26-obb": Layout("detect", *_YOLO),
    "yolox": Layout("detect", *_YOLOX),
    "yolox-decoded": Layout("detect", *_YOLOX),
    "classes": Layout("classify", "crop"),
    "semantic": Layout("segment"),
    "depth": Layout("depth"),
    "vector": Layout("embed", "crop"),
}
"""The layouts."""

_MOST_PIXELS = 2**26
"""How many pixels a network's input may have, 8192x8192: those of a file are taken at its word."""

TASKS: dict[LayoutName, str] = {name: layout.task for name, layout in LAYOUTS.items()}
"""The task of each layout."""

SIGMOID_FAMILIES = frozenset(
    {
        "conditional_detr",
        "d_fine",
        "deformable_detr",
        "lw_detr",
        "rf_detr",
        "rt_detr",
        "rt_detr_v2",
    }
)
SOFTMAX_FAMILIES = frozenset({"detr", "table-transformer", "yolos"})
"""Values of ``model_type``: whether the scores of a DETR are independent, or a softmax."""


def choose(graph: Graph, config: Mapping[str, Any], task: str, options: ModelOptions) -> LayoutName:
    """Return the layout of a network for a task: that of the settings, else the recognised one.

    Raises ``MataError`` when the network takes no image, or one of whole numbers, when its outputs
    are not recognised, are ambiguous or contradict the metadata, and when the stated layout does
    not fit.
    """
    port = outputs.image_input(graph)
    if port is None:
        raise MataError(f"the network takes no image [batch, 3, height, width]: {_inputs(graph)}")
    if port.kind not in {FLOAT, FLOAT16}:
        raise MataError("the network's input is not of 16- or 32-bit floating point numbers")
    size = outputs.graph_size(graph)
    if size is not None and not 0 < size[0] * size[1] <= _MOST_PIXELS:
        raise MataError(f"the network takes images of {size[1]}x{size[0]} pixels alone: {port}")
    stated = options.layout
    if stated is not None:
        if TASKS[stated] != task:
            raise MataError(f"the layout {stated} is for the task {TASKS[stated]}, not {task}")
        if not outputs.fits(graph, stated):
            raise MataError(
                f"the network's outputs are not those of {stated}: {yolo.describe_outputs(graph)}"
            )
        return stated
    found = sorted(name for name in candidates(graph, config, options) if TASKS[name] == task)
    if len(found) == 1:
        return found[0]
    if found:
        reason = f"may be those of {' or '.join(found)}"
    else:
        known = ", ".join(name for name, its in TASKS.items() if its == task)
        reason = f"are not recognised (known for {task}: {known})"
    raise MataError(
        f"the network's outputs {reason}; {yolo.STATE_HINT}: {yolo.describe_outputs(graph)}"
    )


def serves(graph: Graph, config: Mapping[str, Any], task: str, options: ModelOptions) -> bool:
    """Whether a network is for a task, by its file and the settings.

    Raises ``MataError`` as ``choose``, unless it is certainly for another task.
    """
    if options.layout is not None:
        tasks = {TASKS[options.layout]}
    else:
        tasks = {TASKS[name] for name in candidates(graph, config, options)}
    if tasks and task not in tasks:
        return False
    layout = choose(graph, config, task, options)
    check_labels(graph, config, layout, options)
    if layout == "vector":
        [name] = outputs.output_names(graph, config, layout, options)
        port = graph.output(name)
        tokens = port.dims[1] if port is not None and len(port.dims) == 3 else 1
        outputs.check_class_token(tokens, outputs.graph_size(graph))
    return True


def check_labels(
    graph: Graph, config: Mapping[str, Any], layout: LayoutName, options: ModelOptions
) -> None:
    """Raise ``MataError`` when the file has names, but for another number of classes."""
    count = outputs.class_count(graph, config, layout, options)
    if count is not None and not options.labels:
        outputs.check_labels(labels.find(graph, config, None), count, layout)


def candidates(
    graph: Graph, config: Mapping[str, Any], options: ModelOptions | None = None
) -> frozenset[LayoutName]:
    """Return the layouts that a network's outputs may have; none when nothing is recognised.

    Several are of different tasks, or only the settings can decide between them. Raises
    ``MataError`` as ``yolo.recognise``.
    """
    options = options or ModelOptions()
    if outputs.image_input(graph) is None:
        return frozenset()
    if outputs.fits(graph, "detr"):
        return _detr_layouts(graph, config)
    named = _by_name(graph)
    if named is not None:
        return frozenset({named})
    known = outputs.stated_metadata(graph, options)
    found = yolo.recognise(graph, known, outputs.graph_size(graph) or known.size)
    if found is not None:
        return frozenset({found})
    if known.is_known_exporter and known.task:
        return _metadata_task(graph, known)
    return _by_shape(graph)


def _by_name(graph: Graph) -> LayoutName | None:
    """Recognise outputs with their exporters' usual names."""
    logits = graph.output("logits")
    if logits is not None:
        if len(logits.dims) == 4 and not outputs.fits(graph, "semantic"):
            return None
        ranks: dict[int, LayoutName] = {2: "classes", 4: "semantic"}
        return ranks.get(len(logits.dims))
    signs: dict[LayoutName, bool] = {
        "rt-detr-deploy": outputs.fits(graph, "rt-detr-deploy"),
        "rf-detr-seg": outputs.fits(graph, "rf-detr-seg"),
        "rf-detr": outputs.fits(graph, "rf-detr"),
        "depth": graph.output("predicted_depth") is not None,
        "vector": outputs.named_vector(graph) is not None,
    }
    return next((name for name, seen in signs.items() if seen), None)


def _metadata_task(graph: Graph, known: ExporterMetadata) -> frozenset[LayoutName]:
    """Return the layout for a task in the metadata that is not a task of YOLO's detectors."""
    if known.task == "classify" and outputs.fits(graph, "classes"):
        return frozenset({"classes"})
    raise MataError(
        f"its metadata says {known}, but {yolo.describe_outputs(graph)}; {yolo.STATE_HINT}"
    )


def _detr_layouts(graph: Graph, config: Mapping[str, Any]) -> frozenset[LayoutName]:
    """Distinguish DETR, whose last class is "nothing", from families with independent scores."""
    family = str(config.get("model_type", ""))
    if family in SIGMOID_FAMILIES:
        return frozenset({"rt-detr"})
    if family in SOFTMAX_FAMILIES:
        return frozenset({"detr"})
    port = graph.output("logits")
    known, seen = labels.count(graph, config), port.dims[-1] if port is not None else None
    if known is not None and isinstance(seen, int):
        if known == seen:
            return frozenset({"rt-detr"})
        if known == seen - 1:
            return frozenset({"detr"})
    return frozenset({"detr", "rt-detr"})


def _by_shape(graph: Graph) -> frozenset[LayoutName]:
    """Recognise outputs by their shapes alone."""
    if len(graph.outputs) > 1:
        # Besides the classes: the index of the best one, or their feature vector.
        flat = all(len(p.dims) == 2 or p.kind in WHOLE_NUMBERS for p in graph.outputs)
        return frozenset({"classes"} if flat and outputs.class_outputs(graph) else ())
    [port] = graph.outputs
    if len(port.dims) == 2:
        return _vector_layouts(graph, port)
    if port.kind in WHOLE_NUMBERS:  # a class index per pixel, not a depth
        return frozenset()
    if len(port.dims) == 4:
        return _map_layouts(graph, port)
    return frozenset({"depth"} if len(port.dims) == 3 and _is_map(graph, port) else ())


def _map_layouts(graph: Graph, port: Port) -> frozenset[LayoutName]:
    """Recognise one output ``[batch, C, h, w]``."""
    if port.dims[2:] == (1, 1):
        return frozenset({"classes"})
    if outputs.classes_last(graph, port):
        return frozenset()
    if not _covers_input(graph, port):  # such as SSD's boxes [1, 1, 200, 7]
        return frozenset()
    return frozenset({"depth" if port.dims[1] == 1 else "semantic"})


def _vector_layouts(graph: Graph, port: Port) -> frozenset[LayoutName]:
    """Recognise one output ``[batch, numbers]``."""
    if not outputs.class_outputs(graph):
        return frozenset()  # the index of the best class, or the best scores
    shares = ends.activation_of(graph.ends.get(port.name, ())) == "softmax"
    return frozenset({"classes"} if shares else {"classes", "vector"})


def _is_map(graph: Graph, port: Port) -> bool:
    """Whether an output ``[batch, h, w]`` has the aspect ratio of the input, or any size."""
    size = outputs.graph_size(graph)
    h, w = port.dims[1:]
    if size is not None and isinstance(h, int) and isinstance(w, int):
        return size[0] * w == size[1] * h
    return not isinstance(h, int) and not isinstance(w, int)


def _covers_input(graph: Graph, port: Port) -> bool:
    """Whether an output ``[batch, C, h, w]`` may be a map of the input, of any resolution.

    Its sides are the input's, divided by one number and rounded; or they are unknown.
    """
    size = outputs.graph_size(graph)
    h, w = port.dims[2:]
    if size is None or not isinstance(h, int) or not isinstance(w, int):
        return True
    return size[0] * (w - 1) < size[1] * (h + 1) and size[1] * (h - 1) < size[0] * (w + 1)


def _inputs(graph: Graph) -> str:
    return "inputs " + ", ".join(map(str, graph.inputs[:8]))
